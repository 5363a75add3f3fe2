"""What only a CUDA device can show: `tox -e cuda`, or docker/offline/run, on a machine that has one.

Where that is possible the same test runs on the CPU, too, so that it does not rot. All tests marked cuda are in this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import nn

from plumbline.harness import runtimes, timing
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import UNAVAILABLE, UNSUPPORTED, CellEnded
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.models.compression.sparse import SemiStructuredLinear
from plumbline.models.compression.unstructured import prune

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
SPARSE = "prune50+pattern=2:4+sparse+format=2:4"


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        request.getfixturevalue("gpu")
    return str(request.param)


def cells() -> Iterator[object]:
    """Each runtime that has a CUDA device, in each floating-point precision that it has, and TensorRT in integers.

    On the CPU only those that take no time: the others have tests of their own there.
    """
    for runtime in ("eager", "compiled", "exported", "onnxruntime", "tensorrt"):
        offered = runtimes.find(runtime).adapter.precisions
        for precision in ("fp32", "tf32", "bf16", "fp16", *(["int8-static"] if runtime == "tensorrt" else [])):
            if precision in offered:
                yield pytest.param(runtime, precision, "cuda", marks=pytest.mark.cuda)
    yield from (("eager", "fp32", "cpu"), ("eager", "bf16", "cpu"), ("onnxruntime", "fp32", "cpu"))


@pytest.mark.parametrize(("runtime", "precision", "target"), list(cells()))
def test_a_cell_is_checked_and_measured(
    request: pytest.FixtureRequest, server: Connection, settings: Settings, runtime: str, precision: str, target: str
) -> None:
    """Where a library is there, and has shown one inference; eager always is."""
    if target == "cuda":
        request.getfixturevalue("gpu")
    probe = CellProbe(server, Cell("small_cnn", "dense", runtime, precision, 4, 8, target), settings)
    try:
        prepared, agreement, latency, memory = probe.prepared(), probe.agreement(), probe.latency(), probe.memory()
    except CellEnded as end:
        if end.outcome == UNAVAILABLE and runtime != "eager":
            pytest.skip(end.reason)
        raise
    assert prepared.options["in_precision"] > 0.5
    assert agreement.wrong is None
    assert len(latency.model.samples_s) >= 6
    assert (latency.on_device is not None) == (target == "cuda")
    assert (memory["weights"].value or 0) > 0
    if runtimes.find(runtime).adapter.keeps_memory is not None:
        assert memory["inference"].value is None
    probe.close()


def test_memory_on_the_device_holds_at_least_the_weights(device: str, server: Connection, settings: Settings) -> None:
    """On CUDA what torch has allocated, and what it has reserved for that; on the CPU neither."""
    probe = CellProbe(server, Cell("mlp", "dense", "eager", "fp32", 4, 8, device), settings)
    memory, weights = probe.memory(), 4 * probe.prepared().parameters
    probe.close()
    assert memory["weights"].value == weights
    inference = memory["inference"].value
    assert inference is not None
    assert inference >= 0
    on_device = [memory[name].value for name in ("cuda_allocated", "cuda_reserved") if name in memory]
    if device == "cpu":
        assert on_device == []
        return
    allocated, reserved = on_device
    assert allocated is not None
    assert reserved is not None
    assert weights + inference <= allocated <= reserved


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_tf32_is_coarser_than_fp32_and_off_unless_asked_for(server: Connection, settings: Settings) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU is older than Ampere")
    errors = {}
    for precision in ("fp32", "tf32"):
        probe = CellProbe(server, Cell("mixer_s16", "dense", "eager", precision, 4, 32, "cuda"), settings)
        errors[precision] = probe.agreement().error
        assert probe.prepared().options["tf32"] == (precision == "tf32")
        probe.close()
    assert 10 * errors["fp32"] < errors["tf32"]


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_the_clock_of_the_host_sees_the_work_that_the_device_does() -> None:
    """A duration holds all of the queued work: never less than the device's own events say, but for their resolution."""
    matrix = torch.randn(4096, 4096, device="cuda")
    product = torch.empty_like(matrix)

    def call() -> None:
        torch.mm(matrix, matrix, out=product)

    for _ in range(5):
        call()
    host_s = median(timing.sample(call, torch.cuda.synchronize, 20))
    device_s = []
    for _ in range(20):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        device_s.append(begin.elapsed_time(end) / 1e3)
    assert host_s > 0.9 * min(device_s)


def test_two_of_four_is_the_same_product(device: str) -> None:
    """Packed on a GPU; the CPU has no such product, and takes the zeros along."""
    torch.manual_seed(0)
    dense = prune(nn.Linear(512, 256), 0.5, pattern="2:4").to(device, torch.half)
    assert isinstance(dense, nn.Linear)
    layer, inputs = SemiStructuredLinear.of(dense), torch.randn(64, 512, device=device, dtype=torch.half)
    with torch.inference_mode():
        if device == "cuda":
            layer.pack()
        assert torch.allclose(layer(inputs), dense(inputs), atol=2e-2)


def test_a_cell_of_two_of_four_agrees_or_says_why_not(device: str, server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, Cell("mlp", SPARSE, "eager", "bf16", 32, 8, device), settings)
    if device == "cpu" or torch.cuda.get_device_capability() < (8, 0):
        with pytest.raises(CellEnded, match=r"expected an NVIDIA GPU of compute capability 8\.0") as caught:
            probe.agreement()
        assert caught.value.outcome == UNSUPPORTED
        return
    assert probe.agreement().wrong is None
    assert probe.prepared().options["sparse_layers"] >= 0
    probe.close()


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_the_second_of_two_devices_is_used_where_it_is_named(server: Connection, settings: Settings) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    probe = CellProbe(server, Cell("small_cnn", "dense", "eager", "fp32", 1, 8, "cuda:1"), settings)
    assert probe.agreement().wrong is None
    probe.close()


def test_all_tests_that_need_a_gpu_are_in_this_file() -> None:
    """docker/offline/run looks for them here only: other files import what a machine without a network may lack."""
    marked = [path for path in Path(__file__).parents[3].glob("tests/**/test_*.py") if "mark.cuda" in path.read_text()]
    assert marked == [Path(__file__)]
