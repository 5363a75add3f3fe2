"""Memory that is predicted: by hand where that is possible, and the largest batch beside its neighbours."""

from __future__ import annotations

import pytest

from plumbline.harness.needs import FRAMEWORK, LOADING, RUNNING, SESSION, Needs, Unpredicted, largest_batch
from tests.records import cell_of, replace


def test_a_net_of_many_weights_needs_most_while_it_is_loaded() -> None:
    """VGG-16: 138,357,544 parameters of 4 bytes, twice."""
    found = Needs.of(cell_of("vgg16", image_size=224))
    assert found.weights == 4 * 138_357_544
    assert found.process == round(FRAMEWORK + 2 * found.weights + LOADING)
    half = Needs.of(cell_of("vgg16", precision="bf16", image_size=224))
    assert (half.weights, half.process) == (found.weights // 2, found.process)  # they are loaded in fp32


def test_a_large_batch_needs_most_while_it_runs() -> None:
    """Two results of the first stage of VGG-16 are there at the same time: 64 channels of 224 x 224 numbers, of each picture."""
    found = Needs.of(cell_of("vgg16", batch=64, image_size=224), framework=0.0)
    assert found.inference >= 2 * 64 * 64 * 224 * 224 * 4
    assert found.process == round(found.weights + 64 * 3 * 224 * 224 * 4 + found.inference + RUNNING)


def test_what_onnx_runtime_and_openvino_need_by_hand() -> None:
    """VGG-16 at batch 4: weights, those of its convolutions, pictures, and two results of its first stage."""
    weights, kernels, pictures = 4 * 138_357_544, 4 * 14_710_464, 4 * 3 * 224 * 224 * 4
    live = 2 * 4 * 64 * 224 * 224 * 4
    of = {name: Needs.of(cell_of("vgg16", runtime=name, batch=4, image_size=224), framework=0.0) for name in SESSION}
    assert {name: found.inference for name, found in of.items()} == {"onnxruntime": live, "openvino": live}
    assert of["onnxruntime"].process == round(SESSION["onnxruntime"] + 2 * weights + kernels)  # while it loads
    assert of["openvino"].process == round(SESSION["openvino"] + 2 * weights + pictures + live)
    large = Needs.of(cell_of("vgg16", runtime="onnxruntime", batch=64, image_size=224), framework=0.0)
    assert large.process == round(SESSION["onnxruntime"] + weights + 16 * pictures + 2 * 16 * live)  # while it runs


@pytest.mark.parametrize(
    ("name", "size", "limit"), [("vgg16", 224, 2_600_000_000), ("mlp", 28, 10**12), ("resnet50", 160, 1_500_000_000)]
)
def test_the_largest_batch(name: str, size: int, limit: int) -> None:
    cell = cell_of(name, image_size=size)
    found = largest_batch(cell, limit)
    assert found is not None
    assert Needs.of(replace(cell, batch=found)).process <= limit
    assert found >= 1024 or Needs.of(replace(cell, batch=found + 1)).process > limit


def test_what_does_not_fit_at_all() -> None:
    assert largest_batch(cell_of("vgg16", image_size=224), 1_000_000_000) is None


@pytest.mark.parametrize(
    "axes",
    [
        {"runtime": "compiled"},
        {"runtime": "onnxruntime", "precision": "int8-static"},
        {"runtime": "onnxruntime+arena=off"},
        {"variant": "filter50"},
        {"precision": "w8"},
        {"target": "cuda"},
        {"model": "ssdlite320_mobilenet_v3_large", "image_size": 320},
    ],
)
def test_what_is_not_predicted(axes: dict[str, object]) -> None:
    with pytest.raises(
        Unpredicted, match=r"memory is predicted of a dense net in eager|expected a torch net that takes pictures"
    ):
        Needs.of(replace(cell_of("mlp"), **axes))
