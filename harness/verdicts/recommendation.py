"""The best setting within limits, what keeps better ones out, and what is nearest where nothing fits (docs/recommend.md).

A limit is held against the end of an interval that is worse for the setting. What is not known never holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from plumbline.harness.cell import AXES
from plumbline.harness.outcomes import OK
from plumbline.harness.rows import Row
from plumbline.harness.verdicts.figures import DISTURBED, EMULATED, ENERGY, ESTIMATED, FIGURES, ORDERS, THROUGHPUT, Order


class Question(Struct, frozen=True):
    """`limits` by the names of FIGURES, in base units and above 0; `by` names of ORDERS, the first of which counts first.

    `allowed` are the DOUBTS with which a setting may be chosen.
    """

    limits: Mapping[str, float] = {}
    by: Sequence[str] = (THROUGHPUT,)
    allowed: Collection[str] = ()

    @property
    def order(self) -> Order:
        return ORDERS[self.by[0]]


class Setting(Struct, frozen=True):
    """A row beside the limits.

    `excess` is by how much it misses each of them, as a share of the limit: 0 where that holds, None where it is not known.
    `rank` sorts: the best comes first, and no two settings of a machine have the same.
    """

    row: Row
    excess: dict[str, float | None]
    rank: tuple[Any, ...]

    @property
    def missed(self) -> list[str]:
        """The limits that do not hold, or are not known to."""
        return [name for name, excess in self.excess.items() if excess != 0]

    @property
    def distance(self) -> tuple[int, float]:
        """How far it is from fitting: first the number of limits of which that is not known, then the sum of the excesses."""
        known = [excess for excess in self.excess.values() if excess is not None]
        return len(self.excess) - len(known), sum(known)


class Answer(Struct, frozen=True, kw_only=True):
    """What is recommended for one target of one machine.

    `rows` counts its cells, `untimed` by outcome those that were not timed, `aside` by doubt those that were and are left out,
    `unordered` those of which the quantity to order by is not known. The `settings` are all others, of which `fitting` are
    within the limits, the best first; `unknown` counts by limit those of which it is not known, `pictures` those that have a
    top-1 by the data set that it is of.

    `better` are settings better than the best one, and told apart from it, the best first. `steps` has by limit those that
    relaxing it alone lets in, from the smallest relaxation on: each is better than the one before it, and told apart from it.
    Where nothing fits, `nearest` has all settings, the nearest first, and `closest` by limit the one with the best figure.
    `overlooked` is the best of those left out for a doubt, if it is within the limits and better than the best.
    """

    machine: str
    machine_id: str
    target: str
    rows: int
    untimed: dict[str, int]
    aside: dict[str, int]
    unordered: int
    settings: int
    fitting: list[Setting]
    unknown: dict[str, int]
    pictures: dict[str, int]
    better: list[Setting]
    steps: dict[str, list[Setting]]
    nearest: list[Setting]
    closest: dict[str, Setting]
    overlooked: Setting | None

    @property
    def best(self) -> Setting | None:
        return next(iter(self.fitting), None)

    @property
    def timed(self) -> bool:
        """Whether any of its cells was timed."""
        return sum(self.untimed.values()) < self.rows


def recommend(rows: Iterable[Row], question: Question) -> list[Answer]:
    """Return an answer for each target of each machine.

    Of a cell that several sessions measured on one machine the latest record counts, whatever became of it.
    """
    return [_answer(machine, own, question) for machine, own in _by_machine(list(rows)).items()]


def _by_machine(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group the latest rows by the machine's id and the target.

    A cell that never reached a probe has a fingerprint without versions: its machine is that of its session's other cells.
    """
    known = {(row.session, row.target): row.machine_id for row in rows if row.measured}
    latest: dict[tuple[str, tuple[Any, ...]], Row] = {}
    for row in sorted(rows, key=lambda row: row.started_at):
        machine = row.machine_id if row.measured else known.get((row.session, row.target), row.machine_id)
        latest[machine, _axes(row)] = row
    found: dict[tuple[str, str], list[Row]] = {}
    for (machine, _), row in latest.items():
        found.setdefault((machine, row.target), []).append(row)
    return found


def _axes(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, axis) for axis in AXES)


def _answer(machine: tuple[str, str], rows: Sequence[Row], question: Question) -> Answer:
    timed = [(row, doubts(row, question)) for row in rows if row.measured]
    certain = [row for row, found in timed if not found]
    settings = _ranked(certain, question)
    fitting = [each for each in settings if not each.missed]
    best = fitting[0] if fitting else None
    hidden = next((each for each in _ranked([row for row, found in timed if found], question) if not each.missed), None)
    return Answer(
        machine=next((row.machine for row, _ in timed), rows[0].machine),
        machine_id=machine[0],
        target=machine[1],
        rows=len(rows),
        untimed=dict(Counter("counted only" if row.outcome == OK else row.outcome for row in rows if not row.measured)),
        aside=dict(Counter(doubt for _, found in timed for doubt in found)),
        unordered=len(certain) - len(settings),
        settings=len(settings),
        fitting=fitting,
        unknown={name: count for name in question.limits if (count := sum(each.excess[name] is None for each in settings))},
        pictures=dict(Counter(each.row.data for each in settings if each.row.data)),
        better=[each for each in settings if best and each.rank < best.rank and apart(each, best, question.order)],
        steps={name: _steps(name, settings, best, question.order) for name in question.limits},
        nearest=[] if fitting else sorted(settings, key=lambda each: (each.distance, each.rank)),
        closest={} if fitting else _closest(settings, question),
        overlooked=hidden if hidden and (best is None or hidden.rank < best.rank) else None,
    )


def doubts(row: Row, question: Question) -> list[str]:
    """Return what speaks against a row that was timed, less what is allowed. Estimated energy does where energy is asked for."""
    asked = ENERGY in question.by or "energy" in question.limits
    there = {
        EMULATED: row.emulated,
        DISTURBED: bool(row.disturbed or row.remarks),
        ESTIMATED: asked and row.energy_is_estimate,
    }
    return [doubt for doubt, holds in there.items() if holds and doubt not in question.allowed]


def _ranked(rows: Iterable[Row], question: Question) -> list[Setting]:
    """Return the settings of which the quantity to order by is known, the best first."""
    found = [setting_of(row, question) for row in rows if question.order.value(row) is not None]
    return sorted(found, key=lambda each: each.rank)


def setting_of(row: Row, question: Question) -> Setting:
    """Hold a row against the limits, and rank it: by the orders asked for, then by the others of ORDERS, then by its axes."""
    excess = {name: _excess(FIGURES[name].value(row), limit, FIGURES[name].most) for name, limit in question.limits.items()}
    rank = tuple(_place(ORDERS[name], row) for name in dict.fromkeys([*question.by, *ORDERS]))
    return Setting(row, excess, (*rank, _axes(row)))


def _excess(value: float | None, limit: float, most: bool) -> float | None:
    return None if value is None else max(0.0, (value - limit if most else limit - value) / limit)


def _place(order: Order, row: Row) -> tuple[bool, float]:
    """Sort a value; one that is not known comes last."""
    value = order.value(row)
    return (True, 0.0) if value is None else (False, value if order.lower else -value)


def apart(one: Setting, other: Setting, order: Order) -> bool:
    """Whether two settings are told apart in a quantity: the intervals of both are known, and do not overlap."""
    a, b = order.ends(one.row), order.ends(other.row)
    return a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])


def _steps(name: str, settings: Iterable[Setting], best: Setting | None, order: Order) -> list[Setting]:
    """Return what relaxing one limit alone lets in: ever better settings, from the smallest relaxation on."""
    alone = [(excess, each) for each in settings if each.missed == [name] and (excess := each.excess[name]) is not None]
    found, last = [], best
    for _, each in sorted(alone, key=lambda pair: (pair[0], pair[1].rank)):
        if last is None or (each.rank < last.rank and apart(each, last, order)):
            found.append(each)
            last = each
    return found


def _closest(settings: Sequence[Setting], question: Question) -> dict[str, Setting]:
    """Return by limit the setting with the best figure; a limit of which nothing is known has none."""
    found = {}
    for name in question.limits:
        figure = FIGURES[name]
        known = [(value, each) for each in settings if (value := figure.value(each.row)) is not None]
        if known:
            found[name] = min(known, key=lambda pair: (pair[0] if figure.most else -pair[0], pair[1].rank))[1]
    return found
