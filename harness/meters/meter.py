"""What a meter must declare and do. Each kind is in a file of its own beside this one; `running.py` starts and reads them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness.readings import samples_of


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


class Rail(Struct, frozen=True):
    """What an energy meter says of itself, once it is open.

    `name` is what it measures, as `VDD_IN` or `package-0`. `unit` is J of a counter that only grows, W of a power that is
    sampled. It has a new value every `update_s`, and `resolution` is the least step between two values, in its unit.
    `averaged_s` is over how long a value is averaged: so long it still knows of what was before. `about` says what else a
    reader must know: what is in the total, and what was assumed.
    """

    name: str
    unit: str
    update_s: float
    resolution: float
    averaged_s: float = 0.0
    about: str = ""


class EnergyMeter(Meter):
    """A meter of energy or power, in joules since any moment or in watts. It says of which `rail` when it is opened.

    `open` and `read` do all that a subclass must. They raise Unavailable, with the reason and what to do. Files are found below
    `root`, so that a recorded device can be replayed. `device` is that of the cell, as `cpu` or `cuda:0`. `clock` is the time of
    day, in seconds since 1970 UTC. `estimate` says that it does not measure, but multiplies assumptions.
    """

    unit: ClassVar[str] = "J"
    scope: ClassVar[str] = "machine"
    estimate: ClassVar[bool] = False

    def __init__(self, root: Path = Path("/"), device: str = "cpu", clock: Callable[[], float] = time.time) -> None:
        self.root, self.device, self.clock = root, device, clock

    def open(self) -> Rail:
        """Find the instrument. Raises Unavailable where there is none."""
        raise NotImplementedError

    def read(self) -> float:
        """Return what it shows now, in the rail's unit. Raises Unavailable."""
        raise NotImplementedError

    def begin(self) -> None:
        """Be a plain meter: read once at the start, and at the end. `running.Watch` does more."""
        self._rail = self.open()
        self._first = self.read()

    def end(self) -> float:
        last = self.read()
        return last - self._first if self._rail.unit == "J" else last


class Counter:
    """A counter of energy that may wrap. Where it goes backwards otherwise it was reset, and `add` shows that."""

    def __init__(self, wraps_at: float | None = None) -> None:
        self._wraps_at = wraps_at
        self._last: float | None = None
        self._total = 0.0

    def add(self, value: float) -> float:
        """Take what the counter shows; return how much it counted since the first one."""
        step = 0.0 if self._last is None else value - self._last
        if step < 0 and self._wraps_at is not None:
            step += self._wraps_at
        self._last, self._total = value, self._total + step
        return self._total


@contextmanager
def asked() -> Iterator[None]:
    """Ask a meter, also a stranger's: whatever it raises is why it is unavailable, and no failure of the cell."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:  # the boundary to a stranger's meter
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def finite(values: float | Sequence[float]) -> list[float]:
    """Return what a meter has read as a list. Raises Unavailable of what is no number."""
    found = samples_of(values)
    if not all(map(math.isfinite, found)):
        raise Unavailable(f"expected finite numbers, got {found}")
    return found


def number(text: str, what: str, least: float = 0.0) -> float:
    """Read a number that a sensor shows. Raises Unavailable of garbage: no number, not finite, below the least that can be."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise Unavailable(f"{what}: expected a number of {least:g} or more, got {text[:40]!r}")
    return value


def text_of(path: Path) -> str:
    """Read a small file of the kernel. Raises Unavailable, with the reason of the system."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        raise Unavailable(f"{path.name} cannot be read: {error.strerror}") from error


def number_of(path: Path, least: float = 0.0) -> float:
    """Read a number from a small file of the kernel. Raises Unavailable."""
    return number(text_of(path), path.name, least)


def on_tegra(root: Path) -> bool:
    """Whether the kernel is one for a Tegra, as on a Jetson: by its own name, or by the family of the chip that it reports."""
    known = {"proc/sys/kernel/osrelease": "tegra", "sys/devices/soc0/family": "tegra"}
    for name, word in known.items():
        try:
            if word in text_of(root / name).lower():
                return True
        except Unavailable:
            continue
    return False
