"""What reads a quantity while a cell is timed; those of installed packages are found by entry point."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

from plumbline import PlumblineError, UnknownName, entry_points

GROUP = "plumbline.meters"
UNITS = ("s", "byte", "J", "W", "Hz", "°C", "1")  # base units, and 1 for a count or a share


class Unavailable(PlumblineError):
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


def announced() -> dict[str, EntryPoint]:
    """The meters of installed packages."""
    return entry_points.announced(GROUP, METERS)


def find(name: str) -> type[Meter]:
    """The class of a meter. Raises `UnknownName`; loads another package's."""
    if name in METERS:
        return METERS[name]
    entry = announced()[name]
    meter = entry_points.load("meter", entry)
    if not (isinstance(meter, type) and issubclass(meter, Meter)):
        raise UnknownName(f"meter {name!r}: {entry.value!r} is {meter!r}, wanted a subclass of {__name__}.Meter")
    return meter


class Reading:
    """All meters there are, reading from now on until they are asked."""

    def __init__(self) -> None:
        self._running: dict[str, Meter] = {}
        self._units: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._names = (*METERS, *announced())
        for name in self._names:
            try:
                meter = find(name)
                self._units[name] = meter.unit
                begun = meter()
                begun.begin()
                self._running[name] = begun
            except (UnknownName, Unavailable) as reason:
                self._reasons[name] = str(reason)

    def told(self, inferences: int) -> dict[str, dict[str, Any]]:
        """What each read over that many inferences, or why it did not."""
        values: dict[str, float] = {}
        for name, meter in self._running.items():
            try:
                values[name] = float(meter.end())
            except Unavailable as reason:
                self._reasons[name] = str(reason)
        return {
            name: {
                "unit": self._units.get(name),
                "value": values.get(name),
                "inferences": inferences if name in values else None,
                "unavailable": self._reasons.get(name),
            }
            for name in self._names
        }
