"""What else the machine did while samples were taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from plumbline.harness.readings import Readings, read

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class Disturbance:
    """Counts from now on until `read`."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._before = self._counters()

    def _counters(self) -> tuple[float, int | None, float | None, float | None]:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else None  # of all threads
        return self._clock(), switches, _pressure_s(), _steal_s()

    def read(self) -> Readings:
        """Read `seconds`, `involuntary_switches` of this process, and `cpu_pressure` and `cpu_steal` as shares of the time.

        Pressure is the share of time in which some process of the machine waited for a processor (PSI, "some").
        """
        then, now = self._before, self._counters()
        seconds = now[0] - then[0]

        def share(before: float | None, after: float | None) -> float | None:
            return None if before is None or after is None or seconds <= 0 else round((after - before) / seconds, 4)

        return {
            "seconds": read("s", "process", seconds),
            "involuntary_switches": read("1", "process", None if now[1] is None or then[1] is None else now[1] - then[1]),
            "cpu_pressure": read("1", "machine", share(then[2], now[2]), "this kernel has no /proc/pressure/cpu"),
            "cpu_steal": read("1", "machine", share(then[3], now[3]), "this system has no /proc/stat"),
        }


def _pressure_s() -> float | None:
    try:
        first = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:  # a kernel without PSI, or not Linux
        return None
    return int(first.rpartition("total=")[2]) / 1e6


def _steal_s() -> float | None:
    try:
        ticks = Path("/proc/stat").read_text().split(maxsplit=9)[8]
    except OSError:
        return None
    return int(ticks) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
