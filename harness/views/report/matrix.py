"""The evaluation matrix of a page: its columns, and how a number of a row is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from plumbline.harness.cell import AXES
from plumbline.harness.outcomes import OK
from plumbline.harness.rows import DENSE, QUANTITIES, Quantity, Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.comparison import ratio_of_medians

COUNTED = "counted only"
NOT_TIMED = "its tier has its parameters and MACs counted, and does not time it"
FEW = "few"
SESSION = "session"
GAIN = "fp32_ratio"
HEADS = {"image_size": "px"}
COLUMNS = (
    "latency_s", "p90_s", "p99_s", "first_s", "first_ratio", "end_to_end_s", "images_per_s", GAIN, "theoretical_speedup",
    "speedup", "top1", "accuracy_loss", "error", "macs", "effective_macs", "parameters", "effective_parameters",
    "inference_bytes", "process_bytes", "process_own_bytes", "stored_bytes", "joules",
)  # fmt: skip
OF_VARIANTS = ("effective_macs", "effective_parameters")  # as many as the dense net's where there is no variant
OF_THE_MATRIX = {GAIN: Quantity("speed-up over fp32, not in turns", "x", 1.0, "higher")}


class Shown(Struct, frozen=True):
    """A cell of a table: what is read, and the number by which it is sorted."""

    text: str = ""
    value: float | None = None
    doubt: str = ""


class Gain(Struct, frozen=True):
    """How many times as fast a cell is as the same one in fp32, of the same session, with its 95 % interval if it has one."""

    ratio: float
    interval: tuple[float, float] | None


class Matrix:
    """The rows of a page, the axes and columns in which they have anything to say, and what only a page knows of them.

    `gains` are those of cells in other precisions over fp32, by the keys of their rows.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.rows = evidence.shown
        self.gains = gains(self.rows)
        known = {name for name in COLUMNS if any(getattr(row, name, None) is not None for row in self.rows)}
        known |= {GAIN} if self.gains else set()
        known -= set() if any(row.variant != DENSE for row in self.rows) else set(OF_VARIANTS)
        self.columns = [name for name in COLUMNS if name in known]
        self.values = {axis: self._values(axis) for axis in (*AXES, SESSION)}
        self.axes = [axis for axis, values in self.values.items() if axis == "model" or len(values) > 1]
        self._began: dict[str, str] = {}
        for row in self.rows:
            self._began[row.session] = min(row.started_at, self._began.get(row.session, row.started_at))

    def _values(self, axis: str) -> list[Any]:
        return sorted({getattr(row, axis) for row in self.rows}, key=lambda value: (str(type(value)), value))

    def axis(self, value: Any, axis: str) -> str:
        """Return a value of an axis as it is read: of a session, when it began, too."""
        return f"{self._began[value][:16].replace('T', ' ')} {value}" if axis == SESSION else str(value)

    def shown(self, row: Row, name: str) -> Shown:
        """Return a number of a row as it is read, in the unit of its column."""
        if name != GAIN:
            return shown(row, name)
        gain = self.gains.get(row.key)
        return Shown() if gain is None else Shown(number(gain.ratio), gain.ratio, _ends(gain.interval))

    def more(self, row: Row) -> dict[str, float]:
        """Return the numbers of a row that are not its own fields."""
        return {GAIN: self.gains[row.key].ratio} if row.key in self.gains else {}


def gains(rows: Sequence[Row]) -> dict[str, Gain]:
    """Return how many times as fast cells of other precisions are as the same cells in fp32, of the same session and weights.

    The two were not timed in turns, and `Delivery` is not about them. An emulated cell has no gain that is the processor's.
    """
    alike: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row.measured and not row.emulated:
            key = (row.machine_id, row.session, row.weights, *(getattr(row, axis) for axis in AXES if axis != "precision"))
            alike.setdefault(key, {})[row.precision] = row
    pairs = [(row, own["fp32"]) for own in alike.values() if "fp32" in own for row in own.values() if row is not own["fp32"]]
    return {row.key: _gain(row, full) for row, full in pairs if row.latency_s and full.latency_s}


def _gain(row: Row, full: Row) -> Gain:
    assert row.latency_s is not None and full.latency_s is not None
    own, theirs = (row.latency_low_s, row.latency_high_s), (full.latency_low_s, full.latency_high_s)
    if own[0] is None or own[1] is None or theirs[0] is None or theirs[1] is None:
        return Gain(full.latency_s / row.latency_s, None)
    return Gain(*ratio_of_medians(row.latency_s, (own[0], own[1]), full.latency_s, (theirs[0], theirs[1])))


def outcome(row: Row) -> str:
    """Return the outcome of a row as people see it: what is only counted was not timed, and is another thing."""
    return COUNTED if row.outcome == OK and not row.measured else row.outcome


def why(row: Row) -> str:
    """Say why a row is not what one would expect; nothing where it is."""
    return row.reason or row.disturbed or row.remarks or (NOT_TIMED if outcome(row) == COUNTED else "")


def head(name: str) -> str:
    """Return the head of a column, with its unit."""
    quantity = {**QUANTITIES, **OF_THE_MATRIX}[name]
    return f"{quantity.title}, {quantity.unit}" if quantity.unit else quantity.title


def shown(row: Row, name: str) -> Shown:
    """Return a number of a row as it is read, in the unit of its column."""
    value = getattr(row, name)
    if value is None:
        return Shown(_missing(row, name))
    scale = QUANTITIES[name].scale
    text, doubt = number(value / scale), ""
    if name == "latency_s" and row.latency_low_s is not None and row.latency_high_s is not None:
        if row.vague:
            text = f"{number(row.latency_low_s / scale)}–{number(row.latency_high_s / scale)}"
        else:
            doubt = f"±{(row.latency_high_s - row.latency_low_s) / 2 / value:.1%}"
    if name == "latency_s":
        text += row.latency_marks
    if name == "top1" and row.top1_low is not None and row.top1_high is not None:
        text = f"{value / scale:.2f}"
        doubt = f"{row.top1_low / scale:.1f}–{row.top1_high / scale:.1f} of {row.images}"
    if name == "inference_bytes" and row.inference_is_bound:
        text = f"≤{text}"
    if name == "joules":
        text = f"≈{text}" if row.energy_is_estimate else text
        if row.joules_low is not None and row.joules_high is not None:
            doubt = f"{number(row.joules_low / scale)}–{number(row.joules_high / scale)}"
    if name == "speedup" and row.speedup_low is not None and row.speedup_high is not None:
        doubt = _ends((row.speedup_low, row.speedup_high))
    return Shown(text, value, doubt)


def _missing(row: Row, name: str) -> str:
    """Say why there is no number, where that is known."""
    if name == "top1" and row.measured and row.weights == "seeded":
        return "untrained"
    return FEW if name in ("p90_s", "p99_s") and row.measured else ""


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{number(interval[0])}–{number(interval[1])}"


def number(value: float) -> str:
    """Return three digits, of a thousand and more all of them."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
