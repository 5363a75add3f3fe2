"""`plumbline fit`: search the grid of a model for the best setting within a budget, measure what it takes, say what binds."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from plumbline import PlumblineError
from plumbline.harness import devices, journal, roofline, runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Bound, Work
from plumbline.harness.journal import Journal
from plumbline.harness.outcomes import FAILED, OK, OUT_OF_MEMORY, TIMED_OUT, UNSUPPORTED, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.record import Record
from plumbline.harness.rows import row_of
from plumbline.harness.session import matrix, places, plan
from plumbline.harness.session.client import CellProbe
from plumbline.harness.session.session import Session, learn
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import P99_SAMPLES
from plumbline.harness.target import Target, stood_in
from plumbline.harness.verdicts import bound, budget
from plumbline.harness.verdicts.figures import ACCURACY, DISTURBED, EMULATED, ENERGY, FIGURES, LATENCY, MEMORY, THROUGHPUT
from plumbline.harness.verdicts.qualification import qualify
from plumbline.harness.verdicts.recommendation import Answer, Question, recommend
from plumbline.harness.verdicts.search import Search, Why
from plumbline.harness.views import table
from plumbline.models.compression.variants import DENSE
from plumbline.texts import duration, number_of

KNOWN = (OK, FAILED, OUT_OF_MEMORY, TIMED_OUT, UNSUPPORTED)  # what a resumed search takes as it is; all else is tried again
BOUNDED = ("latency", "p99", "first", "throughput")  # limits that are held against a bound
OF_SPEED = (*budget.OF_TIME, ENERGY)  # what a stand-in cannot claim
NO_SPEED = (THROUGHPUT, LATENCY, ENERGY)  # nor order by
Say = Callable[[str], None]


class NoSpace(PlumblineError, ValueError):
    """A search in which there is nothing to try; says which values are to blame."""


@dataclass(frozen=True)
class Asked:
    """What to search: values by axis (an axis without values has its usual ones), limits in base units, and what is best.

    `allowed` are the DOUBTS with which a setting may be chosen; `seconds` is the sampling of a latency.
    """

    axes: Mapping[str, Sequence[Any]]
    limits: Mapping[str, float]
    by: Sequence[str] = ()
    allowed: Sequence[str] = ()
    data: Path | None = None
    weights: Path | None = None
    pretrained: bool = False
    seconds: float = 1.0
    time_limit_s: float = 300.0
    wait_s: float = 0.0

    def settings(self, limits: Mapping[str, float], earlier: Sequence[Record]) -> Settings:
        """Return the settings of all cells, of which `limits` are decided by measuring. Raises NoFolder.

        The samples that a bound of p99 takes come on top of the time of a cell. A resumed search goes on with the pictures with
        which it began.
        """
        seed = earlier[0].settings.inputs_seed if earlier else secrets.randbelow(2**31)
        asked: dict[str, Any] = {} if ENERGY in (*limits, *self.by) else {"energy_s": 0.0}
        return Settings.here(
            self.data,
            self.weights,
            inputs_seed=seed,
            pretrained=self.pretrained,
            sampling_s=self.seconds,
            calm_s=5.0,
            cool_s=60.0,
            time_limit_s=self.time_limit_s + 2 * P99_SAMPLES * limits.get("p99", 0.0),
            p99_within_s=limits.get("p99"),
            **asked,
        )


@dataclass(frozen=True)
class Grid:
    """The cells that can be tried, the first of them where the search begins, and why the others cannot, with their number."""

    cells: list[Cell]
    impossible: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a search has found: the answer of what was tried, and what became of the other settings.

    `ruled_out` counts those that needed no trial, by reason, and `by_limit` by the limit that is to blame, with the value that is
    nearest to it. `left` are those that nothing was found out about, `disturbed` those that were tried beside somebody else's
    load. `unclaimed` are the limits that the target, a stand-in, cannot decide.
    """

    answer: Answer | None
    question: Question
    grid: Grid
    tried: dict[str, int]
    ruled_out: dict[str, int]
    by_limit: dict[str, tuple[int, float | None]]
    left: int
    seconds: float
    unclaimed: list[str]
    disturbed: int = 0


def grid(axes: Mapping[str, Sequence[Any]], allowed: Sequence[str] = ()) -> Grid:
    """Return the product of the axes: the usual values where there are none, of runtimes and precisions all that run there.

    Raises MatrixError for a value that does not exist, and NoSpace where nothing can be tried.
    """
    matrix.check_all(axes)
    learn(axes["model"])
    given = matrix.canonical({axis: values for axis, values in axes.items() if values})
    if len(given.get("target", [])) > 1:
        raise NoSpace(f"expected one target, as figures of two devices are not comparable; got {', '.join(given['target'])}")
    named = given.get("runtime", list(runtimes.known()))
    pairs = [(name, precision) for name in named for precision in runtimes.find(name).adapter.precisions]
    pairs = [pair for pair in pairs if pair[1] in given.get("precision", _but_tf32())]
    cells: list[Cell] = []
    refused: Counter[str] = Counter()
    for model in given["model"]:
        sizes = given.get("image_size", [matrix.find(model).image_size])
        rest = (given.get("variant", [DENSE]), pairs, given.get("batch", [1]), sizes, given.get("target", ["cpu"]))
        for variant, (runtime, precision), batch, size, target in itertools.product(*rest):
            cell = Cell(model, variant, runtime, precision, batch, size, target)
            if (why := _refused(cell, allowed)) is None:
                cells.append(cell)
            else:
                refused[why] += 1
    if not cells:
        said = "; ".join(refused) or "no runtime that is there knows one of the precisions"
        raise NoSpace(f"expected one setting at least that can be tried, got none: {said}")
    # the plainest first: what can be said of the others follows from it
    usual = (DENSE, "eager", "fp32")
    cells.sort(key=lambda cell: [cell.variant != usual[0], cell.runtime != usual[1], cell.precision != usual[2]])
    return Grid(cells, dict(refused))


def _but_tf32() -> list[str]:
    """All precisions but a switch of the whole process, in which fp32 would run, too."""
    return [name for name in PRECISIONS if name != "tf32"]


def _refused(cell: Cell, allowed: Sequence[str]) -> str | None:
    if (impossible := matrix.impossible(cell)) is not None:
        return f"{impossible.outcome}: {impossible.reason}"
    if EMULATED not in allowed and PRECISIONS[cell.precision].emulated(
        cell.device_kind, places.of(cell.target).capabilities.cpu_flags
    ):
        return f"this processor has no arithmetic in {cell.precision}; --allow emulated tries it"
    return None


def question_of(asked: Asked, target: str) -> tuple[Question, list[str]]:
    """Return what is asked of what is measured at a target, and the limits that cannot be decided there. Raises NoSpace."""
    standing_in = stood_in(Target.parse(target).place)
    if standing_in is None:
        return Question(dict(asked.limits), asked.by or (THROUGHPUT,), asked.allowed), []
    if wrong := [name for name in asked.by if name in NO_SPEED]:
        raise NoSpace(f"{target} claims no speed and no energy; expected --by {ACCURACY} or {MEMORY}, got {', '.join(wrong)}")
    unclaimed = [name for name in asked.limits if name in OF_SPEED]
    limits = {name: limit for name, limit in asked.limits.items() if name not in unclaimed}
    usual = (ACCURACY, MEMORY) if "accuracy" in limits else (MEMORY,)
    return Question(limits, asked.by or usual, [*asked.allowed, DISTURBED]), unclaimed


class Bounds:
    """What is known of the least time of cells: from bounds of those that were measured, or of the device they stand in for."""

    def __init__(self) -> None:
        self._known: list[tuple[Cell, Bound, Work]] = []

    def learn(self, cell: Cell, record: Record) -> None:
        """Take in a cell that was measured."""
        if record.bound is not None and record.bound.work is not None:
            self._known.append((cell, record.bound, record.bound.work))

    def least_s(self, cell: Cell) -> float | None:
        """Return the least seconds of an inference; None where nothing says it."""
        work = self._work(cell)
        known = None if work is None else self._of_device(cell, work) or self._of_precision(cell)
        return None if work is None or known is None else roofline.least_s(work, known)

    def _work(self, cell: Cell) -> Work | None:
        """Return a cell's work: that of the same net at another batch, or by the formula of a dense one."""
        for other, _, work in self._known:
            if all(getattr(cell, axis) == getattr(other, axis) for axis in ("model", "variant", "precision", "image_size")):
                return work.times(cell.batch / other.batch)
        one = _of_formula(cell.model, cell.image_size, cell.precision) if cell.variant == DENSE else None
        return None if one is None else one.times(cell.batch)

    def _of_precision(self, cell: Cell) -> Bound | None:
        same = (bound for other, bound, _ in reversed(self._known) if other.precision == cell.precision)
        return next(same, None)

    def _of_device(self, cell: Cell, work: Work) -> Bound | None:
        standing_in = stood_in(cell.place)
        if standing_in is None:
            return None
        return roofline.bound(work, devices.named(standing_in, devices.known(devices.of_user())).peaks())


@cache
def _of_formula(model: str, image_size: int, precision: str) -> Work | None:
    formula = matrix.find(model).formula(image_size)
    return None if formula is None else roofline.work(formula, None, precision, 1)


def search(asked: Asked, folder: Path, resume: bool, say: Say, progress: Say, kind: type[Search] = Search) -> Found:
    """Search, in the way of a `kind`, keep each record in a run directory, and return what was found.

    Raises NoSpace, MatrixError, RunError, Busy, BadPlace and NoFolder.
    """
    began = time.monotonic()
    there = grid(asked.axes, asked.allowed)
    question, unclaimed = question_of(asked, there.cells[0].target)
    earlier = journal.read(folder) if resume else []
    settings = asked.settings(question.limits, earlier)
    bounds = Bounds()
    found = kind(there.cells, question, bounds.least_s, asked.limits)
    kept = Journal(folder, resume=resume)
    with (folder / "probe.log").open("ab") as log:
        session = Session(settings, kept, log, progress, asked.wait_s)
        try:
            for remark in session.start(there.cells):
                say(remark)
            of_id = {cell.id: cell for cell in there.cells}
            for record in earlier:
                row, cell = row_of(record, record.id), of_id.get(record.id)
                if cell is not None and row.outcome in KNOWN and not row.disturbed:
                    bounds.learn(cell, record)
                    found.learn(cell, row)
            _try_all(found, bounds, session, say, progress)
        except BaseException:
            session.kill()
            raise
        finally:
            session.close()
    return _found(found, question, there, time.monotonic() - began, unclaimed)


def _try_all(found: Search, bounds: Bounds, session: Session, say: Say, progress: Say) -> None:
    estimate = plan.Estimate(found.cells, [], session.settings, None, session.speed())
    took, planned, of_all = 0.0, 0.0, places.of(found.cells[0].target).remark
    if of_all is not None:
        say(f"all latencies: {of_all}")
    while (cell := found.next()) is not None:
        left = found.left
        scale = (took + plan.PLANNED_S) / (planned + plan.PLANNED_S)
        most = duration(scale * sum(estimate.of(each) for each in left))
        number = f"{len(found.tried) + 1}, at most {len(left) - 1} more after it"
        progress(f"{cell.id} ({number}; about {duration(scale * estimate.of(cell))}, at most {most} in all)")
        probe = session.open(cell, None)
        record = session.finish(probe, *measured(probe))
        took, planned = took + record.seconds, planned + estimate.of(cell)
        bounds.learn(cell, record)
        found.learn(cell, row_of(record, cell.id))
        say(f"[{len(found.tried)}] {table.line(record).replace(f'  ! {of_all}', '')}{_mark(found, cell)}")


def measured(probe: CellProbe) -> tuple[str, str | None]:
    """Check a cell, then time it. Returns its outcome and the reason."""
    try:
        qualify(probe)
        latency = probe.latency()
        probe.memory()
        claim = bound.possible(latency, probe.bound())
    except CellEnded as end:
        return end.outcome, end.reason
    return (OK, None) if claim.holds else (FAILED, claim.found)


def _mark(found: Search, cell: Cell) -> str:
    if found.best is None or found.best[0] != cell:
        return ""
    return "  <- the best so far" if found.fits else "  <- the nearest so far"


def _found(found: Search, question: Question, there: Grid, seconds: float, unclaimed: list[str]) -> Found:
    answers = recommend(found.tried.values(), question)
    left = found.left
    out = [why for cell, why in found.out.items() if cell not in found.tried]
    return Found(
        answers[0] if answers else None,
        question,
        there,
        dict(Counter(row.outcome for row in found.tried.values())),
        dict(Counter(why.words for why in out)),
        {name: _nearest(name, [why.value for why in out if why.limit == name]) for name in FIGURES if _blames(out, name)},
        len(left),
        seconds,
        unclaimed,
        sum(bool(row.disturbed) for row in found.tried.values()),
    )


def _blames(out: Sequence[Why], name: str) -> bool:
    return any(why.limit == name for why in out)


def _nearest(name: str, values: Sequence[float | None]) -> tuple[int, float | None]:
    """Return how many settings a limit ruled out, and the value of those that is nearest to it."""
    known = [value for value in values if value is not None]
    return len(values), (min if FIGURES[name].most else max)(known, default=None)


def summary(found: Found) -> Iterator[str]:
    """Say how many settings were tried, how many did not have to be, and why."""
    total = len(found.grid.cells)
    tried = sum(found.tried.values())
    not_ok = {outcome: count for outcome, count in found.tried.items() if outcome != OK}
    others = "".join(f", {count} {outcome.replace('_', ' ')}" for outcome, count in not_ok.items())
    took = duration(found.seconds)
    yield f"{tried} of {number_of(total, 'setting')} tried in {took}{others}; {total - tried} did not have to be:"
    for why, count in sorted(found.ruled_out.items(), key=lambda pair: -pair[1]):
        yield f"- {count} ruled out: {why}"
    if found.left:
        yield f"- {found.left} not near the best: in more than one axis, by more than two steps, or in a value that was far worse"
    for why, count in found.grid.impossible.items():
        yield f"- {count} more cannot be: {why}"
    for name in found.unclaimed:
        words = "what cannot keep it at the device's peak rates is ruled out" if name in BOUNDED else "nothing here says it"
        yield f"- {name}: the device decides it, no stand-in; {words}"
