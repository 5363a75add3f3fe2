"""Whether a measurement was disturbed: what was read meanwhile (harness/probe/disturbance.py), held against limits.

A limit lies above what cells of a quiet machine show, and below what a busy neighbour does (docs/measuring.md, "Disturbance").
A quantity that cannot be read here says nothing; the record says why.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from plumbline.harness.readings import Reading, value_of


class Limit(Struct, frozen=True):
    """The most of a quantity that a quiet machine shows, and what more of it means."""

    most: float
    words: str


LIMITS: dict[str, Limit] = {
    "waited": Limit(0.05, "its threads together waited for a processor for {:.1%} of the time"),
    "others": Limit(0.05, "other processes had {:.1%} of its processors"),
    "cpu_steal": Limit(0.02, "the hypervisor took {:.1%} of its processors"),
    "major_faults": Limit(0, "{:.0f} of its pages had to be read from the disk or from swap"),
    "clock_drop": Limit(0.1, "the clock fell by {:.0%}"),
    "gpu_others": Limit(0.05, "other processes had {:.1%} of its GPU"),
    "throttled": Limit(0, "the processor was throttled ({:.0f})"),
}


def reasons(readings: Mapping[str, Reading]) -> list[str]:
    """Say what disturbed a measurement, the worst first; nothing where it was quiet."""
    found = {name: value for name in LIMITS if (value := value_of(readings, name)) is not None and value > LIMITS[name].most}
    return [LIMITS[name].words.format(found[name]) for name in sorted(found, key=lambda name: -excess(name, found[name]))]


def excess(name: str, value: float) -> float:
    """By how many times its limit a quantity is exceeded."""
    return value / (LIMITS[name].most or 1.0)


def severity(readings: Mapping[str, Reading]) -> float:
    """Return the largest excess: of two measurements the one with less was disturbed less."""
    return max((excess(name, value) for name in LIMITS if (value := value_of(readings, name)) is not None), default=0.0)
