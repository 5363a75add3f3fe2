"""What only a CUDA device can show: `tox -e cuda`, on a machine that has one."""

from __future__ import annotations

from statistics import median

import pytest
import torch

from plumbline.harness import timing
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import UNAVAILABLE, CellEnded
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("gpu")]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("runtime", ["eager", "compiled", "onnxruntime"])
def test_a_cell_is_checked_and_measured(server: Connection, settings: Settings, runtime: str, precision: str) -> None:
    """ONNX Runtime's CUDA provider where its wheel is there, and has shown one inference."""
    probe = CellProbe(server, Cell("small_cnn", "dense", runtime, precision, 4, 8, "cuda"), settings)
    try:
        agreement, latency, memory = probe.agreement(), probe.latency(), probe.memory()
    except CellEnded as end:
        if end.outcome == UNAVAILABLE and runtime != "eager":
            pytest.skip(end.reason)
        raise
    assert agreement.wrong is None
    assert len(latency.model.samples_s) >= 6
    assert memory["cuda_allocated"].value is not None
    assert memory["cuda_reserved"].value is not None
    assert 0 < memory["cuda_allocated"].value <= memory["cuda_reserved"].value
    probe.close()


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


def test_the_second_of_two_devices_is_used_where_it_is_named(server: Connection, settings: Settings) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    probe = CellProbe(server, Cell("small_cnn", "dense", "eager", "fp32", 1, 8, "cuda:1"), settings)
    assert probe.agreement().wrong is None
    probe.close()
