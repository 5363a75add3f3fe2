"""Time several configurations of one model in turns in one process: drift affects all alike and cancels in the ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from plumbline.harness import timing
from plumbline.harness.cell import Cell
from plumbline.harness.messages import Contender
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.probe import threads
from plumbline.harness.probe.subject import Subject
from plumbline.harness.settings import Settings


def run(cells: Sequence[Cell], settings: Settings, folders: Sequence[Path], progress: Callable[[str], None]) -> list[Contender]:
    """Qualify the very objects, then time them in turns for `sampling_s` seconds each. Each cell was prepared in its folder."""
    calls: dict[int, timing.Call] = {}
    reasons: dict[int, str] = {}
    for number, (cell, folder) in enumerate(zip(cells, folders, strict=True)):
        progress(f"checking {cell.id}")
        try:
            calls[number] = Subject(cell, settings, folder, progress).call()
        except CellEnded as end:
            reasons[number] = end.reason
    seconds = settings.sampling_s * len(calls)
    turns = timing.interleave_calls(calls, threads.settle, seconds=seconds, progress=progress)
    return [Contender(reasons.get(number), turns.get(number, [])) for number in range(len(cells))]
