"""What else the machine did while samples were taken, as a process without privileges sees it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from msgspec.structs import replace

from plumbline.harness import machine, quiet
from plumbline.harness.facts import Latency
from plumbline.harness.machine import allowed_processors
from plumbline.harness.readings import Readings, read, value_of

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NO_FILE = "this system has no {}"
# Counters of throttling, that only grow: x86 by core and by package, a Jetson's over-current events.
THROTTLED = ("sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count", "sys/class/hwmon/hwmon*/oc*_event_cnt")
THROTTLED_NOW = 0xF  # the bits that say what limits a Raspberry Pi now (machine.board_state)


WINDOW_S = 0.5  # of a look at the machine; the kernel counts processors by ticks of 10 ms, so that a shorter one says little


class Disturbance:
    """Counts from now on until `read`.

    `root` is that of the tree in which the kernel's files are, `clock` in seconds, `own` the processor time of this process.
    """

    def __init__(
        self, clock: Callable[[], float] = perf_counter, root: Path = Path("/"), own: Callable[[], float] = time.process_time
    ) -> None:
        self._clock, self._root, self._own = clock, root, own
        self._clock_hz = self._frequency()
        self._before = self._counters()

    def _counters(self) -> dict[str, float | None]:
        usage = resource.getrusage(resource.RUSAGE_SELF) if resource else None  # of all threads
        own = self._own()
        busy, steal = _busy_s(self._root), _steal_s(self._root)
        return {
            "seconds": self._clock(),
            "involuntary_switches": None if usage is None else usage.ru_nivcsw,
            "major_faults": None if usage is None else usage.ru_majflt,
            "waited": _waited_s(self._root),
            "others": None if busy is None else busy - own,
            "cpu_steal": steal,
            "cpu_pressure": _pressure_s(self._root),
            "throttled": _throttled(self._root),
        }

    def read(self) -> Readings:
        """Read all quantities over the time since it began.

        Of this process: `involuntary_switches`; `major_faults`, pages that had to be read from a disk, or from swap; `waited`,
        seconds that its threads were ready and had no processor, a second. Of its processors: `others`, the share that other
        processes had, and `cpu_steal`, that which the hypervisor took. Of the machine: `cpu_pressure`, the share of time in
        which some process waited for a processor (PSI, "some"); `clock_drop`, the share by which the clock is lower than at the
        start; `throttled`, how many times it was, of a Raspberry Pi whether it is. What cannot be read says why.
        """
        then, now = self._before, self._counters()

        def grown(quantity: str) -> float | None:
            before, after = then[quantity], now[quantity]
            return None if before is None or after is None else after - before

        seconds = grown("seconds") or 0.0

        def share(quantity: str, of: int = 1) -> float | None:
            more = grown(quantity)
            return None if more is None or seconds <= 0 else round(max(0.0, more) / seconds / of, 4)

        processors = len(allowed_processors())
        start, end = self._clock_hz, self._frequency()
        bits = value_of(machine.board_state(self._root), "throttled")
        throttled = grown("throttled") if bits is None else float(bool(int(bits) & THROTTLED_NOW))
        return {
            "seconds": read("s", "process", seconds),
            "involuntary_switches": read("1", "process", grown("involuntary_switches")),
            "major_faults": read("1", "process", grown("major_faults")),
            "waited": read("1", "process", share("waited"), NO_FILE.format("/proc/self/task/*/schedstat")),
            "others": read("1", "machine", share("others", processors), NO_FILE.format("/proc/stat"))
            if seconds >= WINDOW_S
            else read("1", "machine", None, f"{seconds:.2g} s are too short for it: the kernel counts by ticks"),
            "cpu_steal": read("1", "machine", share("cpu_steal", processors), NO_FILE.format("/proc/stat")),
            "cpu_pressure": read("1", "machine", share("cpu_pressure"), NO_FILE.format("/proc/pressure/cpu")),
            "clock_drop": read(
                "1", "machine", round(1 - end / start, 4) if start and end else None, "this machine does not show its clock"
            ),
            "throttled": read("1", "machine", throttled, "this machine does not count that"),
        }

    def _frequency(self) -> float | None:
        return value_of(machine.state(), "clock")


def in_quiet(
    taken: Callable[[], Latency],
    calm_s: float,
    progress: Callable[[str], None],
    becomes_calm: Callable[[float], bool] | None = None,
) -> Latency:
    """Take a measurement, and once more if it was disturbed and the machine becomes calm; the less disturbed one counts."""
    first = taken()
    if not first.disturbed or not calm_s:
        return first
    progress(f"disturbed: {first.disturbed[0]}; waiting until the machine is calm")
    if not (becomes_calm or calm)(calm_s):
        return first
    return replace(min(first, taken(), key=lambda one: quiet.severity(one.disturbance)), tries=2)


def calm(
    within_s: float, clock: Callable[[], float] = perf_counter, sleep: Callable[[float], None] = time.sleep, **how: Any
) -> bool:
    """Wait until nothing disturbs this process, which sleeps, for one look; False where that does not come in time."""
    ends = clock() + within_s
    while clock() + WINDOW_S <= ends:
        look = Disturbance(clock, **how)
        sleep(WINDOW_S)
        if not quiet.reasons(look.read()):
            return True
    return False


def _lines(root: Path, name: str) -> list[str]:
    """Read a file of the kernel; nothing of one that is not there, or may not be read."""
    try:
        return (root / name).read_text().splitlines()
    except OSError:
        return []


def _pressure_s(root: Path) -> float | None:
    lines = _lines(root, "proc/pressure/cpu")  # none on a kernel without PSI
    return int(lines[0].rpartition("total=")[2]) / 1e6 if lines else None


def _of_processors(root: Path, fields: tuple[int, ...]) -> float | None:
    """Add fields of /proc/stat up over the processors that this process may use, in seconds."""
    allowed = {f"cpu{number}" for number in allowed_processors()}
    rows = [line.split() for line in _lines(root, "proc/stat")]
    found = [sum(int(row[field]) for field in fields) for row in rows if row and row[0] in allowed]
    return sum(found) / os.sysconf("SC_CLK_TCK") if found else None


def _busy_s(root: Path) -> float | None:
    """User, nice, system and both kinds of interrupts; a guest's time is in the first two (man 5 proc_stat)."""
    return _of_processors(root, (1, 2, 3, 6, 7))


def _steal_s(root: Path) -> float | None:
    return _of_processors(root, (8,))


def _waited_s(root: Path) -> float | None:
    """Seconds on a run queue, of all threads that there are (Documentation/scheduler/sched-stats.rst)."""
    found = [_lines(task, "schedstat") for task in (root / "proc/self/task").glob("*")]
    known = [int(lines[0].split()[1]) for lines in found if lines]
    return sum(known) / 1e9 if known else None


def _throttled(root: Path) -> float | None:
    counters = [lines[0] for pattern in THROTTLED for file in root.glob(pattern) if (lines := _lines(file.parent, file.name))]
    known = [float(text) for text in counters if text.isdecimal()]
    return sum(known) if known else None
