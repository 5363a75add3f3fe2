"""How long a run will take, before it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import journal
from harness.cell import Cell, compares_with_parent, without_batch
from harness.machine import allowed_cpus, cpu_flags, cpu_model
from harness.matrix import find, impossible
from harness.outcomes import OK
from harness.precisions import PRECISIONS
from harness.settings import Settings
from models import UnknownName, variants
from models.recipes import duration
from models.variants import DENSE
from models.weights import AmbiguousWeights, Weights, WrongWeights

# Guesses for a cell that was never run here, deliberately on the high side.
START_S = 10.0  # the probe server: importing torch
CELL_S = 0.3
VARIANT_S = 3.0  # to make it, and to time it in turns with its dense parent
CALL_S = 0.5e-3  # of an inference, whatever it computes
MACS_PER_S = 15e9  # of one core
EMULATED = 50
UNKNOWN_MACS = 2e9 / 224**2  # a pixel, of a model without a formula
REFERENCE_IMAGES = 40  # calibration, and the reference in float64
MANY = 10_000  # images, when all are asked for


class Estimate:
    """Seconds for each cell: from an earlier run on this machine where there is one, else from its MACs."""

    def __init__(self, cells: Sequence[Cell], counted: Sequence[Cell], settings: Settings, runs: Path) -> None:
        earlier = _earlier_seconds(runs, settings)
        self.known = {cell for cell in cells if cell.id in earlier}
        self._seconds: dict[Cell, float] = dict.fromkeys(counted, CELL_S)
        classified: set[tuple[str, ...]] = set()
        trained: set[tuple[str, int, str]] = set()
        for cell in cells:
            if impossible(cell) is not None:
                self._seconds[cell] = 0.0
            elif cell in self.known:
                self._seconds[cell] = earlier[cell.id]
            else:
                first = without_batch(cell) not in classified  # the accuracy is measured once for all batches
                self._seconds[cell] = _guess(cell, settings, accuracy=first)
                for name, seconds in _trainings_s(cell, settings):
                    if (cell.model, cell.image_size, name) not in trained:
                        trained.add((cell.model, cell.image_size, name))
                        self._seconds[cell] += seconds
            classified.add(without_batch(cell))
        self._left = sum(self._seconds.values())
        self._planned = self._took = 0.0

    def of(self, cell: Cell) -> float:
        return self._seconds[cell]

    def ran(self, cell: Cell, seconds: float) -> None:
        self._left -= self.of(cell)
        self._planned += self.of(cell)
        self._took += seconds

    def left(self) -> float:
        """Seconds for the cells still to come, corrected by how the ones so far turned out."""
        return max(0.0, self._left) * (self._took / self._planned if self._planned > 1 else 1.0)


def _guess(cell: Cell, settings: Settings, *, accuracy: bool) -> float:
    model = find(cell.model)
    data = model.dataset(cell.image_size)
    formula = model.formula(cell.image_size)
    macs = UNKNOWN_MACS * cell.image_size**2 if formula is None else sum(layer.macs for layer in formula)
    image = macs / MACS_PER_S / allowed_cpus()
    emulated = PRECISIONS[cell.precision].emulated(cell.target, cpu_flags())
    slower = EMULATED if emulated else 1
    checks = max(16, 2 * cell.batch) * image * slower
    if accuracy and (data.embedded or settings.data is not None) and _weights(cell, settings) is not None:
        images = MANY if settings.accuracy_images is None else settings.accuracy_images
        checks += images * image * (slower + compares_with_parent(cell))
    if emulated:
        sampling = 2 * settings.emulated_samples * cell.batch * image * slower
    else:
        call = cell.batch * image + CALL_S
        sampling = 1.5 * min(settings.sampling_s, settings.min_samples * call) + 2 * min(settings.warmup_s, 20 * call)
        sampling = max(sampling, 12 * call)
    variant = 0.0 if cell.variant == DENSE else VARIANT_S + 14 * cell.batch * image
    return CELL_S + REFERENCE_IMAGES * image + checks + sampling + variant


def _weights(cell: Cell, settings: Settings) -> Weights | None:
    """Trained weights that the model has, or gets; None where it has to do with seeded ones."""
    model = find(cell.model)
    try:
        weights = None if model.file is not None else settings.locate(model, cell.image_size)
    except (AmbiguousWeights, WrongWeights):
        return None  # the cell will say it
    return None if weights is None or weights.kind == "seeded" else weights


def _trainings_s(cell: Cell, settings: Settings) -> Iterator[tuple[str, float]]:
    """What each training takes that the cell may still want: of the weights, and of techniques."""
    weights = _weights(cell, settings)
    if weights is None:
        return
    if weights.task is not None and (weights.path is None or not weights.path.exists()):
        yield DENSE, 60 * weights.task.recipe.minutes
    for training in variants.find(cell.variant).trainings:
        with contextlib.suppress(UnknownName):  # no recipe: the cell will say it
            minutes = training.recipe(find(cell.model), cell.image_size).minutes
            yield training.name, 60 * minutes if minutes <= settings.train_minutes else 0.0


def describe(tier: str, cells: Sequence[Cell], counted: Sequence[Cell], settings: Settings, runs: Path) -> str:
    """What a session would do: how many cells, how long, and what is impossible, with its reason."""
    estimate = Estimate(cells, counted, settings, runs)
    reasons = {cell: reason for cell in cells if (reason := impossible(cell)) is not None}
    possible = [cell for cell in cells if cell not in reasons]
    known = len(estimate.known - set(reasons))
    seconds = estimate.left() + (START_S if possible else 0)
    basis = f"{known} from an earlier run, {len(possible) - known} guessed from their MACs"
    lines = [f"tier {tier}: {len(possible)} cells to measure, about {duration(seconds)} ({basis})"]
    lines += [f"  {cell.id}  {duration(estimate.of(cell))}" for cell in possible]
    if counted:
        lines.append(f"only counted, as they are too large to be timed in this tier: {len(counted)}")
        lines += [f"  {cell.model} at {cell.image_size} pixels" for cell in counted]
    if reasons:
        lines.append(f"impossible: {len(reasons)} cells")
        lines += [f"  {cell.id}  {reason.outcome}: {reason.reason}" for cell, reason in reasons.items()]
    return "\n".join(lines)


def _earlier_seconds(runs: Path, settings: Settings) -> dict[str, float]:
    """How long each cell took in the last three runs on this processor with the same settings."""
    seconds: dict[str, float] = {}
    folders = [folder for folder in runs.glob("*") if (folder / journal.NAME).is_file()]
    for folder in sorted(folders, key=lambda folder: (folder / journal.NAME).stat().st_mtime)[-3:]:
        try:
            records = journal.read(folder)
        except journal.RunError:
            continue  # an estimate may do without; the run itself is not touched
        for kept in records:
            theirs = {**kept.get("settings", {}), "inputs_seed": settings.inputs_seed}  # other pictures take as long
            alike = theirs == settings.without_paths() and kept["machine"]["cpu_model"] == cpu_model()
            if kept["outcome"] == OK and kept["latency"] is not None and alike:
                seconds[kept["cell"]["id"]] = kept["seconds"]
    return seconds
