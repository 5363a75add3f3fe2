"""`plumbline fit`: search the grid of a model for the best setting within a budget, measure what it takes, say what binds."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline import PlumblineError
from plumbline.harness import devices, journal, roofline, runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Bound, Work
from plumbline.harness.journal import Journal
from plumbline.harness.outcomes import FAILED, OK, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.record import Record
from plumbline.harness.rows import row_of
from plumbline.harness.session import matrix, places, plan
from plumbline.harness.session.client import CellProbe, NotDescribed, describe
from plumbline.harness.session.session import Session
from plumbline.harness.settings import Settings
from plumbline.harness.target import Target, stood_in
from plumbline.harness.verdicts import bound, budget
from plumbline.harness.verdicts.figures import ACCURACY, DISTURBED, ENERGY, LATENCY, MEMORY, THROUGHPUT
from plumbline.harness.verdicts.qualification import qualify
from plumbline.harness.verdicts.recommendation import Answer, Question, recommend
from plumbline.harness.verdicts.search import Search
from plumbline.harness.views import table
from plumbline.models.compression.variants import DENSE
from plumbline.texts import duration, number_of

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
    seconds: float = 1.0
    time_limit_s: float = 300.0
    wait_s: float = 0.0

    def settings(self, earlier: Sequence[Record]) -> Settings:
        """Return the settings of all cells; a resumed search goes on with the pictures with which it began. Raises NoFolder."""
        seed = earlier[0].settings.inputs_seed if earlier else secrets.randbelow(2**31)
        asked: dict[str, Any] = {} if ENERGY in (*self.limits, *self.by) else {"energy_s": 0.0}
        return Settings.here(
            self.data,
            inputs_seed=seed,
            sampling_s=self.seconds,
            calm_s=5.0,
            cool_s=60.0,
            time_limit_s=self.time_limit_s,
            p99_within_s=self.limits.get("p99"),
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

    `ruled_out` counts those that needed no trial, by reason; `left` are those that nothing was found out about. `unclaimed` are
    the limits that the target, a stand-in, cannot decide.
    """

    answer: Answer | None
    question: Question
    grid: Grid
    tried: dict[str, int]
    ruled_out: dict[str, int]
    left: int
    seconds: float
    unclaimed: list[str]


def grid(axes: Mapping[str, Sequence[Any]]) -> Grid:
    """Return the product of the axes: the usual values where there are none, of runtimes and precisions all that run there.

    Raises MatrixError for a value that does not exist, and NoSpace where nothing can be tried.
    """
    for axis, values in axes.items():
        for value in values:
            matrix.check(axis, value)
    references = [name for name in axes["model"] if name in matrix.outside(_NO_TIER, {"model": axes["model"]})]
    try:
        for reference, model in zip(references, describe(references) if references else ()):
            matrix.learn(reference, model)
    except NotDescribed as error:
        raise matrix.MatrixError(str(error)) from error
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
            if (why := _refused(cell)) is None:
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


_NO_TIER = matrix.Tier("none", ())


def _but_tf32() -> list[str]:
    """All precisions but a switch of the whole process, in which fp32 would run, too."""
    return [name for name in PRECISIONS if name != "tf32"]


def _refused(cell: Cell) -> str | None:
    if (impossible := matrix.impossible(cell)) is not None:
        return f"{impossible.outcome}: {impossible.reason}"
    if PRECISIONS[cell.precision].emulated(cell.device_kind, places.of(cell.target).capabilities.cpu_flags):
        return f"this processor has no arithmetic in {cell.precision}"
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
        self._records: list[Record] = []

    def learn(self, record: Record) -> None:
        """Take in a cell that was measured."""
        if record.bound is not None and record.bound.work is not None:
            self._records.append(record)

    def least_s(self, cell: Cell) -> float | None:
        """Return the least seconds of an inference; None where nothing says it."""
        work = self._work(cell)
        known = None if work is None else self._of_device(cell, work) or self._of_precision(cell)
        return None if work is None or known is None else roofline.least_s(work, known)

    def _work(self, cell: Cell) -> Work | None:
        """Return a cell's work: that of the same net at another batch, or by the formula of a dense one."""
        for record in self._records:
            other = record.cell
            if all(getattr(cell, axis) == getattr(other, axis) for axis in ("model", "variant", "precision", "image_size")):
                assert record.bound is not None and record.bound.work is not None
                return record.bound.work.times(cell.batch / other.batch)
        formula = matrix.find(cell.model).formula(cell.image_size) if cell.variant == DENSE else None
        return None if formula is None else roofline.work(formula, None, cell.precision, cell.batch)

    def _of_precision(self, cell: Cell) -> Bound | None:
        return next(
            (
                record.bound
                for record in reversed(self._records)
                if (record.cell.precision, record.cell.target) == (cell.precision, cell.target)
            ),
            None,
        )

    def _of_device(self, cell: Cell, work: Work) -> Bound | None:
        standing_in = stood_in(cell.place)
        if standing_in is None:
            return None
        return roofline.bound(work, devices.named(standing_in, devices.known(devices.of_user())).peaks())


def search(asked: Asked, folder: Path, resume: bool, say: Say, progress: Say, kind: type[Search] = Search) -> Found:
    """Search, in the way of a `kind`, keep each record in a run directory, and return what was found.

    Raises NoSpace, MatrixError, RunError, Busy, BadPlace and NoFolder.
    """
    began = time.monotonic()
    there = grid(asked.axes)
    question, unclaimed = question_of(asked, there.cells[0].target)
    earlier = journal.read(folder) if resume else []
    settings = asked.settings(earlier)
    bounds = Bounds()
    found = kind(there.cells, question, bounds.least_s, asked.limits)
    kept = Journal(folder, resume=resume)
    with (folder / "probe.log").open("ab") as log:
        session = Session(settings, kept, log, progress, asked.wait_s)
        try:
            for remark in session.start(there.cells):
                say(remark)
            for record in earlier:
                if (cell := next((each for each in there.cells if each.id == record.cell.id), None)) is not None:
                    bounds.learn(record)
                    found.learn(cell, row_of(record, cell.id))
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
        bounds.learn(record)
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
    return Found(
        answers[0] if answers else None,
        question,
        there,
        dict(Counter(row.outcome for row in found.tried.values())),
        dict(Counter(found.out[cell] for cell in there.cells if cell in found.out and cell not in found.tried)),
        len(left),
        seconds,
        unclaimed,
    )


def summary(found: Found) -> Iterator[str]:
    """Say how many settings were tried, how many did not have to be, and why."""
    total = len(found.grid.cells)
    tried = sum(found.tried.values())
    not_ok = {outcome: count for outcome, count in found.tried.items() if outcome != OK}
    others = "".join(f", {count} {outcome}" for outcome, count in not_ok.items())
    took = duration(found.seconds)
    yield f"{tried} of {number_of(total, 'setting')} tried in {took}{others}; {total - tried} did not have to be:"
    for why, count in sorted(found.ruled_out.items(), key=lambda pair: -pair[1]):
        yield f"- {count} ruled out: {why.partition(': ')[2]}"
    if found.left:
        yield f"- {found.left} not near the best: each differs from it in more than one axis, or by more than two steps"
    for why, count in found.grid.impossible.items():
        yield f"- {count} more cannot be: {why}"
    for name in found.unclaimed:
        yield f"- {name}: the device decides it, no stand-in; what cannot keep it at the device's peak rates is ruled out"
