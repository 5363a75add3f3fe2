"""The evaluation matrix of a page: its columns, and how a number of a row is read."""

from __future__ import annotations

from msgspec import Struct

from plumbline.harness.outcomes import OK
from plumbline.harness.rows import QUANTITIES, Row

COUNTED = "counted only"
HEADS = {"image_size": "px"}
COLUMNS = (
    "latency_s", "p90_s", "p99_s", "first_s", "end_to_end_s", "images_per_s", "top1", "accuracy_loss", "error", "macs",
    "effective_macs", "parameters", "inference_bytes", "process_bytes", "stored_bytes", "joules", "theoretical_speedup",
    "speedup",
)  # fmt: skip


class Shown(Struct, frozen=True):
    """A cell of a table: what is read, and the number by which it is sorted."""

    text: str = ""
    value: float | None = None
    doubt: str = ""


def outcome(row: Row) -> str:
    """Return the outcome of a row as people see it: what is only counted was not timed, and is another thing."""
    return COUNTED if row.outcome == OK and not row.measured else row.outcome


def head(name: str) -> str:
    """Return the head of a column, with its unit."""
    quantity = QUANTITIES[name]
    return f"{quantity.title}, {quantity.unit}" if quantity.unit else quantity.title


def shown(row: Row, name: str) -> Shown:
    """Return a number of a row as it is read, in the unit of its column."""
    value = getattr(row, name)
    if value is None:
        return Shown("untrained") if name == "top1" and row.measured and row.weights == "seeded" else Shown()
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
        doubt = f"{row.speedup_low:.2f}–{row.speedup_high:.2f}"
    return Shown(text, value, doubt)


def number(value: float) -> str:
    """Return three digits, of a thousand and more all of them."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
