"""What a device allows before anything runs: by hand for one cell, without torch, and what is refused by name."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness import devices
from plumbline.harness.needs import Needs
from plumbline.harness.readings import Reading, read
from plumbline.harness.roofline import fewer
from plumbline.harness.session.matrix import MatrixError
from plumbline.harness.studies import ceilings
from tests.conftest import where
from tests.records import cell_of, record_of

DEVICES = devices.known()
NONE: dict[str, list[Any]] = {"variant": [], "precision": [], "batch": [], "image_size": []}


def test_a_nano_and_an_mlp_by_hand() -> None:
    """2,910,208 MACs at 118 GMAC/s take 24.7 us; 2,913,290 weights of 4 bytes less 256 KiB at 25.6 GB/s take 445 us."""
    found = ceilings.of(cell_of("mlp", image_size=28), DEVICES["jetson-nano"], memory=False)
    assert found.bound.compute_s == pytest.approx(2_910_208 / 118e9)
    assert found.bound.bandwidth_s == pytest.approx((4 * 2_913_290 - 262_144) / 25.6e9, rel=0.01)
    assert found.bound.seconds == found.bound.bandwidth_s
    assert (found.needs, found.fits, found.has) == (None, None, 2_600_000_000)


def test_a_convolution_may_be_done_with_fewer_multiplications() -> None:
    """VGG-16 at batch 1 takes 15.5 GMAC on 118 GMAC/s at most, and by the best algorithm known a fraction of it at least."""
    found = ceilings.of(cell_of("vgg16", image_size=224), DEVICES["jetson-nano"], memory=False).bound.compute_s
    assert found is not None
    assert 15.47e9 / fewer(3) / 118e9 < found < 15.47e9 / 118e9


def test_whether_it_fits() -> None:
    cell, nano = cell_of("vgg16", batch=128, image_size=224), DEVICES["jetson-nano"]
    large = ceilings.of(cell, nano)
    assert large.fits is False
    assert large.largest is not None
    assert Needs.of(cell_of("vgg16", batch=large.largest, image_size=224)).process <= 2.6e9
    assert ceilings.of(cell_of("mlp"), nano).fits is True


def test_storage_is_put_beside_what_weights_take() -> None:
    """VGG-16 has 138,357,544 weights, ResNet-50 25,557,032: 656 MB. Each net counts once, whatever its batch."""
    cells = [cell_of("vgg16", image_size=224), cell_of("vgg16", image_size=224, batch=8), cell_of("resnet50", image_size=224)]
    found = [ceilings.of(cell, DEVICES[name], memory=False) for cell in cells for name in ("jetson-nano", "jetson-tx2")]
    lines = ceilings.table(found, "simple").splitlines()
    assert any(
        line.startswith("- storage that is built in: Jetson Nano 4 GB 16.0 GB; weights of 2 nets: 656 MB") for line in lines
    )
    assert any(line.startswith("- unknown: the storage of Jetson TX2; storage_bytes") for line in lines)


@pytest.mark.parametrize(
    ("cell", "device", "words"),
    [
        (cell_of("mlp", precision="bf16"), "jetson-nano", "no peak rate of Jetson Nano 4 GB, 10W or 5W in bf16 is known"),
        (cell_of("mlp", variant="filter50"), "jetson-nano", "what a variant leaves of a net is known when it is made"),
        (
            cell_of("ssdlite320_mobilenet_v3_large", image_size=320),
            "jetson-nano",
            "has no formula, and is counted where memory is asked for, too",
        ),
        (cell_of("mlp"), "rtx-3070", "how much memory GeForce RTX 3070 has for programs is not known"),
    ],
)
def test_what_is_not_known_is_refused_by_name(cell: object, device: str, words: str) -> None:
    found = ceilings.of(cell, DEVICES[device], memory=False)  # type: ignore[arg-type]
    assert any(words in why for why in found.unknown)
    assert words in ceilings.table([found], "simple")


def test_a_product_of_axes_by_a_runtime_that_knows_the_precision() -> None:
    found = ceilings.cells(["mlp"], {**NONE, "precision": ["fp32", "int8-dynamic"], "batch": [1, 8]})
    assert [(cell.precision, cell.batch, cell.image_size) for cell in found] == [
        ("fp32", 1, 8),
        ("fp32", 8, 8),
        ("int8-dynamic", 1, 8),
        ("int8-dynamic", 8, 8),
    ]
    assert found[0].runtime == "eager"


def test_a_picture_that_a_net_does_not_take() -> None:
    with pytest.raises(MatrixError, match=r"mixer_s16 takes images of .* pixels, got 100"):
        ceilings.cells(["mixer_s16"], {**NONE, "image_size": [100]})


def told(tmp_path: Path, cache: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-X", "importtime", "-m", "plumbline.harness", "ceilings", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **where(tmp_path, cache))


def test_the_bounds_of_a_tier_take_no_torch(tmp_path: Path, cache: Path, python: str) -> None:
    found = told(tmp_path, cache, python, "--no-memory", "--device", "jetson-nano")
    assert found.returncode == 0, found.stderr
    assert "resnet50-dense-eager-fp32-b1-224px" in found.stdout
    assert "torch" not in {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}


def test_an_exit_code_says_that_something_does_not_fit(tmp_path: Path, cache: Path, python: str) -> None:
    found = told(tmp_path, cache, python, "vgg16", "--batch", "64", "--device", "jetson-nano")
    assert found.returncode == 1, found.stderr[-300:]
    assert " no " in found.stdout
    unknown = told(tmp_path, cache, python, "mlp", "--device", "jetson-nan")
    assert (unknown.returncode, "no device 'jetson-nan' (did you mean" in unknown.stderr) == (2, True)


def test_predictions_beside_what_was_needed() -> None:
    """A cell that needed half of what is predicted, one that is too small to count, and one of which nothing is."""
    cell = cell_of("vgg16", batch=8, image_size=224)
    found = Needs.of(cell, framework=500e6)

    def memory(inference: float, process: float) -> dict[str, Reading]:
        values = {"inference": inference, "process_peak": process, "process_base": 500e6}
        return {name: read("byte", "process", value) for name, value in values.items()}

    records = [
        record_of(cell, memory=memory(found.inference / 2, found.process)),
        record_of(cell_of("mlp"), memory=memory(1e5, 550e6)),
        record_of(cell_of("mlp", runtime="compiled"), memory=memory(1e6, 550e6)),
        record_of(cell_of("mlp")),
    ]
    said = ceilings.beside(records, "simple")
    assert "+100%" in said and "+0%" in said
    assert (
        "of an inference, 1 cell whose inference needs 20 MB at least: 0 within 10 %, 100% off on the average, +100% at worst"
        in said
    )
    assert "of the process, 1 cell whose inference needs 20 MB at least: 1 within 10 %" in said
    assert "not predicted: 1 cell: memory is predicted of a dense net in eager" in said


def test_the_first_inference_counts_where_a_further_one_takes_nothing() -> None:
    cell = cell_of("vgg16", runtime="onnxruntime", batch=8, image_size=224)
    found = Needs.of(cell, framework=500e6)
    values = {"first_inference": found.inference, "process_peak": found.process, "process_base": 500e6}
    said = ceilings.beside([record_of(cell, memory={name: read("byte", "x", each) for name, each in values.items()})], "simple")
    assert "of an inference, 1 cell whose inference needs 20 MB at least: 1 within 10 %, 0% off" in said


def test_runtimes_that_are_named() -> None:
    axes = {**NONE, "runtime": ["eager", "openvino"], "precision": ["fp32", "int8-static"]}
    found = ceilings.cells(["mlp"], axes)
    assert [(cell.runtime, cell.precision) for cell in found] == [
        ("eager", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "int8-static"),
    ]
    with pytest.raises(MatrixError, match="expected a runtime that knows int8-static, got eager"):
        ceilings.cells(["mlp"], {**NONE, "runtime": ["eager"], "precision": ["int8-static"]})


@pytest.mark.parametrize(
    ("model", "size", "batch", "image_ms", "possible"),
    [
        # Mixer on a Jetson Nano, tables 9 and 10 of that study: ten times too small, as its equation 8 multiplies seconds by 100
        ("mixer_s16", 32, 32, 0.72, True),
        ("mixer_m16", 32, 32, 1.15, False),
        ("mixer_m16", 32, 64, 1.04, False),
        ("mixer_m16", 32, 128, 1.08, False),
        ("mixer_m16", 224, 32, 12.86, False),
        # and as they follow from the reported run times
        ("mixer_s16", 32, 32, 6.47, True),
        ("mixer_m16", 32, 32, 10.27, True),
        ("mixer_m16", 224, 32, 114.4, True),
        # half a second for 16 pictures: only by an algorithm with four times fewer multiplications than MACs
        ("vgg16", 224, 16, 500 / 16, True),
    ],
)
def test_which_figures_of_the_studies_are_possible_at_all(
    model: str, size: int, batch: int, image_ms: float, possible: bool
) -> None:
    name = f"{model}+data=cifar10" if model.startswith("mixer") else model
    found = ceilings.of(cell_of(name, batch=batch, image_size=size), DEVICES["jetson-nano"], memory=False).bound.seconds
    assert found is not None
    assert (image_ms * batch / 1e3 >= found) is possible
