"""What reads a quantity while a cell is timed; those of installed packages are found by entry point."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import ClassVar

from plumbline import PlumblineError, UnknownName, entry_points
from plumbline.harness.readings import UNITS as UNITS
from plumbline.harness.readings import Reading, Readings, samples_of

GROUP = "plumbline.meters"


class Unavailable(PlumblineError):
    """Why a meter reads nothing here: the message goes into the record."""


class Meter:
    """A subclass reads one quantity. `begin` and `end` are called just before and after the samples, never while one is taken.

    `unit` is one of UNITS, `scope` whose quantity it is: `process` or `machine`. One that takes samples at a rate sets `rate_hz`.
    """

    unit: ClassVar[str] = "1"
    scope: ClassVar[str] = "process"
    rate_hz: ClassVar[float | None] = None

    def begin(self) -> None:
        """Start reading. Raises Unavailable, with the reason, where there is nothing to read."""

    def end(self) -> float | Sequence[float]:
        """Return what was read since `begin`, in `unit`: one value, or samples. Raises Unavailable."""
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
    """Return the meters of installed packages."""
    return entry_points.announced(GROUP, METERS)


def find(name: str) -> type[Meter]:
    """Return the class of a meter. Raises `UnknownName`; loads another package's."""
    if name in METERS:
        return METERS[name]
    entry = announced()[name]
    meter = entry_points.load("meter", entry)
    if not (isinstance(meter, type) and issubclass(meter, Meter)):
        raise UnknownName(f"meter {name!r}: {entry.value!r} is {meter!r}, expected a subclass of {__name__}.Meter")
    return meter


class Running:
    """All meters there are, running from now on until they are read."""

    def __init__(self) -> None:
        self._running: dict[str, Meter] = {}
        self._found: dict[str, type[Meter]] = {}
        self._reasons: dict[str, str] = {}
        self._names = (*METERS, *announced())
        for name in self._names:
            try:
                self._found[name] = find(name)
                begun = self._found[name]()
                begun.begin()
                self._running[name] = begun
            except (UnknownName, Unavailable) as reason:
                self._reasons[name] = str(reason)

    def read(self, inferences: int) -> Readings:
        """Read each over that many inferences, or say why it is unavailable."""
        found: Readings = {}
        for name in self._names:
            meter = self._found.get(name, Meter)
            values: list[float] = []
            if name in self._running:
                try:
                    values = samples_of(self._running[name].end())
                except Unavailable as reason:
                    self._reasons[name] = str(reason)
            window = inferences if values else None
            found[name] = Reading(meter.unit, meter.scope, values, meter.rate_hz, window, self._reasons.get(name))
        return found
