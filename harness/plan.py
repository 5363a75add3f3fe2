"""How long a run will take, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import models
from harness import journal
from harness.cell import Cell
from harness.machine import allowed_cpus, cpu_flags
from harness.matrix import impossible
from harness.outcomes import OK
from harness.precisions import PRECISIONS
from harness.settings import Settings

# Guesses for a cell that was never run here, deliberately on the high side.
START_S = 10.0  # the probe server: importing torch
CELL_S = 0.3
MACS_PER_S = 15e9  # of one core
EMULATED = 50


class Clock:
    """Estimates each cell from an earlier run on this machine where there is one, else from its MACs."""

    def __init__(self, settings: Settings, runs: Path) -> None:
        self._settings, self._runs = settings, runs
        self._planned = self._took = 0.0

    @cached_property
    def _earlier(self) -> dict[str, float]:
        return _earlier_seconds(self._runs)

    def knows(self, cell: Cell) -> bool:
        return cell.id in self._earlier

    def estimate(self, cell: Cell) -> float:
        """Seconds."""
        if impossible(cell) is not None:
            return 0.0
        if cell.id in self._earlier:
            return self._earlier[cell.id]
        model, settings = models.find(cell.model), self._settings
        image = sum(layer.macs for layer in model.formula(cell.image_size)) / MACS_PER_S / allowed_cpus()
        if PRECISIONS[cell.precision].emulated(cell.target, cpu_flags()):
            return CELL_S + (2 * settings.emulated_samples * cell.batch + 16) * EMULATED * image
        sampling = 1.5 * settings.sampling_s + 2 * settings.warmup_s
        return CELL_S + max(sampling, 4 * cell.batch * image) + (max(16, 2 * cell.batch) + 24) * image

    def ran(self, cell: Cell, seconds: float) -> None:
        self._planned += self.estimate(cell)
        self._took += seconds

    def left(self, cells: Sequence[Cell]) -> float:
        """Seconds for the cells still to come, corrected by how the ones so far turned out."""
        correction = self._took / self._planned if self._planned > 1 else 1.0
        return correction * sum(map(self.estimate, cells))


def describe(tier: str, cells: Sequence[Cell], clock: Clock) -> str:
    """What a session would do: how many cells, how long, and what is impossible, with its reason."""
    reasons = {cell: reason for cell in cells if (reason := impossible(cell)) is not None}
    possible = [cell for cell in cells if cell not in reasons]
    known = sum(map(clock.knows, possible))
    seconds = clock.left(possible) + (START_S if possible else 0)
    basis = f"{known} from an earlier run, {len(possible) - known} guessed from their MACs"
    lines = [f"tier {tier}: {len(possible)} cells to measure, about {duration(seconds)} ({basis})"]
    lines += [f"  {cell.id}  {duration(clock.estimate(cell))}" for cell in possible]
    if reasons:
        lines.append(f"impossible: {len(reasons)} cells")
        lines += [f"  {cell.id}  {reason.outcome}: {reason.reason}" for cell, reason in reasons.items()]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _earlier_seconds(runs: Path) -> dict[str, float]:
    """How long each cell took in the last three runs."""
    seconds: dict[str, float] = {}
    for folder in sorted(runs.glob("*"))[-3:]:
        try:
            records = journal.read(folder)
        except journal.RunError:
            continue  # an estimate may do without; the run itself is not touched
        seconds |= {kept["cell"]["id"]: kept["seconds"] for kept in records if kept["outcome"] == OK}
    return seconds
