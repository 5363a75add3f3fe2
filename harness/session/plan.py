"""How long a run will take, before it runs and while it does, and which cells come first.

A cell's time is a sum of parts, each of a kind: what is done (`counts`, `reference`, `building`, `checks`, `latency`, ...) and by
what means (a runtime, or `emulated`). What each part takes is guessed from the net's layers and MACs and from how fast this
machine is (harness/probe/speed.py); then, after each cell, a kind is corrected by what it took so far.
"""

from __future__ import annotations

import contextlib
import glob
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from plumbline import UnknownName
from plumbline.harness import journal, runtimes
from plumbline.harness.cell import Cell, compares_with_parent, stem, without_batch
from plumbline.harness.outcomes import OK
from plumbline.harness.precisions import CALIBRATION, PRECISIONS
from plumbline.harness.runtimes import saturation
from plumbline.harness.session import places
from plumbline.harness.session.matrix import UNKNOWN_MACS, find, impossible
from plumbline.harness.settings import Settings
from plumbline.harness.speed import Speed, guessed
from plumbline.harness.statistics import P99_SAMPLES
from plumbline.models import DENSE, variant
from plumbline.models.weights.weights import AmbiguousWeights, Weights, WrongWeights, located
from plumbline.texts import duration, number_of

START_S = 5.0  # the probe server: importing torch
CELL_S = 0.3
VARIANT_S = 3.0  # to make it, and to time it in turns with its dense parent
PYTHON_S = 6e-3  # harness/probe/speed.py's, where the seconds of exporting were taken
UNKNOWN_LAYERS = 50  # of a model without a formula
REFERENCE_IMAGES = 80  # calibration, and the reference in float64, which takes twice as long
COMPARED = 16  # inferences, at least, that are compared with it
MANY = 10_000  # images, when all are asked for
ONNX = ("onnxruntime", "openvino", "tensorrt")  # whose files come of one export of the net
# How much faster than eager's a runtime's products are, and what it adds to each layer; of those that are faster.
FASTER: Mapping[str, tuple[float, float]] = {"onnxruntime": (2.0, 0.2), "openvino": (2.0, 0.2), "litert": (1.0, 0.2)}
# What is built before it runs: seconds, and seconds a layer.
BUILT: Mapping[str, tuple[float, float]] = {
    "onnxruntime": (4.0, 0.12), "openvino": (5.0, 0.12), "tensorrt": (20.0, 1.0), "exported": (20.0, 0.5),
    "compiled": (15.0, 0.5), "litert": (8.0, 0.2),
}  # fmt: skip
# In integers: of an ONNX file, for each build, what is fixed, for a layer, and for a parameter; anything else
# takes that many times as long.
QUANTISED_S, QUANTISED_LAYER_S, QUANTISED_PARAMETER_S = 0.4, 0.045, 0.22e-6
QUANTISED = 1.4
MULTIPLY = 3  # operations beside each layer that multiplies: norms, activations
# A kind is corrected as if so many seconds of it had gone as all kinds together have; and those, as if so many had gone as
# planned: the first cells are small, and tell more of what is fixed than of the work.
PRIOR_S, PLANNED_S = 3.0, 20.0
KNOWN_S = 30.0  # what was measured is not soon taken for wrong

MINUTE_S, SHOWN = 60.0, 4  # cells that take longer are named beforehand, so many of them

Kind = tuple[str, str]
KNOWN: Kind = "known", ""  # from an earlier run


class Estimate:
    """Seconds for each cell: from an earlier run on this machine where there is one, else from its layers and MACs."""

    def __init__(
        self, cells: Sequence[Cell], counted: Sequence[Cell], settings: Settings, runs: Path | None, speed: Speed | None = None
    ) -> None:
        self._settings, self._speed = settings, speed or guessed()
        earlier = {} if runs is None else _earlier_seconds({cell.id for cell in cells}, runs, settings)
        self.known = {cell for cell in cells if cell.id in earlier}
        self._found: dict[tuple[str, int], Weights | None] = {}
        self._seen: set[tuple[object, ...]] = set()
        self._parts: dict[Cell, dict[Kind, float]] = {}
        for cell in cells:
            if impossible(cell) is not None:
                self._parts[cell] = {}
            elif cell in self.known:
                parts = self._guess(cell)  # what it leaves behind need not be paid for by the others
                building = {kind: seconds for kind, seconds in parts.items() if kind[0] == "building"}
                self._parts[cell] = {KNOWN: earlier[cell.id], **building}
            else:
                self._parts[cell] = self._guess(cell)
        for cell in counted:
            self._parts[cell] = {("counts", ""): _counts_s(cell)}
        self._left: dict[Kind, float] = defaultdict(float)
        for parts in self._parts.values():
            for kind, seconds in parts.items():
                self._left[kind] += seconds
        self._planned: dict[Kind, float] = defaultdict(float)
        self._took: dict[Kind, float] = defaultdict(float)

    def of(self, cell: Cell) -> float:
        return sum(self._parts[cell].values())

    def has_top1(self, cell: Cell) -> bool:
        """Whether there will be an accuracy: images, and weights that were trained."""
        data = find(cell.model).dataset(cell.image_size)
        there = self._settings.accuracy_images != 0 and (data.embedded or self._settings.data is not None)
        return there and self._weights(cell) is not None

    def ran(self, cell: Cell, seconds: float, steps_s: Mapping[str, float] | None = None) -> None:
        """Learn from what a cell took, and its steps as they stand in the record."""
        parts, steps = self._parts[cell], dict(steps_s or {})
        seconds -= steps.pop("peaks", 0.0) + steps.pop("peaks_anew", 0.0)  # of the machine, once
        for kind, planned in parts.items():
            self._left[kind] = max(0.0, self._left[kind] - planned)
        if "accuracy" in steps or "agreement" in steps:
            steps["checks"] = steps.pop("agreement", 0.0) + steps.pop("accuracy", 0.0)
        named = {step: [kind for kind in parts if _STEPS.get(kind[0], kind[0]) == step] for step in steps}
        rest = [kind for kind in parts if not any(kind in kinds for kinds in named.values())]
        if steps and "latency" not in steps:  # it ended before: what it did not come to says nothing
            rest = []
        shares = [(kinds, steps[step]) for step, kinds in named.items() if kinds]
        shares.append((rest, seconds - sum(took for _, took in shares)))
        for kinds, took in shares:
            planned = sum(parts[kind] for kind in kinds)
            for kind in kinds:
                self._planned[kind] += parts[kind]
                self._took[kind] += max(0.0, took) * parts[kind] / planned if planned else 0.0

    def left(self) -> float:
        """Seconds for the cells still to come, each kind corrected by how it turned out so far."""
        planned, took = sum(self._planned.values()), sum(self._took.values())
        overall = (took + PLANNED_S) / (planned + PLANNED_S)
        seconds = 0.0
        for kind, left in list(self._left.items()):
            prior = KNOWN_S if kind == KNOWN else PRIOR_S
            seconds += left * (self._took[kind] + prior * (1.0 if kind == KNOWN else overall)) / (self._planned[kind] + prior)
        return seconds

    def _new(self, *what: object) -> bool:
        """Whether this is the first cell that wants it: a reference, an artefact, the accuracy of all batches."""
        if what in self._seen:
            return False
        self._seen.add(what)
        return True

    def _guess(self, cell: Cell) -> dict[Kind, float]:
        """Return the seconds of each kind; what cells share is paid for by the first."""
        settings, speed = self._settings, self._speed
        runtime, precision = cell.runtime.partition("+")[0], PRECISIONS[cell.precision]
        macs, layers = _work(cell.model, cell.image_size)
        emulated = precision.emulated(cell.device_kind, places.of(cell.target).capabilities.cpu_flags)
        means = "emulated" if emulated else runtime
        plain, call = self._call(macs, layers, 1, "eager", "fp32"), self._call(macs, layers, cell.batch, runtime, cell.precision)
        parts: dict[Kind, float] = defaultdict(float)
        parts["fixed", ""] = CELL_S
        net = (cell.model, cell.image_size, cell.variant)
        if self._new("counts", cell.model, cell.image_size):
            parts["counts", ""] += _counts_s(cell)
        if self._new("reference", *net):
            parts["reference", ""] += 0.5 + REFERENCE_IMAGES * macs / speed.of("fp32") + 10 * layers * MULTIPLY * speed.layer_s
        if runtime in BUILT or runtimes.find(cell.runtime).adapter.artefact is not None:
            one_batch = cell.batch if runtimes.find(cell.runtime).adapter.one_batch else None
            if self._new("artefact", *net, cell.runtime, cell.precision, one_batch):
                parts["building", runtime] += self._building_s(cell, runtime)
        parts["checks", means] += (max(COMPARED, cell.batch) / cell.batch + 2) * call
        if self.has_top1(cell) and self._new("accuracy", *without_batch(cell)):
            images = MANY if settings.accuracy_images is None else settings.accuracy_images
            parts["checks", means] += images / cell.batch * call
            if compares_with_parent(cell) and self._new("parent", cell.model, cell.image_size):
                parts["reference", ""] += images * plain
        parts["latency", means] += self._sampling_s(call, emulated)
        if cell.variant != DENSE:
            parts["delivery", ""] += VARIANT_S + 14 * call
        for name, seconds in _trainings_s(cell, settings, self._weights(cell)):
            if self._new("training", cell.model, cell.image_size, name):
                parts["training", ""] += seconds
        return parts

    def _call(self, macs: float, layers: int, batch: int, runtime: str, precision: str) -> float:
        """One inference."""
        faster, per_layer = FASTER.get(runtime, (1.0, 1.0))
        products = batch * macs / self._speed.of(precision) / faster
        return products + MULTIPLY * layers * per_layer * self._speed.layer_s

    def _sampling_s(self, call: float, emulated: bool) -> float:
        """Of both latencies, with warm-up."""
        settings = self._settings
        if emulated:
            return 2 * (1 + settings.emulated_samples) * call
        warm_up = min(max(20 * call, 0.06), max(settings.warmup_s, min(10 * call, 5 * settings.warmup_s)))
        expected = 1.5 * settings.min_samples * call + 0.2
        budgets = (settings.sampling_s, settings.sampling_s / 2)
        of_p99 = P99_SAMPLES * call if settings.p99_within_s is not None and call <= settings.p99_within_s else 0.0
        alone, with_transfer = (max(call, min(budget, expected)) for budget in budgets)
        return 2 * max(warm_up, call) + max(alone, of_p99) + with_transfer

    def _building_s(self, cell: Cell, runtime: str) -> float:
        if any((self._settings.cache / "artefacts").glob(f"{glob.escape(stem(cell))}*")):
            return CELL_S
        precision, (macs, layers) = PRECISIONS[cell.precision], _work(cell.model, cell.image_size)
        (fixed, each), python = BUILT.get(runtime, (5.0, 0.12)), self._speed.python_s / PYTHON_S
        builds = 2 if precision.integer and saturation.saturate() else 1
        export = 0.0
        if runtime not in ONNX or self._new("export", cell.model, cell.image_size, cell.variant):
            export = fixed + each * layers
        if not precision.integer:
            return export * python
        if runtime not in ONNX:
            return export * QUANTISED * builds * python
        one = QUANTISED_S + QUANTISED_LAYER_S * layers + QUANTISED_PARAMETER_S * _parameters(cell.model, cell.image_size)
        shown = CALIBRATION * precision.calibrated * self._call(macs, layers, 1, "onnxruntime", "fp32")
        return (export + builds * one) * python + builds * shown

    def _weights(self, cell: Cell) -> Weights | None:
        key = (cell.model, cell.image_size)
        if key not in self._found:
            self._found[key] = _weights(cell, self._settings)
        return self._found[key]


_STEPS = {"reference": "prepared", "building": "prepared", "training": "prepared", "fixed": "prepared"}


@cache
def _work(reference: str, image_size: int) -> tuple[float, int]:
    """MACs of an image, and the number of layers that multiply."""
    formula = find(reference).formula(image_size)
    if formula is None:
        return UNKNOWN_MACS * image_size**2, UNKNOWN_LAYERS
    return float(sum(layer.macs for layer in formula)), sum(layer.macs > 0 for layer in formula)


@cache
def _parameters(reference: str, image_size: int) -> int:
    return sum(layer.parameters for layer in find(reference).formula(image_size) or ())


def _counts_s(cell: Cell) -> float:
    """Every route of counting, once for a model at an image size."""
    return 0.1 + 3e-3 * _work(cell.model, cell.image_size)[1]


def slow(cells: Sequence[Cell], estimate: Estimate, settings: Settings) -> str | None:
    """In one line, which cells will take minutes, and which longer than they may; None where none will."""
    minutes = {cell: seconds for cell in cells if (seconds := estimate.of(cell)) > MINUTE_S}
    if not minutes:
        return None
    shown = sorted(minutes, key=minutes.__getitem__, reverse=True)[:SHOWN]
    text = ", ".join(f"{cell.id} ({duration(minutes[cell])})" for cell in shown)
    more = f" and {len(minutes) - len(shown)} more" if len(minutes) > len(shown) else ""
    over = sum(seconds > settings.time_limit_s for seconds in minutes.values())
    limit = f"; {over} longer than the limit of {settings.time_limit_s:g} s (--time-limit)" if over else ""
    return f"over a minute each: {text}{more}{limit}"


def quickest_first(cells: Sequence[Cell], estimate: Estimate) -> list[Cell]:
    """Put the cells in the order in which they are run.

    A model's cells stay together at each image size, as they share its reference; what is quick comes before what is not, and
    before all the quickest that has a top-1. Within a model, and where all is equal, they stay in their order.
    """
    groups: dict[tuple[str, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.model, cell.image_size].append(cell)
    ordered = sorted(groups.values(), key=lambda group: sum(map(estimate.of, group)))
    first = next((group for group in ordered if estimate.has_top1(group[0])), None)
    return [cell for group in sorted(ordered, key=lambda group: group is not first) for cell in group]


def _weights(cell: Cell, settings: Settings) -> Weights | None:
    """Trained weights that the model has, or gets; None where it has to do with seeded ones."""
    model = find(cell.model)
    try:
        weights = None if model.file is not None else located(model, cell.image_size, settings)
    except (AmbiguousWeights, WrongWeights):
        return None  # the cell will say it
    return None if weights is None or weights.kind == "seeded" else weights


def _trainings_s(cell: Cell, settings: Settings, weights: Weights | None) -> Iterator[tuple[str, float]]:
    """Return what each training takes that the cell may still want: of the weights, and of techniques."""
    if weights is None:
        return
    if weights.task is not None and (weights.path is None or not weights.path.exists()):
        yield DENSE, 60 * weights.task.recipe.minutes
    for training in variant(cell.variant).trainings:
        with contextlib.suppress(UnknownName):  # no recipe: the cell will say it
            minutes = training.recipe(find(cell.model), cell.image_size).minutes
            yield training.name, 60 * minutes if minutes <= settings.train_minutes else 0.0


def describe(
    tier: str, cells: Sequence[Cell], counted: Sequence[Cell], settings: Settings, runs: Path, speed: Speed | None = None
) -> str:
    """Return what a session would do: how many cells, how long, and what is impossible, with its reason."""
    estimate = Estimate(cells, counted, settings, runs, speed)
    reasons = {cell: reason for cell in cells if (reason := impossible(cell)) is not None}
    possible = [cell for cell in cells if cell not in reasons]
    known = len(estimate.known - set(reasons))
    seconds = estimate.left() + (START_S if possible else 0)
    basis = f"{known} from an earlier run, {len(possible) - known} guessed from their MACs and the speed of this machine"
    lines = [f"tier {tier}: {number_of(len(possible), 'cell')} to measure, about {duration(seconds)} ({basis})"]
    lines += [f"  {cell.id}  {duration(estimate.of(cell))}" for cell in possible]
    if warned := slow(possible, estimate, settings):
        lines.insert(1, warned)
    if counted:
        lines.append(f"counted only, as they are too large to be timed in this tier: {len(counted)}")
        lines += [f"  {cell.model} at {cell.image_size} pixels" for cell in counted]
    if reasons:
        lines.append(f"impossible: {number_of(len(reasons), 'cell')}")
        lines += [f"  {cell.id}  {reason.outcome}: {reason.reason}" for cell, reason in reasons.items()]
    return "\n".join(lines)


def _earlier_seconds(wanted: Collection[str], runs: Path, settings: Settings) -> dict[str, float]:
    """How long each wanted cell took in the last three runs on this processor with the same settings, without what was built."""
    seconds: dict[str, float] = {}
    folders = [folder for folder in runs.glob("*") if (folder / journal.NAME).is_file()]
    for folder in sorted(folders, key=lambda folder: (folder / journal.NAME).stat().st_mtime)[-3:]:
        try:
            records = journal.read(folder)
        except journal.RunError:
            continue  # an estimate may do without; the run itself is not touched
        for record in records:
            settings_then = replace(record.settings, inputs_seed=settings.inputs_seed)  # other pictures take as long
            alike = record.id in wanted and settings_then == settings.without_paths()
            same = alike and record.machine.cpu_model == places.of(record.cell.target).capabilities.cpu_model
            if same and record.outcome == OK and record.latency is not None and record.prepared is not None:
                built = record.prepared.artefact or {}
                seconds[record.id] = record.seconds - (0.0 if built.get("cached", True) else built["seconds"])
    return seconds
