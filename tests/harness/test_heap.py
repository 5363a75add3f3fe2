"""glibc's allocator on paper, beside the one of this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from plumbline.harness.heap import MIB, PAGE, START, Heap, peak_bytes

KIB = 1024
ON_THIS_MACHINE = """
import ctypes, sys
from pathlib import Path
from plumbline.harness.probe.memory import peak_bytes, release_free_memory, reset_peak, resident_bytes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
asked, blocks = {asked!r}, {{}}
def follow():
    for number, size in asked:
        if size:
            blocks[number] = libc.malloc(size)
            ctypes.memset(blocks[number], 1, size)
        else:
            libc.free(blocks.pop(number))
follow()
release_free_memory()
reset_peak()
before = resident_bytes()
follow()
print(peak_bytes() - before)
"""


def chain(*sizes: int) -> list[tuple[int, int]]:
    """Return what layers ask for, one after the other: each gives its input back when its result is there."""
    asked = [(0, sizes[0])]
    for number, size in enumerate(sizes[1:], 1):
        asked += [(number, size), (number - 1, 0)]
    return [*asked, (len(sizes) - 1, 0)]


def test_a_large_block_goes_back_and_raises_the_threshold() -> None:
    heap = Heap()
    heap.ask(1, MIB)
    assert heap.held == MIB + PAGE
    heap.ask(1, 0)
    assert (heap.held, heap.threshold) == (0, MIB + PAGE)
    heap.ask(2, MIB)  # now no block of its own
    heap.ask(2, 0)
    assert (heap.held, heap.peak) == (MIB, MIB + PAGE)


def test_small_blocks_stay_until_the_free_end_is_twice_the_threshold() -> None:
    heap = Heap()
    for number in range(3):
        heap.ask(number, START - KIB)
    assert heap.held == 3 * (START - KIB)
    heap.ask(2, 0)
    heap.ask(0, 0)  # a hole, and no end
    assert heap.held == 3 * (START - KIB)
    heap.ask(1, 0)
    assert heap.held == 0


def test_the_smallest_hole_that_is_large_enough_is_taken_again() -> None:
    heap = Heap()
    for number, size in enumerate((64 * KIB, 1 * KIB, 32 * KIB, 1 * KIB)):
        heap.ask(number, size)
    heap.ask(0, 0)
    heap.ask(2, 0)
    before = heap.held
    heap.ask(4, 16 * KIB)  # of the 32
    heap.ask(5, 60 * KIB)  # of the 64
    assert heap.held == before
    heap.ask(6, 20 * KIB)
    assert heap.held == before + 20 * KIB


def test_the_threshold_rises_to_32_mib_and_no_further() -> None:
    heap = Heap()
    for size in (16 * MIB, 64 * MIB):
        heap.ask(1, size)
        heap.ask(1, 0)
    assert heap.threshold == 16 * MIB + PAGE


def test_holes_side_by_side_become_one() -> None:
    heap = Heap()
    for number in range(4):
        heap.ask(number, 10 * KIB)
    for number in (0, 2, 1):
        heap.ask(number, 0)
    before = heap.held
    heap.ask(9, 29 * KIB)
    assert heap.held == before


def test_a_hole_is_too_small_for_another_block_of_its_size() -> None:
    heap = Heap()
    for number in range(2):
        heap.ask(number, 10 * KIB)
    heap.ask(0, 0)
    heap.ask(2, 10 * KIB)
    assert heap.held == 30 * KIB


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(chain(*[12 * MIB] * 6), id="below the most that the threshold rises to"),
        pytest.param(chain(*[48 * MIB] * 4), id="beyond it"),
        pytest.param(chain(24 * MIB, 6 * MIB, 6 * MIB, 24 * MIB, 6 * MIB, 24 * MIB), id="bottlenecks"),
        pytest.param(chain(2 * MIB, 8 * MIB, 2 * MIB, 30 * MIB, MIB, 16 * MIB, 4 * MIB), id="mixed"),
        pytest.param([(9, 20 * MIB), *chain(5 * MIB, 20 * MIB, 20 * MIB, 5 * MIB), (9, 0)], id="a residual connection"),
    ],
)
def test_it_is_what_this_machine_holds(asked: list[tuple[int, int]]) -> None:
    """Within a tenth, in a process that asks for the same, of blocks that are not aligned; see docs/fit.md for those of torch."""
    told = subprocess.run([sys.executable, "-c", ON_THIS_MACHINE.format(asked=asked)], capture_output=True, text=True, check=True)
    assert peak_bytes(asked, spare=0) == pytest.approx(int(told.stdout), rel=0.1)
