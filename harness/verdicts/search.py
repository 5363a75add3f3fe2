"""Which setting to try next, and which need no trial: a search of one axis after the other, with proofs where there are any.

The grid is a product of axes. Around the best setting so far those are tried that differ from it in one axis, then those in
another runtime and precision together, as each runtime is good at precisions of its own; where none of them is better, it is the
answer. A value that was far worse than another one beside it is left out. Where nothing fits, the search goes on until every
setting was tried or ruled out.
Source: coordinate search, as in Nocedal and Wright 2006, "Numerical Optimization", section 9.3 (docs/fit.md has what it misses).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from msgspec.structs import replace

from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import OUT_OF_MEMORY
from plumbline.harness.rows import Row
from plumbline.harness.verdicts.figures import FIGURES, LATENCY, ORDERS, THROUGHPUT
from plumbline.harness.verdicts.recommendation import Question, Setting, doubts, setting_of

VARIED = ("runtime", "batch", "precision", "variant", "image_size", "model")  # in this order
TOGETHER = ("runtime", "precision")
FAR = 2.0  # times as bad as the best value of an axis: such a value is not tried again where only the axes of ALIKE are others
_NET, _KERNEL = ("variant", "batch", "image_size"), (*TOGETHER, "variant")
ALIKE = {"runtime": _NET, "precision": _NET, "variant": TOGETHER, "batch": _KERNEL, "image_size": _KERNEL, "model": ()}
ORDERED = ("batch", "image_size")  # of the other axes any value may follow any
REACH = 2  # steps along an axis that has an order: a plateau, or a figure's noise, does not end the search
OF_TIME = ("latency", "p99")  # a larger batch or picture takes no less; where a neighbour was there nothing is said of it
OF_MEMORY = ("memory", "inference_memory")
OF_NET = ("size", "macs", "accuracy")  # what no batch changes
Least = Callable[[Cell], "float | None"]


class Why(NamedTuple):
    """Why a setting needs no trial; if a limit is to blame, its name, and what the figure is at least (at most), if known."""

    words: str
    limit: str | None = None
    value: float | None = None


class Search:
    """Tries settings one after the other, as `next` says, and `learn`s of each what became of it.

    `cells` are the grid, the first of them where the search begins. `least_s` returns the least seconds that an inference of a
    cell can take, or None where that is not known; it is held against `limits`, those of the question and perhaps others, which
    no measurement here decides. `tried` has the row of each cell; `out` says why a cell needs no trial.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        question: Question,
        least_s: Least = lambda _: None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        if not cells:
            raise ValueError("expected one setting at least, got none")
        self.cells, self.question, self._least_s = list(dict.fromkeys(cells)), question, least_s
        self._limits = question.limits if limits is None else limits
        self._values = {axis: sorted({getattr(cell, axis) for cell in self.cells}) for axis in ORDERED}
        self.tried: dict[Cell, Row] = {}
        self._known: dict[Cell, float] = {}  # of those that may be the best, what settings are ordered by
        self.out: dict[Cell, Why] = {}
        self.best: tuple[Cell, Setting] | None = None  # where none is within the limits, the nearest

    def learn(self, cell: Cell, row: Row) -> None:
        """Take in what became of a cell."""
        self.tried[cell] = row
        value = self.question.order.value(row) if row.measured else None
        if value is not None and not doubts(row, self.question):
            if value > 0:
                self._known[cell] = value
            setting = setting_of(row, self.question)
            if self.best is None or self._badness(setting) < self._badness(self.best[1]):
                self.best = cell, setting

    @property
    def fits(self) -> bool:
        """Whether a setting within the limits was found."""
        return self.best is not None and not self.best[1].missed

    def next(self) -> Cell | None:
        """Return the cell to try next; None where the search has ended."""
        if self.best is None:
            return self._first(self.cells)
        near = self._first(self._near(self.best[0]))
        return near if near is not None or self.fits else self._first(self.cells)

    @property
    def left(self) -> list[Cell]:
        """Cells that were neither tried nor ruled out."""
        return [cell for cell in self.cells if cell not in self.tried and self._ruled_out(cell) is None]

    def _first(self, cells: Any) -> Cell | None:
        return next((cell for cell in cells if cell not in self.tried and self._ruled_out(cell) is None), None)

    def _near(self, best: Cell) -> Iterator[Cell]:
        """Yield the cells near the best one; once something fits, only those that may be better by what was tried beside them."""
        for axis in VARIED:
            for cell in self._around(best, axis):
                if not self.fits or FAR * self._share(cell, axis, ALIKE[axis]) >= 1:
                    yield cell
        if self.fits:
            for cell in self.cells:
                shares = (self._share(cell, axis, (*_NET, *TOGETHER)) for axis in TOGETHER)
                if _same(cell, best, TOGETHER) and FAR * prod(shares) >= 1:
                    yield cell

    def _share(self, cell: Cell, axis: str, alike: tuple[str, ...]) -> float:
        """Return how good a cell's value of an axis is, as a share of the best value that was tried beside it.

        Beside it are cells that differ in that axis alone, where the axes of `alike` have any values. Of several shares it is the
        largest, and 1 where there is none.
        """
        lines = defaultdict[Cell, dict[Any, float]](dict)
        for other, value in self._known.items():
            if _same(other, cell, (axis, *alike)):
                lines[replace(other, **{axis: getattr(cell, axis)})][getattr(other, axis)] = value
        best = min if self.question.order.lower else max
        ratios = [
            line[mine] / best(line.values()) for line in lines.values() if len(line) > 1 and (mine := getattr(cell, axis)) in line
        ]
        return max((min(ratio, 1 / ratio) for ratio in ratios), default=1.0)

    def _around(self, best: Cell, axis: str) -> Iterator[Cell]:
        """Yield the cells that differ from the best in an axis alone, the nearest first.

        Of a model that does not take pictures of the best one's size, those of any size.
        """
        if axis == "model":
            there = [cell for cell in self.cells if _same(cell, best, ("model", "image_size")) and cell.model != best.model]
            alike = {cell.model for cell in there if cell.image_size == best.image_size}
            yield from (cell for cell in there if cell.image_size == best.image_size or cell.model not in alike)
            return
        there = [cell for cell in self.cells if _same(cell, best, (axis,))]
        if axis not in ORDERED:
            yield from there
            return
        values = self._values[axis]

        def steps(cell: Cell) -> int:
            return abs(values.index(getattr(cell, axis)) - values.index(getattr(best, axis)))

        yield from sorted((cell for cell in there if steps(cell) <= REACH), key=steps)

    def _badness(self, setting: Setting) -> tuple[Any, ...]:
        """Sort settings: by what they miss, then by the order that was asked for.

        A p99 that too few samples carry is not known, but is no less than the median.
        """
        excess = dict(setting.excess)
        for name in OF_TIME:
            low = setting.row.latency_low_s
            if name in excess and excess[name] is None and low is not None and low > self.question.limits[name]:
                excess[name] = low / self.question.limits[name] - 1
        known = [each for each in excess.values() if each is not None]
        return len(excess) - len(known), sum(known), setting.rank

    # -- what needs no trial --------------------------------------------------------------------------------------

    def _ruled_out(self, cell: Cell) -> Why | None:
        """Say why a cell is not worth a trial; what is once known stays so."""
        if cell not in self.out and (why := next(self._reasons(cell), None)) is not None:
            self.out[cell] = why
        return self.out.get(cell)

    def _reasons(self, cell: Cell) -> Iterator[Why]:
        if least_s := self._least_s(cell):
            yield from self._by_bound(cell, least_s)
        for other, row in self.tried.items():
            if _same(cell, other, ORDERED):
                yield from self._by_smaller(cell, other, row)
            if row.measured and _same(cell, other, ("batch",)):
                yield from self._by_batch(row)
            if cell.runtime == other.runtime:
                yield from self._by_process(row)
            unknown = "accuracy" in self.question.limits and row.measured and row.top1 is None
            if unknown and _same(cell, other, ("runtime", "precision", "batch")):
                yield Why("its top-1 cannot be known: there are no pictures, or no trained weights", "accuracy")

    def _by_bound(self, cell: Cell, least_s: float) -> Iterator[Why]:
        at_peak = "at the peak rates of the device"
        for name in (*OF_TIME, "first"):
            if name in self._limits and least_s > self._limits[name]:
                yield Why(f"{at_peak} an inference is beyond the limit of {FIGURES[name].title}", name, least_s)
        if THROUGHPUT in self._limits and cell.batch / least_s < self._limits[THROUGHPUT]:
            yield Why(f"{at_peak} throughput is below the limit", THROUGHPUT, cell.batch / least_s)
        if self.fits and self.best is not None and self.question.by[0] in (THROUGHPUT, LATENCY):
            ends = self.question.order.ends(self.best[1].row)
            could = least_s if self.question.by[0] == LATENCY else cell.batch / least_s
            if ends is not None and (could > ends[1] if self.question.order.lower else could < ends[0]):
                yield Why(f"{at_peak} it is no better than the best so far")

    def _by_smaller(self, cell: Cell, other: Cell, row: Row) -> Iterator[Why]:
        """Say what follows from a smaller batch or picture, which takes no more time and memory."""
        if other.batch > cell.batch or other.image_size > cell.image_size:
            return
        if row.outcome == OUT_OF_MEMORY:
            yield Why("a smaller batch or picture was out of memory", "memory")
        if not row.measured:
            return
        for name in (*OF_MEMORY, *(() if row.disturbed else OF_TIME)):
            least = _least(name, row)
            if name in self.question.limits and least is not None and least > self.question.limits[name]:
                yield Why(f"a smaller batch or picture is beyond the limit of {FIGURES[name].title}", name, least)
        same_net = other.image_size == cell.image_size and not doubts(row, self.question)
        if self.question.by[0] == LATENCY and same_net and not setting_of(row, self.question).missed:
            yield Why("a smaller batch fits, and takes no longer")

    def _by_batch(self, row: Row) -> Iterator[Why]:
        """Say what follows from another batch, at which the net is as large and as accurate."""
        for name in OF_NET:
            if name not in self.question.limits:
                continue
            figure, limit = FIGURES[name], self.question.limits[name]
            value = row.top1_high if name == "accuracy" else figure.value(row)
            if value is not None and (value > limit if figure.most else value < limit):
                yield Why(f"at another batch it missed the limit of {figure.title}", name, figure.value(row))

    def _by_process(self, row: Row) -> Iterator[Why]:
        """Say what follows from what a process takes before it has built a net."""
        limit, empty = self.question.limits.get("memory"), row.process_base_bytes
        if limit is not None and empty is not None and empty > limit:
            yield Why("the limit of memory is below what an empty process takes", "memory", empty)


def _same(cell: Cell, other: Cell, but: tuple[str, ...]) -> bool:
    return all(getattr(cell, axis) == getattr(other, axis) for axis in cell.__struct_fields__ if axis not in but)


def _least(name: str, row: Row) -> float | None:
    """Return what a figure of a cell is at least."""
    if name in OF_TIME:
        return row.latency_low_s
    if name == "inference_memory" and row.inference_is_bound:
        return None
    return ORDERS[name].value(row) if name in ORDERS else FIGURES[name].value(row)
