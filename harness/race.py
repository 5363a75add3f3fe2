"""Several ways to run one model, in one process and taking turns: what they share, the machine's moods, cancels out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness import latency
from harness.cell import Cell
from harness.outcomes import CellEnded
from harness.settings import Settings
from harness.subject import Subject

Call = tuple[Callable[[], Any], Callable[[], None]]
# Calls before those of a turn, and for how long: another runtime's threads still spin, and the caches hold its weights.
UNTIMED, UNTIMED_S = 2, 0.02
TIMED = 5
ROUNDS = 7  # at least: an interval of the median takes six


def run(
    cells: Sequence[Cell], settings: Settings, folders: Sequence[Path], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Check the very objects, then time them in turns for `sampling_s` seconds each. Each cell was prepared in its folder.

    Returns for each cell the medians of its turns, in seconds, the n-th of all cells being of one round, in which their
    order is random; or the `reason` for which it did not take part.
    """
    told: list[dict[str, Any]] = []
    calls: dict[int, Call] = {}
    for number, (cell, folder) in enumerate(zip(cells, folders, strict=True)):
        progress(f"checking {cell.id}")
        try:
            subject = Subject(cell, settings, folder, progress)
            reason = subject.agreement().wrong
            if reason is None:
                calls[number] = subject.call()
        except CellEnded as end:
            reason = end.reason
        told.append({"reason": reason, "turns_s": []})
    for number, turns in in_turns(calls, settings.sampling_s * len(calls), progress).items():
        told[number]["turns_s"] = turns
    return told


def in_turns(calls: Mapping[int, Call], seconds: float, progress: Callable[[str], None]) -> dict[int, list[float]]:
    """For each call the medians of its turns, in seconds: in every round each has one, in random order, for `seconds` in all.

    A call is what starts an inference, and what waits until it is done.
    """
    turns: dict[int, list[float]] = {number: [] for number in calls}
    ends, rounds = time.monotonic() + seconds, 0
    with latency.quiet():
        while rounds < ROUNDS or time.monotonic() < ends:
            rounds += 1
            progress(f"{len(calls)} ways, round {rounds}, {max(0.0, ends - time.monotonic()):.0f} s left")
            for number in random.sample(sorted(calls), len(calls)):
                call, synchronize = calls[number]
                rest = time.monotonic() + UNTIMED_S
                latency.sample(call, synchronize, UNTIMED)
                while time.monotonic() < rest:
                    latency.sample(call, synchronize, 1)
                turns[number].append(median(latency.sample(call, synchronize, TIMED)))
    return turns
