"""TensorRT's adapter: what it asks of the builder, what it reads of the inspector, and why it says no.

The library is a fake (fake_tensorrt.py) that executes on the CPU. inspector/ is written after NVIDIA's documentation of the
inspector and published dumps of engines of TensorRT 10 and 11, for the net below with a batch of two; no GPU has made it.
tests/harness/probe/test_cuda.py runs the real one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from plumbline.harness import runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import NotAsAsked, Unsupported
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe import artefacts
from plumbline.harness.runtimes import RunConfig, tensorrt
from plumbline.harness.runtimes.tensorrt import NO_DEVICE, TensorRT, kernels_of
from plumbline.harness.session import matrix
from plumbline.harness.views import listing
from plumbline.models.layers import conv2d, linear

LAYERS = [conv2d("0", 3, 8, 3, 8), conv2d("2", 8, 8, 3, 8), linear("5", 512, 10)]
MACS = [8 * 64 * 27, 8 * 64 * 72, 5120]
BATCH = 2


def told(name: str) -> dict[str, Any]:
    """What the inspector says of an engine of the net."""
    return json.loads((Path(__file__).parent / "inspector" / f"{name}.json").read_text())


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    ]
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake library, and a torch that has CUDA; the device is the CPU's."""
    name = "tests.harness.runtimes.fake_tensorrt"
    monkeypatch.delitem(sys.modules, name, raising=False)
    fake_tensorrt = import_module(name)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(tensorrt, "_has_device", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
    for name in ("set_device", "set_stream", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    return fake_tensorrt


def way(precision: str, **options: str) -> RunConfig:
    return RunConfig(PRECISIONS[precision], "cpu", BATCH, 2, {**TensorRT.usual(), **options})


Build = Callable[..., tuple[TensorRT, Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net is exported once in each format: it is the same one in all tests."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def build(net: nn.Module, trt: Any, tmp_path: Path, exports: Path) -> Build:
    """An engine of the net that is ready, its input, and what the build says."""

    def build(precision: str, inspected: str | None = None) -> tuple[TensorRT, Any, dict[str, Any]]:
        trt.inspected = told(inspected or precision)
        torch.manual_seed(1)
        images, shown = torch.randn(BATCH, 3, 8, 8), torch.randn(16, 3, 8, 8)
        file = tmp_path / "model.onnx"
        calibration = shown if PRECISIONS[precision].calibrated else None
        facts = TensorRT.build(net, images, calibration, replace(way(precision), shared=exports), file)
        runtime = TensorRT(file, way(precision))
        placed = runtime.place((images,))
        runtime.ready(placed)
        return runtime, placed, facts

    return build


@pytest.mark.parametrize(
    ("precision", "inspected", "error"),
    [("fp32", "fp32", 1e-6), ("tf32", "tf32", 1e-6), ("fp16", "fp16", 2e-3), ("int8-static", "int8", 0.03)],
)
def test_an_engine_is_built_and_run_as_asked(
    net: nn.Module, trt: Any, build: Build, tmp_path: Path, precision: str, inspected: str, error: float
) -> None:
    torch.manual_seed(1)
    wanted = net(torch.randn(BATCH, 3, 8, 8))
    runtime, placed, facts = build(precision, inspected)
    assert trt.asked == {
        "strongly_typed": True,
        "flags": {trt.BuilderFlag.TF32} if precision == "tf32" else set(),
        "verbosity": trt.ProfilingVerbosity.DETAILED,
        "profile": {"images": ((BATCH, 3, 8, 8),) * 3},
    }
    assert facts["tensorrt"] == trt.__version__
    assert facts["bytes"] == (tmp_path / "model.engine").stat().st_size
    assert placed.dtype == (torch.float16 if precision == "fp16" else torch.float32)
    outputs = runtime.fetch(runtime.run(placed)).clone()  # here they are on the host already
    assert outputs.dtype == torch.float32
    assert float((outputs - wanted).square().mean().sqrt() / wanted.std()) < error
    assert runtime.share_in_precision(placed, LAYERS) == 1
    again = placed + 1  # another input: its address is given anew
    assert not torch.equal(runtime.fetch(runtime.run(again)), outputs)


def test_the_file_in_integers_is_what_tensorrt_takes(build: Build, tmp_path: Path) -> None:
    """Signed, zero in the middle, weights in fp32 between two nodes, and no bias in integers."""
    runtime, _, _ = build("int8-static", "int8")
    graph = onnx.load(tmp_path / "model.onnx").graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantising = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {values[node.input[2]].dtype.name for node in quantising} == {"int8"}
    assert not any(values[node.input[2]].any() for node in quantising)
    weights = [values[node.input[0]] for node in quantising if node.op_type == "QuantizeLinear" and node.input[0] in values]
    assert sorted(weight.size for weight in weights) == [216, 576, 5120]
    assert runtime.weights_bytes() == runtime._graph.weights_bytes - 3 * (216 + 576 + 5120)


def test_a_single_picture_is_exported_too(net: nn.Module, trt: Any, tmp_path: Path) -> None:
    TensorRT.build(net, torch.randn(1, 3, 8, 8), None, way("fp32"), tmp_path / "model.onnx")
    assert trt.asked["profile"] == {"images": ((1, 3, 8, 8),) * 3}


def shares(name: str) -> list[tuple[str, str | None, int | None]]:
    return [(one.operator, one.number_format, one.outputs) for one in kernels_of(told(name)["Layers"], BATCH) if one.multiplies]


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("fp32", ["float32"] * 3),
        ("tf32", ["tf32"] * 3),
        ("fp16", ["float16"] * 3),
        ("fp16-fallback", ["float16", "float32", "float16"]),
        ("fp16-trt11", ["float16"] * 3),
        ("int8", ["int8"] * 3),
    ],
)
def test_the_inspector_names_the_format_of_each_product(name: str, formats: list[str]) -> None:
    """Fused layers are one product, layers that only reformat are none."""
    kinds = ("CaskConvolution", "CaskConvolution", "gemm")
    assert shares(name) == list(zip(kinds, formats, (512, 512, 10), strict=True))


def test_layers_that_fell_back_are_not_as_asked(build: Build) -> None:
    runtime, placed, _ = build("fp16", "fp16-fallback")
    share = runtime.share_in_precision(placed, LAYERS)
    assert share == pytest.approx((MACS[0] + MACS[2]) / sum(MACS))
    assert share < 0.5
    cell = Cell("small_cnn", "dense", "tensorrt", "fp16", BATCH, 8, "cuda")
    with pytest.raises(NotAsAsked, match=r"asked for fp16, tensorrt executes 33.9% of its MACs in that"):
        artefacts.checked_share(runtime, cell, placed, LAYERS)
    assert runtime.read_back()["formats"] == {"float16": 2, "float32": 1}


def test_tf32_is_not_fp32(build: Build) -> None:
    runtime, placed, _ = build("fp32", "tf32")
    assert runtime.share_in_precision(placed, LAYERS) == 0
    runtime, placed, _ = build("tf32", "fp32")  # a permission: the builder may find fp32 faster
    assert runtime.share_in_precision(placed, LAYERS) == 1


def test_integers_that_are_not_there_are_unsupported(build: Build) -> None:
    runtime, placed, _ = build("int8-static", "fp32")
    with pytest.raises(Unsupported, match=r"asked for int8-static, tensorrt executes 0\.0% of its MACs in that"):
        artefacts.checked_share(runtime, Cell("small_cnn", "dense", "tensorrt", "int8-static", BATCH, 8, "cuda"), placed, LAYERS)


def test_one_piece_of_many_layers_shows_no_format(build: Build) -> None:
    runtime, placed, _ = build("fp16", "whole")
    with pytest.raises(
        Unsupported, match=r"TensorRT shows 0\.0% of its MACs in fp16; .* \{ForeignNode\[node_conv2d\.\.\.node_linear\]"
    ):
        runtime.share_in_precision(placed, LAYERS)
    assert kernels_of(["only a name"], BATCH)[0].number_format is None


def test_the_profile_has_the_seconds_of_each_layer(build: Build) -> None:
    runtime, placed, _ = build("fp32")
    found = runtime.profile(placed, 3)
    assert [kernel.name for kernel in found] == [layer["Name"] for layer in told("fp32")["Layers"]]
    assert [kernel.seconds for kernel in found] == [pytest.approx(2e-3)] * len(found)


def test_an_operator_that_it_lacks_is_named(build: Build, trt: Any) -> None:
    trt.unsupported.add("Gemm")
    with pytest.raises(Unsupported, match=r"TensorRT 11.* cannot read it: operator Gemm \(node \w+\): No importer") as caught:
        build("fp32")
    assert caught.value.axis == "runtime"


def test_what_the_builder_says_is_the_reason(build: Build, trt: Any) -> None:
    trt.failure = "Error Code 10: Could not find any implementation for node node_conv2d."
    with pytest.raises(Unsupported, match=r"cannot build an engine of it: Error Code 10: Could not find any implementation"):
        build("fp32")
    trt.failure = "Error Code 2: OutOfMemory (no further information)"
    with pytest.raises(RuntimeError, match="TensorRT is out of memory: Error Code 2") as caught:
        build("fp32")
    from plumbline.harness.probe.jobs import _judge

    assert _judge(caught.value) == ("out_of_memory", None)


def test_an_engine_of_another_shape_or_a_broken_one_is_refused(build: Build, tmp_path: Path) -> None:
    _, placed, _ = build("fp32")
    other = TensorRT(tmp_path / "model.onnx", way("fp32"))
    with pytest.raises(Unsupported, match=r"the engine takes no input of shape \(1, 3, 8, 8\)"):
        other.ready(placed[:1])
    (tmp_path / "model.engine").write_bytes(b"not one")
    with pytest.raises(Unsupported, match="cannot load the engine"):
        TensorRT(tmp_path / "model.onnx", way("fp32")).ready(placed)


def test_a_file_of_ones_own_gets_its_engine(build: Build, trt: Any, tmp_path: Path) -> None:
    _, placed, _ = build("fp32")
    (tmp_path / "model.engine").unlink()
    trt.asked.clear()
    runtime = TensorRT(tmp_path / "model.onnx", way("fp32"))
    runtime.ready(placed)
    assert trt.asked["strongly_typed"]
    with pytest.raises(Unsupported, match=r"expected images of shape \(None, 3, 8, 8\).*got \(2, 1, 8, 8\)"):
        runtime.place((torch.randn(2, 1, 8, 8),))


def test_a_trial_multiplies(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_has_device", lambda: False)
    with pytest.raises(RuntimeError, match=NO_DEVICE):
        TensorRT.trial(way("fp32"))
    monkeypatch.setattr(tensorrt, "_has_device", lambda: True)
    TensorRT.trial(way("fp32"))
    monkeypatch.setattr(TensorRT, "fetch", lambda self, outputs: outputs[0] + 1)
    with pytest.raises(RuntimeError, match="TensorRT multiplied wrongly in a trial: expected 2 x 191 = 382, got 383"):
        TensorRT.trial(way("fp32"))


def test_an_old_one_is_refused(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "__version__", "8.6.1")
    with pytest.raises(Unsupported, match=r"expected TensorRT 10 or newer, got 8\.6\.1; an older one is run by --runtime agent"):
        TensorRT.trial(way("fp32"))


CELL = Cell("small_cnn", "dense", "tensorrt", "fp16", 1, 8, "cuda")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_installed", lambda library: library != "tensorrt")
    assert runtimes.missing(TensorRT) == "tensorrt is not installed: pip install -e '.[tensorrt]' in the project's folder"
    monkeypatch.setattr(runtimes, "_installed", lambda library: True)
    assert runtimes.missing(TensorRT) is None


def test_the_list_says_that_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_installed", lambda library: True)
    monkeypatch.setattr(listing, "cuda_device", lambda: "no CUDA device: none of the files")
    assert listing._runtime("tensorrt") == "unavailable: it runs on cuda; no CUDA device: none of the files"
    monkeypatch.setattr(listing, "cuda_device", lambda: None)
    assert listing._runtime("tensorrt").startswith("installed: fp32, tf32, fp16, int8-static on cuda")


def test_without_a_gpu_a_cell_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbline.harness.session.matrix.places", SimpleNamespace(of=lambda target: NO_GPU))
    found = matrix.impossible(CELL)
    assert found is not None
    assert (found.outcome, found.axis, found.reason) == ("unavailable", "target", "no CUDA device: none of the files")


NO_GPU = SimpleNamespace(
    gone=None, capabilities=SimpleNamespace(cuda="no CUDA device: none of the files"), missing=lambda choice: None
)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """The name under which an engine is kept."""
    settings = SimpleNamespace(seed=0)
    reference = SimpleNamespace(weights={"sha256": "0"}, variant=None)

    def key(
        cell: Cell = CELL, gpu: str = "Orin", capability: tuple[int, int] = (8, 7), driver: str = "1", version: str = "10"
    ) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(artefacts, "accelerator", lambda: f"{gpu}, driver {driver}")
        monkeypatch.setattr(artefacts, "find_spec", lambda library: library == "tensorrt" or None)
        monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
        return artefacts._key(cell, settings, reference, None)  # type: ignore[arg-type]

    return key


def test_an_engine_is_kept_for_the_gpu_driver_and_version_that_built_it(key: Callable[..., str]) -> None:
    usual = key()
    assert key() == usual
    others = [
        key(gpu="Thor"),
        key(capability=(9, 0)),
        key(driver="2"),
        key(version="11"),
        key(Cell("small_cnn", "dense", "tensorrt", "fp32", 1, 8, "cuda")),
        key(Cell("small_cnn", "dense", "tensorrt", "fp16", 2, 8, "cuda")),
        key(Cell("resnet20", "dense", "tensorrt", "fp16", 1, 32, "cuda")),
    ]
    assert len({usual, *others}) == 1 + len(others)
