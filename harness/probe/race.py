"""Several ways to run one model, in one process and taking turns: what they share, the machine's moods, cancels out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.probe import latency
from plumbline.harness.probe.subject import Subject
from plumbline.harness.settings import Settings


def run(
    cells: Sequence[Cell], settings: Settings, folders: Sequence[Path], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Check the very objects, then time them in turns for `sampling_s` seconds each. Each cell was prepared in its folder.

    Returns for each cell the medians of its turns, in seconds, the n-th of all cells being of one round, in which their
    order is random; or the `reason` for which it did not take part.
    """
    told: list[dict[str, Any]] = []
    calls: dict[int, latency.Call] = {}
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
    for number, turns in latency.in_turns(calls, settings.sampling_s * len(calls), progress).items():
        told[number]["turns_s"] = turns
    return told
