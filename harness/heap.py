"""How much memory a process holds for what it asks glibc's allocator for: more than that, as freed blocks are kept for later.

Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD. Blocks beyond a threshold come from the kernel each by itself and go
back to it when they are freed; the threshold rises to the largest such block, up to 32 MiB. All others lie one behind the other
in one heap, which is shortened only where its free end has twice the threshold. A block that was freed is a little too small for
another one of its size, as torch asks for aligned ones (SPARE).
"""

from __future__ import annotations

from collections.abc import Iterable

MIB = 1 << 20
START, MOST = MIB >> 3, 32 * MIB  # of the threshold
PAGE, ROUND = 4096, 64  # bytes: of a page, and what torch aligns a tensor to
SPARE = ROUND + 32  # what is asked for beyond an aligned block, and cut off


class Heap:
    """glibc's main arena. `held` is what is resident of it and of blocks of their own, in bytes, `peak` the most that it was."""

    def __init__(self, threshold: int = START, spare: int = SPARE) -> None:
        self.threshold, self._spare = threshold, spare
        self.peak = 0
        self._own: dict[int, int] = {}  # blocks that the kernel gave each by itself
        self._at: dict[int, tuple[int, int]] = {}  # of the others: where they begin and end
        self._free: list[tuple[int, int]] = []  # holes between these, in order
        self._end = self._touched = 0  # of the last block, and of what is resident

    @property
    def held(self) -> int:
        return self._touched + sum(self._own.values())

    def ask(self, number: int, size: int) -> None:
        """Ask for a block, or with 0 bytes give one back."""
        if size:
            self._take(number, -(-size // ROUND) * ROUND)
            self.peak = max(self.peak, self.held)
        elif number in self._own:
            block = self._own.pop(number)
            self.threshold = max(self.threshold, block) if block <= MOST else self.threshold
        else:
            self._give_back(*self._at.pop(number))

    def _take(self, number: int, size: int) -> None:
        holes = [hole for hole in self._free if hole[1] - hole[0] >= size + self._spare]
        if holes:  # the smallest that is large enough
            begin, end = min(holes, key=lambda hole: hole[1] - hole[0])
            self._free.remove((begin, end))
            if begin + size < end:
                self._free.append((begin + size, end))
            self._at[number] = (begin, begin + size)
        elif size >= self.threshold and self._end + size > self._touched:
            self._own[number] = (size // PAGE + 1) * PAGE  # with a header
        else:
            self._at[number] = (self._end, self._end + size)
            self._end += size
            self._touched = max(self._touched, self._end)

    def _give_back(self, begin: int, end: int) -> None:
        """Join a hole with its neighbours, and shorten the heap where its end has become long."""
        for hole in list(self._free):
            if hole[1] == begin or hole[0] == end:
                self._free.remove(hole)
                begin, end = min(begin, hole[0]), max(end, hole[1])
        if end < self._end:
            self._free.append((begin, end))
            return
        self._end = begin
        if self._touched - self._end >= 2 * self.threshold:
            self._touched = self._end


def peak_bytes(asked: Iterable[tuple[int, int]], spare: int = SPARE) -> int:
    """Return the most that is resident while blocks are asked for and given back, the second time that this is done.

    The first time the allocator learns how large blocks are. Before the second what was freed has been given to the kernel.
    `spare` is 0 for blocks that need not be aligned.
    """
    asked, first = list(asked), Heap(spare=spare)
    for number, size in asked:
        first.ask(number, size)
    second = Heap(first.threshold, spare)
    for number, size in asked:
        second.ask(number, size)
    return second.peak
