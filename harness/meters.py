"""What reads a quantity while a cell is timed; those of installed packages are found by entry point."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, ClassVar

GROUP = "plumbline.meters"
UNITS = ("s", "byte", "J", "W", "Hz", "°C", "1")  # base units, and 1 for a count or a share


class Unavailable(Exception):
    """Why a meter reads nothing here: the message goes into the record."""


class Meter:
    """A subclass reads one quantity. `begin` and `end` are called just before and after the samples, never while one is taken."""

    unit: ClassVar[str] = "1"

    def begin(self) -> None:
        """Start reading. Raises Unavailable, with the reason, where there is nothing to read."""

    def end(self) -> float:
        """What came since `begin`, in `unit`."""
        raise NotImplementedError


class CpuTime(Meter):
    """Seconds of processor time, of all threads of the process: how many cores an inference keeps busy."""

    unit = "s"

    def begin(self) -> None:
        self._began = self._now()

    def end(self) -> float:
        return self._now() - self._began

    @staticmethod
    def _now() -> float:
        times = os.times()
        return times.user + times.system


METERS: dict[str, type[Meter]] = {"cpu_time": CpuTime}


def announced() -> dict[str, str]:
    """The meters that installed packages announce in the entry point group `plumbline.meters`: name and object."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in METERS}


def everything() -> dict[str, type[Meter] | str]:
    """Every meter there is; the reason, where an installed package's cannot be loaded."""
    found: dict[str, type[Meter] | str] = dict(METERS)
    for entry in entry_points(group=GROUP):
        if entry.name in METERS:
            continue
        try:
            meter = entry.load()
        except (ImportError, AttributeError) as error:
            found[entry.name] = f"{entry.value!r} cannot be loaded: {error}"
            continue
        fits = isinstance(meter, type) and issubclass(meter, Meter)
        found[entry.name] = meter if fits else f"{entry.value!r} is {meter!r}, wanted a harness.meters.Meter"
    return found


@contextmanager
def reading(inferences: list[int]) -> Iterator[dict[str, dict[str, Any]]]:
    """Let all meters read what happens inside; the dictionary is filled at the end.

    `inferences` is filled inside, with the number of those that the meters saw.
    """
    told: dict[str, dict[str, Any]] = {}
    running: dict[str, Meter] = {}
    for name, meter in everything().items():
        if isinstance(meter, str):
            told[name] = {"unit": None, "value": None, "inferences": None, "unavailable": meter}
            continue
        told[name] = {"unit": meter.unit, "value": None, "inferences": None, "unavailable": None}
        try:
            running[name] = meter()
            running[name].begin()
        except Unavailable as reason:
            running.pop(name, None)
            told[name]["unavailable"] = str(reason)
    yield told
    for name, begun in running.items():
        try:
            told[name].update(value=float(begun.end()), inferences=sum(inferences))
        except Unavailable as reason:
            told[name]["unavailable"] = str(reason)
