"""The memory meter, against allocations of known size."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest

from plumbline.harness import machine
from plumbline.harness.probe import examining, memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PAGES = 64 * 2**20


def hold(size: int) -> None:
    """Touch every page of a private mapping, and let it go."""
    with mmap.mmap(-1, size) as block:
        block[::4096] = b"1" * (size // 4096)


@pytest.mark.parametrize("size", [4 * 2**20, PAGES, 256 * 2**20])
def test_growth_is_the_size_of_an_allocation_that_is_gone_again(size: int) -> None:
    grown, reason = memory.growth(lambda: hold(size))
    assert reason is None
    assert grown == pytest.approx(size, rel=0.02, abs=2**20)


def test_what_was_freed_and_kept_is_given_back_first() -> None:
    """Else the same call would seem to need nothing: the C library has the memory of the last one."""

    def fill() -> list[bytes]:
        return [b"1" * 60_000 for _ in range(1000)]

    blocks = fill()
    above = b"2" * 60_000
    del blocks
    grown, _ = memory.growth(fill)
    assert grown == pytest.approx(60e6, rel=0.05)
    assert len(above) == 60_000, "it holds the end of the heap, which would be given back at once"


def test_a_call_that_needs_nothing_needs_nothing() -> None:
    grown, _ = memory.growth(lambda: None)
    assert grown is not None
    assert grown < 2**20


def test_the_peak_outlives_the_allocation_until_it_is_reset() -> None:
    hold(PAGES)
    assert memory.peak_bytes() >= memory.resident_bytes() + 0.9 * PAGES
    memory.reset_peak()
    assert memory.peak_bytes() < memory.resident_bytes() + 0.1 * PAGES


RUN = "from plumbline.harness.probe import examining; print(*examining.kept({!r}, {}, **{}), sep='\\n')"


@pytest.mark.parametrize(
    ("runtime", "options"), [("onnxruntime", {"arena": "on"}), ("onnxruntime", {"arena": "off"}), ("openvino", {})]
)
@pytest.mark.parametrize("size", [10**7, 10**8, pytest.param(2 * 10**9, marks=pytest.mark.slow)])
def test_a_tensor_of_known_size_is_found_in_a_runtime_from_outside(runtime: str, options: dict[str, str], size: int) -> None:
    """In a process of its own, of which it is the first inference."""
    pytest.importorskip(runtime)
    if 2 * size > machine.memory_free():
        pytest.skip("too little memory is free")
    command = [sys.executable, "-c", RUN.format(runtime, size, options)]
    expected, got, reason = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert reason == "None"
    assert float(got) == pytest.approx(float(expected), rel=examining.MEMORY_LIMIT)
    assert size <= float(expected) < 1.2 * size
