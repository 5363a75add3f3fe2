"""What else the machine did while samples were taken, as a process without privileges sees it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from msgspec.structs import replace

from plumbline.harness import machine, quiet
from plumbline.harness.facts import Latency
from plumbline.harness.machine import allowed_processors
from plumbline.harness.meters.meter import Unavailable
from plumbline.harness.meters.nvml import Use
from plumbline.harness.readings import Reading, Readings, read, value_of

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NO_FILE = "this system has no {}"
NO_WAITS = "this kernel does not count in /proc/self/task/*/schedstat"
# Counters of throttling, that only grow: x86 by core and by package, a Jetson's over-current events.
THROTTLED = ("sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count", "sys/class/hwmon/hwmon*/oc*_event_cnt")
THROTTLED_NOW, SINCE_START = 0xF, 16  # bits that say what limits a Raspberry Pi now; higher ones: has since it started
AWAKE = 0.5  # share of the time that a process must have worked for the clock of its processors to say anything
WINDOW_S = 0.5  # of a look at the machine; the kernel counts processors by ticks of 10 ms, so that a shorter one says little


class Disturbance:
    """Counts from now on until `read`.

    `root` is that of the tree in which the kernel's files are, `clock` in seconds, `own` the processor time of this process.
    `device` is that of the cell: of a CUDA GPU it is read what other processes take of it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        root: Path = Path("/"),
        own: Callable[[], float] = time.process_time,
        device: str = "cpu",
    ) -> None:
        self._clock, self._root, self._own = clock, root, own
        self._gpu = _use_of_gpu(root, device) if device.startswith("cuda") else None
        self._clock_hz = self._frequency()
        self._bits = self._limited()
        self._waits = _waits_ns(self._root)
        self._before = self._counters()

    def _counters(self) -> dict[str, float | None]:
        usage = resource.getrusage(resource.RUSAGE_SELF) if resource else None  # of all threads
        own = self._own()
        busy, steal = _busy_s(self._root), _steal_s(self._root)
        return {
            "seconds": self._clock(),
            "own": own,
            "involuntary_switches": None if usage is None else usage.ru_nivcsw,
            "major_faults": None if usage is None else usage.ru_majflt,
            "others": None if busy is None else busy - own,
            "cpu_steal": steal,
            "cpu_pressure": _pressure_s(self._root),
            "throttled": _throttled(self._root),
        }

    def read(self) -> Readings:
        """Read all quantities over the time since it began.

        Of this process: `involuntary_switches`; `major_faults`, pages that had to be read from a disk, or from swap; `waited`,
        seconds that its threads were ready and had no processor, a second. Of its processors: `others`, the share that other
        processes had, and `cpu_steal`, that which the hypervisor took for certain. Of the machine: `cpu_pressure`, the share of
        time in which some process waited for a processor (PSI, "some"); `clock_drop`, the share by which the clock is lower than
        at the start; `throttled`, how many times it was, of a Raspberry Pi whether it is or has been since the start. On a CUDA
        device `gpu_others`, the share of its time that other processes had. What cannot be read says why.
        """
        then, now, waits = self._before, self._counters(), _waits_ns(self._root)
        gpu = {} if self._gpu is None else {"gpu_others": self._gpu()}

        def grown(quantity: str) -> float | None:
            before, after = then[quantity], now[quantity]
            return None if before is None or after is None else after - before

        seconds, own, processors = grown("seconds") or 0.0, grown("own") or 0.0, len(allowed_processors())
        unsure_s = processors * _tick_s()  # each processor's counters go on by ticks

        def share(quantity: str, file: str, of: int = 1, less: float = 0.0, least: float = 0.0) -> Reading:
            more, reason = grown(quantity), NO_FILE.format(file)
            value: float | None = None
            if more is not None and more < least:
                reason = f"{file} went backwards, or does not count this process"
            elif more is not None and seconds > 0:
                value = round(max(0.0, more - less) / seconds / of, 4)
            return read("1", "machine", value, reason)

        others = share("others", "/proc/stat", processors, least=-max(own / 2, unsure_s))
        if seconds < WINDOW_S:
            others = read("1", "machine", None, f"{seconds:.2g} s are too short for it: the kernel counts by ticks")
        waited = None if self._waits is None or waits is None or seconds <= 0 else _waited_s(self._waits, waits) / seconds
        start, end = self._clock_hz, self._frequency()
        drop, no_drop = (1 - end / start if start and end else None), "this machine does not show its clock"
        if own < AWAKE * seconds:
            drop, no_drop = None, "this process worked for less than half of the time"
        before, bits = self._bits, self._limited()
        throttled = grown("throttled")
        if bits is not None:
            throttled = float(bool((bits | (bits & ~(before or 0)) >> SINCE_START) & THROTTLED_NOW))
        return {
            "seconds": read("s", "process", seconds),
            "involuntary_switches": read("1", "process", grown("involuntary_switches")),
            "major_faults": read("1", "process", grown("major_faults")),
            "waited": read("1", "process", None if waited is None else round(waited, 4), NO_WAITS),
            "others": others,
            "cpu_steal": share("cpu_steal", "/proc/stat", processors, unsure_s),
            "cpu_pressure": share("cpu_pressure", "/proc/pressure/cpu"),
            "clock_drop": read("1", "machine", None if drop is None else round(drop, 4), no_drop),
            "throttled": read("1", "machine", throttled, "this machine does not count that"),
            **gpu,
        }

    def _frequency(self) -> float | None:
        return machine.clock(allowed_processors(), self._root)

    def _limited(self) -> int | None:
        bits = value_of(machine.board_state(self._root), "throttled")
        return None if bits is None else int(bits)


def _use_of_gpu(root: Path, device: str) -> Callable[[], Reading]:
    """Look from now on; what it returns reads what other processes have had of the GPU since then, or says why not."""
    try:
        use = Use(root, device)
    except Unavailable as reason:
        unread = read("1", "machine", None, str(reason))
        return lambda: unread

    def by_others() -> Reading:
        try:
            return read("1", "machine", use.by_others())
        except Unavailable as reason:
            return read("1", "machine", None, str(reason))

    return by_others


def looking(device: str) -> Callable[[], list[str]]:
    """Look from now on; what it returns says when it is called what has disturbed since then, the worst first."""
    look = Disturbance(device=device)
    return lambda: quiet.reasons(look.read())


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
    return sum(found) * _tick_s() if found else None


def _tick_s() -> float:
    return 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


def _busy_s(root: Path) -> float | None:
    """User, nice, system and both kinds of interrupts; a guest's time is in the first two (man 5 proc_stat)."""
    return _of_processors(root, (1, 2, 3, 6, 7))


def _steal_s(root: Path) -> float | None:
    return _of_processors(root, (8,))


def _waits_ns(root: Path) -> dict[str, int] | None:
    """Nanoseconds on a run queue, of each thread that there is (Documentation/scheduler/sched-stats.rst).

    None where nobody counts: before Linux 5.14 a kernel without these statistics shows zeros.
    """
    rows = {task.name: lines[0].split() for task in (root / "proc/self/task").glob("*") if (lines := _lines(task, "schedstat"))}
    counts = {task: list(map(int, row)) for task, row in rows.items()}
    return {task: row[1] for task, row in counts.items()} if any(map(any, counts.values())) else None


def _waited_s(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Seconds that the threads which are still there have waited meanwhile; what one that has ended did is lost."""
    return sum(max(0, waited - before.get(task, 0)) for task, waited in after.items()) / 1e9


def _throttled(root: Path) -> float | None:
    counters = [lines[0] for pattern in THROTTLED for file in root.glob(pattern) if (lines := _lines(file.parent, file.name))]
    known = [float(text) for text in counters if text.isdecimal()]
    return sum(known) if known else None
