"""What a recommendation can limit, and what it can order settings by; each with the statistic that counts (docs/recommend.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:  # the command line makes its options of these, and is to start without what a record needs
    from plumbline.harness.rows import Row

Interval = tuple[float, float]


class Figure(Struct, frozen=True):
    """A figure that can be limited: at `most`, or at least.

    `value` is in base units, or None where it is not known; a person writes it in `unit`, which is `scale` of these.
    `statistic` says which value of a row is held against the limit.
    """

    option: str
    title: str
    unit: str
    scale: float
    most: bool
    statistic: str
    value: Callable[[Row], float | None]


class Order(Struct, frozen=True):
    """A quantity that settings are ordered by. `value` is its point estimate in base units, `ends` its 95 % interval.

    Of a quantity that is no estimate from samples, both ends are the value. None: it is not known.
    """

    title: str
    unit: str
    scale: float
    lower: bool
    value: Callable[[Row], float | None]
    ends: Callable[[Row], Interval | None]


def _of_image(value: float | None, row: Row) -> float | None:
    """Return what one image has of an inference."""
    return None if value is None else value / row.batch


def _rate(seconds: float | None, row: Row) -> float | None:
    return row.batch / seconds if seconds else None


def _ends(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else (low, high)


# By name; those which settings can be ordered by have the name that they have in ORDERS.
FIGURES: dict[str, Figure] = {
    "latency": Figure(
        "max-latency-ms", "latency", "ms", 1e-3, True,
        "an inference (a batch), upper end of the median's 95 % interval", lambda row: row.latency_high_s,
    ),
    "p99": Figure(
        "max-p99-ms", "p99", "ms", 1e-3, True, "an inference (a batch), upper bound at 99 %", lambda row: row.p99_s,
    ),
    "first": Figure(
        "max-first-ms", "first inference", "ms", 1e-3, True, "the only one that a process has", lambda row: row.first_s,
    ),
    "memory": Figure(
        "max-memory-mb", "memory", "MB", 1e6, True, "peak of the whole process, in 10^6 bytes", lambda row: row.process_bytes,
    ),
    "inference_memory": Figure(
        "max-inference-mb", "memory of an inference", "MB", 1e6, True,
        "what it needs, or at most needs, beyond what the process held, in 10^6 bytes", lambda row: row.inference_bytes,
    ),
    "energy": Figure(
        "max-energy-mj", "energy", "mJ", 1e-3, True,
        "an image, beyond the power at rest, upper end of the 95 % interval", lambda row: _of_image(row.joules_high, row),
    ),
    "size": Figure(
        "max-size-mb", "size", "MB", 1e6, True, "the stored weights, in 10^6 bytes", lambda row: row.stored_bytes,
    ),
    "accuracy": Figure(
        "min-top1", "top-1", "", 1.0, False, "a share, lower end of Wilson's 95 % interval", lambda row: row.top1_low,
    ),
    "throughput": Figure(
        "min-images-per-s", "throughput", "images/s", 1.0, False,
        "batch over the upper end of the median's 95 % interval", lambda row: _rate(row.latency_high_s, row),
    ),
    "macs": Figure("max-macs", "MACs", "", 1.0, True, "one image", lambda row: row.macs),
}  # fmt: skip

THROUGHPUT, LATENCY, ENERGY, ACCURACY, MEMORY, SIZE = "throughput", "latency", "energy", "accuracy", "memory", "size"
# In the order in which they break ties. What is of an image makes batches comparable; a latency is what one waits for.
ORDERS: dict[str, Order] = {
    THROUGHPUT: Order(
        "throughput", "images/s", 1.0, False,
        lambda row: _rate(row.latency_s, row), lambda row: _ends(_rate(row.latency_high_s, row), _rate(row.latency_low_s, row)),
    ),
    LATENCY: Order(
        "latency of an inference", "ms", 1e-3, True,
        lambda row: row.latency_s, lambda row: _ends(row.latency_low_s, row.latency_high_s),
    ),
    ENERGY: Order(
        "energy of an image", "mJ", 1e-3, True,
        lambda row: _of_image(row.joules, row),
        lambda row: _ends(_of_image(row.joules_low, row), _of_image(row.joules_high, row)),
    ),
    ACCURACY: Order("top-1", "%", 1e-2, False, lambda row: row.top1, lambda row: _ends(row.top1_low, row.top1_high)),
    MEMORY: Order(
        "memory of the process", "MB", 1e6, True,
        lambda row: row.process_bytes, lambda row: _ends(row.process_bytes, row.process_bytes),
    ),
    SIZE: Order(
        "size of the weights", "MB", 1e6, True,
        lambda row: row.stored_bytes, lambda row: _ends(row.stored_bytes, row.stored_bytes),
    ),
}  # fmt: skip

# What a timed setting may have against it.
EMULATED, DISTURBED, ESTIMATED = "emulated", "disturbed", "estimated"
DOUBTS = {
    EMULATED: "arithmetic that the processor does not have",
    DISTURBED: "a latency that is not that of the net alone on a quiet machine",
    ESTIMATED: "energy that was computed from assumptions, and not measured",
}
