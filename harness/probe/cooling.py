"""Between cells: wait until the machine is as cool as it was before the first one, so that the order of cells decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from plumbline.harness import machine

WITHIN = 3.0  # °C above the start: sensors of boards show whole degrees or halves, and go up and down by one at rest
LOOK_S = 1.0


class Cooling:
    """`read` returns the hottest temperature in °C, None where no sensor is; the others are for a device that is replayed."""

    def __init__(
        self,
        read: Callable[[], float | None] = machine.hottest,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._read, self._clock, self._sleep = read, clock, sleep
        self._start: float | None = None

    def begin(self) -> None:
        """Read where the machine starts; call it before anything is prepared. Later calls do nothing."""
        if self._start is None:
            self._start = self._read()

    def wait(self, within_s: float, most: float | None, progress: Callable[[str], None]) -> str | None:
        """Wait, for so long at most. Returns why nothing may be run: it is hotter than `most`, in °C, even then."""
        now = self._read()
        if now is None:
            return None
        if self._start is None:
            self._start = now
        wanted = self._start + WITHIN if most is None else min(self._start + WITHIN, most)
        ends = self._clock() + within_s
        while now > wanted and (left := ends - self._clock()) > 0:
            progress(f"{now:.0f} °C, waiting for {wanted:.0f} °C, as before the first cell; {left:.0f} s at most")
            self._sleep(min(LOOK_S, left))
            seen = self._read()
            now = now if seen is None else seen
        if most is not None and now > most:
            return (
                f"{now:.0f} °C, and at most {most:g} °C are allowed (--max-temperature); it did not cool down in {within_s:g} s"
            )
        return None
