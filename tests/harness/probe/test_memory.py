"""The memory meter, against allocations of known size."""

from __future__ import annotations

import mmap
import sys

import pytest

from plumbline.harness.probe import memory

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


def test_a_call_that_needs_nothing_needs_nothing() -> None:
    grown, _ = memory.growth(lambda: None)
    assert grown is not None
    assert grown < 2**20


def test_the_peak_outlives_the_allocation_until_it_is_reset() -> None:
    hold(PAGES)
    assert memory.peak_bytes() >= memory.resident_bytes() + 0.9 * PAGES
    memory.reset_peak()
    assert memory.peak_bytes() < memory.resident_bytes() + 0.1 * PAGES
