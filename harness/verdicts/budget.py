"""Whether a cell keeps to a budget: limits that are held against both ends of what is known of its figures (docs/budgets.md)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness.record import Record
from plumbline.harness.rows import Row, row_of
from plumbline.harness.statistics import percentile_floor, share_at_most
from plumbline.harness.target import stood_in
from plumbline.harness.verdicts.figures import FIGURES, ORDERS, Figure
from plumbline.harness.verdicts.words import FAILED, INCONCLUSIVE, PASSED
from plumbline.texts import BYTES, NotText, nearest, read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "budgets.toml"
TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
JOULES = {"J": 1.0, "mJ": 1e-3}
# By the unit in which people see a figure: the units in which a limit of it may be written, in base units.
UNITS: dict[str, Mapping[str, float]] = {
    "ms": TIME,
    "MB": BYTES,
    "mJ": JOULES,
    "images/s": {"images/s": 1.0},
    "": {"": 1.0, "%": 1e-2},
}
SAMPLED = ("latency", "p99", "throughput", "energy", "accuracy")
OF_TIME = ("latency", "p99", "first", "throughput")  # which a neighbour makes worse, and never better
MISSED, LEAST_MISSED = "missed", 0.01
CONFIDENCE = 0.99  # of either bound of the share of deadlines that are missed


class BadBudget(PlumblineError, ValueError):
    """A file of budgets that cannot be read, or a budget that is not in it; the message says what was expected."""


class OverBudget(PlumblineError, AssertionError):
    """A cell that is right and was timed, and that misses its budget or cannot be shown to keep to it."""


class Deadline(Struct, frozen=True):
    """At most a `share` of inferences may take longer than so many `seconds`, each with nothing queued before it."""

    share: float
    seconds: float


class Budget(Struct, frozen=True):
    """Limits by the names of FIGURES, in base units, and a deadline that is rarely missed."""

    name: str
    limits: dict[str, float]
    missed: Deadline | None = None

    @property
    def p99_within_s(self) -> float | None:
        """Up to which median samples are taken until they carry a bound of p99, in seconds: the longer of its two limits."""
        asked = [self.limits.get("p99"), None if self.missed is None else self.missed.seconds]
        return max((each for each in asked if each is not None), default=None)

    @property
    def searched(self) -> dict[str, float]:
        """Return the limits of a search among settings; a deadline that 1 in 100 may miss is one of p99. Raises BadBudget."""
        if self.missed is None:
            return self.limits
        if self.missed.share != LEAST_MISSED:
            raise BadBudget(
                f"budget {self.name!r}: a search takes a deadline that 1 % may miss, which is one of p99; got "
                f"{self.missed.share:.3g}; say p99, latency or throughput"
            )
        return {**self.limits, "p99": min(self.missed.seconds, self.limits.get("p99", self.missed.seconds))}


class Held(Struct, frozen=True):
    """A limit held against a cell: `passed`, `failed`, or `inconclusive` where what is known lies on both sides of it.

    `margin` is the share of the limit by which it holds or is missed, by the end of the interval that decides; `words` say all.
    """

    figure: str
    verdict: str
    margin: float | None
    words: str


def load(path: Path = FILE) -> dict[str, Budget]:
    """Return the budgets of a file, by name. Raises BadBudget."""
    try:
        tables = tomllib.loads(read_text(path))
    except OSError as error:
        raise BadBudget(f"{path}: cannot be read: {error.strerror}") from error
    except (NotText, tomllib.TOMLDecodeError) as error:
        raise BadBudget(f"{path}: {error}") from error
    return {name: _budget(f"{path}: budget {name!r}", name, table) for name, table in tables.items()}


def _budget(where: str, name: str, table: object) -> Budget:
    missed = table.pop(MISSED, None) if isinstance(table, dict) else None
    limits = {} if missed is not None and not table else dict(_limits(where, table))
    return Budget(name, limits, None if missed is None else _deadline(f"{where}: {MISSED}", missed))


def _deadline(where: str, given: object) -> Deadline:
    share, of, seconds = str(given).partition(" of ")
    if not of:
        raise BadBudget(f'{where}: expected a share of inferences and a deadline, as "1 % of 33 ms", got {given!r}')
    asked = _base_units(where, share, FIGURES["accuracy"])
    if asked < LEAST_MISSED:
        raise BadBudget(f"{where}: expected 1 % at least, as fewer take more samples than a cell has, got {share!r}")
    return Deadline(asked, _base_units(where, seconds, FIGURES["latency"]))


def _limits(where: str, table: object) -> Iterator[tuple[str, float]]:
    if not isinstance(table, dict) or not table:
        raise BadBudget(f'{where}: expected limits, as p99 = "33 ms", got {table!r}')
    for name, given in table.items():
        if name not in FIGURES:
            known = (*FIGURES, MISSED)
            raise BadBudget(f"{where}: no quantity {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        yield name, _base_units(f"{where}: {name}", given, FIGURES[name])


def _base_units(where: str, given: object, figure: Figure) -> float:
    units = UNITS[figure.unit]
    example = f'"{33 if figure.unit else 0.7} {figure.unit}"'.replace(' "', '"')
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(\D*)", str(given).strip())
    if found is None or isinstance(given, bool) or found[2] not in units:
        named = ", ".join(unit for unit in units if unit)
        raise BadBudget(f"{where}: expected a number with a unit of {named}, as {example}, got {given!r}")
    value = float(found[1]) * units[found[2]]
    if not value > 0 or (figure is FIGURES["accuracy"] and value > 1):
        raise BadBudget(f"{where}: expected {'a share up to 1' if value > 1 else 'a number above 0'}, got {given!r}")
    return value


def find(name: str, path: Path = FILE) -> Budget:
    """Return a budget of a file. Raises BadBudget."""
    known = load(path)
    if name not in known:
        raise BadBudget(f"no budget {name!r}{nearest(name, known)}; known: {', '.join(known) or 'none'} ({path})")
    return known[name]


def held(budget: Budget, record: Record) -> Iterator[Held]:
    """Hold each limit of a budget against a cell that was measured."""
    row = row_of(record, "")
    for name, limit in budget.limits.items():
        yield _held(name, limit, record, row)
    if budget.missed is not None:
        yield _held_deadline(budget.missed, record, row)


def keep(found: Iterable[Held]) -> None:
    """Raise OverBudget where a limit does not hold for certain; the message has all that do not."""
    said: dict[str, list[str]] = {}
    for one in sorted(found, key=lambda one: one.verdict):  # what is missed comes before what is inconclusive
        if one.verdict != PASSED:
            said.setdefault("over budget" if one.verdict == FAILED else "undecided", []).append(one.words)
    if said:
        raise OverBudget("; ".join(f"{word}: {'; '.join(words)}" for word, words in said.items()))


def _held(name: str, limit: float, record: Record, row: Row) -> Held:
    figure = FIGURES[name]
    worse, better = figure.value(row), _better(name, record, row)
    asked = f"{figure.title} {'at most' if figure.most else 'at least'} {_said(limit, figure)}"

    def excess(value: float) -> float:
        return (value - limit if figure.most else limit - value) / limit

    def found(verdict: str, words: str, margin: float | None = None) -> Held:
        return Held(name, verdict, margin, f"{asked}: {words}")

    if worse is None and better is None:
        return found(INCONCLUSIVE, "it is unknown; the record says why")
    if name in (*OF_TIME, "energy") and stood_in(record.cell.place):
        return found(INCONCLUSIVE, f"{row.target} claims memory, and no speed or energy; the device itself decides")
    if name == "energy" and row.energy_is_estimate:
        return found(INCONCLUSIVE, f"only an estimate is known, by {row.meter}; a meter decides")
    if worse is not None and excess(worse) <= 0:
        beyond = f"{-excess(worse):.1%} {'below' if figure.most else 'above'} it"
        return found(PASSED, f"{_said(worse, figure)} ({figure.statistic}), {beyond}", -excess(worse))
    known = _known(better, worse, figure)
    if better is None or excess(better) <= 0:
        return found(INCONCLUSIVE, f"{known}, which does not decide it{'; more samples would' if name in SAMPLED else ''}")
    if name in OF_TIME and row.disturbed:
        return found(INCONCLUSIVE, f"{known}, but it was disturbed: {row.disturbed}")
    empty = row.process_base_bytes if name == "memory" else None
    hopeless = f"; an empty process takes {_said(empty, figure)}" if empty is not None and empty > limit else ""
    return found(FAILED, f"{known}, {excess(better):.1%} {'above' if figure.most else 'below'} it{hopeless}", excess(better))


def _held_deadline(deadline: Deadline, record: Record, row: Row) -> Held:
    """Hold the share of samples beyond a deadline, with its exact bounds, against the share that is allowed."""
    asked = f"deadlines of {_said(deadline.seconds, FIGURES['latency'])} missed at most {deadline.share:.3g}"
    samples = [] if record.latency is None else record.latency.model.samples_s
    late, count = sum(sample > deadline.seconds for sample in samples), len(samples)

    def found(verdict: str, words: str, margin: float | None = None) -> Held:
        return Held(MISSED, verdict, margin, f"{asked}: {words}")

    if not count:
        return found(INCONCLUSIVE, "it is unknown; the record says why")
    if stood_in(record.cell.place):
        return found(INCONCLUSIVE, f"{row.target} claims memory, and no speed or energy; the device itself decides")
    most, least = share_at_most(late, count, CONFIDENCE), 1 - share_at_most(count - late, count, CONFIDENCE)
    known = f"{late} of {count}, {least:.2g} to {most:.2g} at {CONFIDENCE:.0%}"
    if most <= deadline.share:
        return found(PASSED, known, 1 - most / deadline.share)
    if least <= deadline.share:
        return found(INCONCLUSIVE, f"{known}, which does not decide it; more samples would")
    if row.disturbed:
        return found(INCONCLUSIVE, f"{known}, but it was disturbed: {row.disturbed}")
    return found(FAILED, known, least / deadline.share - 1)


def _known(better: float | None, worse: float | None, figure: Figure) -> str:
    if better is None or worse is None:
        (known,) = (value for value in (better, worse) if value is not None)
        return f"at {'most' if better is None else 'least'} {_said(known, figure)}"
    low, high = sorted((better, worse))
    return _said(low, figure) if low == high else f"{low / figure.scale:.4g} to {_said(high, figure)}"


def _said(value: float, figure: Figure) -> str:
    return f"{value / figure.scale:.4g} {figure.unit}".rstrip()


def _better(name: str, record: Record, row: Row) -> float | None:
    """Return the end of a figure's interval that is better for the cell; if that is beyond a limit, it is missed."""
    if name == "p99":
        return _p99_at_least(record, row)
    if name == "inference_memory" and row.inference_is_bound:
        return None
    if name not in ORDERS:
        return FIGURES[name].value(row)
    ends = ORDERS[name].ends(row)
    return None if ends is None else ends[0 if ORDERS[name].lower else 1]


def _p99_at_least(record: Record, row: Row) -> float | None:
    """Return the lower bound of p99 at 99 %; where there are too few samples that of the median, which is no longer."""
    latency = record.latency
    samples = [] if latency is None else sorted(latency.model.samples_s)
    known = (percentile_floor(samples, 0.99), row.latency_low_s)
    return max((each for each in known if each is not None), default=None)
