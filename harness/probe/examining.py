"""`plumbline doctor` on the machine that measures: each instrument is shown a truth that is known beforehand."""

from __future__ import annotations

import itertools
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from plumbline import UnknownName
from plumbline.harness import machine, quiet, runtimes, timing
from plumbline.harness.examination import BETTER, FIT, MISSING, UNFIT, Check, Circumstance, Examination
from plumbline.harness.meters.cpu_time import CpuTime
from plumbline.harness.meters.energy import UPDATES
from plumbline.harness.meters.meter import EnergyMeter, Unavailable, asked
from plumbline.harness.meters.registry import METERS, announced, find
from plumbline.harness.meters.running import LEAST_WINDOW_S
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe import memory
from plumbline.harness.probe.disturbance import Disturbance
from plumbline.harness.readings import Readings, value_of
from plumbline.harness.runtimes.adapter import RunConfig
from plumbline.harness.runtimes.onnxruntime import widening
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import paired_ratio
from plumbline.texts import size

Progress = Callable[[str], None]
LOOP_S = 0.002  # of a counted loop
BUSY_S = 0.5  # of a loop whose processor time is read
LOOK_S = 3.0  # at what others do
ROUNDS = 60  # of loops that take turns
SLOWED = (1.02, 1.05, 1.10)
ALLOCATED = (10 * 10**6, 100 * 10**6, 2 * 10**9)
MEMORY_LIMIT = 0.05
WIDE = 100 * 10**6  # bytes of a tensor in a runtime that keeps what it takes
KEEPING = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
# ONNX Runtime's arena reserves a power of two, and keeps a book of it: 8 bytes for each 256, which it writes at once.
BOOK = 1 / 33  # of all that is reserved
STEADY = 0.05  # a mean in place of the median is off by 10 %
HOT = 85.0  # °C from which processors begin to slow down
TURBO = {"cpufreq/boost": "1", "intel_pstate/no_turbo": "0"}  # files that switch it, and what they say where it is on
SAMPLING = Settings(warmup_s=0.3, sampling_s=5.0, min_samples=700, max_samples=700)  # p99 has a bound from 662 samples


def examine(device: str, progress: Progress, root: Path = Path("/")) -> Examination:
    """Look at everything. Takes half a minute, and 2 GB where there are twice as many."""
    began = time.perf_counter()
    look = Disturbance()
    progress("looking at what else this machine does")
    time.sleep(LOOK_S)
    circumstances = [_others(look.read()), *_of_machine(machine.state(), root)]
    checks: list[Check] = []
    drifts: list[float] = []
    for check in itertools.chain(_clocks(), _loops(), _stories(drifts), _processor_time(), _memory(), _kept()):
        progress(f"{check.instrument}: {check.truth}")
        checks.append(check)
    progress("meters of energy")
    return Examination(checks, [*circumstances, _speed(drifts), *_meters(root, device)], time.perf_counter() - began)


# -- clocks and durations ---------------------------------------------------------------------------------------


def _clocks() -> Iterator[Check]:
    """Compare a second on the clock that times inferences with one that nobody adjusts, and time sleeps of known length."""
    truth = "a second of CLOCK_MONOTONIC_RAW"
    if hasattr(time, "CLOCK_MONOTONIC_RAW"):
        raw, clock = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), time.perf_counter()
        time.sleep(1.0)
        clock, raw = time.perf_counter() - clock, time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - raw
        yield Check("clock", truth, "s", 0.001, raw / 1e9, clock)
    else:
        yield Check("clock", truth, "s", 0.001, unavailable="this system has no such clock")
    slept = timing.sample(partial(time.sleep, 0.02), timing.nothing, 20)
    yield Check("timer", "a sleep of 20 ms", "s", 0.05, 0.02, median(slept))


def _loop(count: int) -> Callable[[], None]:
    def loop() -> None:
        for _ in range(count):
            pass

    return loop


def _count() -> int:
    """Return how many steps take LOOP_S."""
    many = 100_000
    return round(LOOP_S / timing.best((_loop(many), timing.nothing))[0] * many)


def _turns(calls: dict[float, Callable[[], Any]]) -> dict[float, list[float]]:
    return timing.interleave_calls({key: (call, timing.nothing) for key, call in calls.items()}, rounds=ROUNDS)


def _loops() -> Iterator[Check]:
    """Loops of known lengths, in turns: what the ratio of two is, is known exactly."""
    count = _count()
    for share in (2.0, *SLOWED):
        taken = _turns({1.0: _loop(count), share: _loop(round(share * count))})
        ratio = paired_ratio(taken[share], taken[1.0])
        twice = share == 2.0
        truth = "a counted loop, twice as long" if twice else f"a slowdown by {share - 1:.0%}"
        yield Check("timing in turns", truth, "1", 0.01 if twice else 0.005, share, ratio.median, ratio.interval)


def _stories(drifts: list[float]) -> Iterator[Check]:
    """Workloads that misbehave in known ways: the median is that of the plain loop before and after.

    By what share that loop itself changed meanwhile goes to `drifts`.
    """
    count = _count()
    stories: dict[str, tuple[str, Callable[[int], float]]] = {
        "warm-up": ("a cold start: ten calls take three times as long", lambda number: 3.0 if number < 10 else 1.0),
        "median": ("spikes: each twentieth call takes three times as long", lambda number: 3.0 if number % 20 == 19 else 1.0),
    }
    before = _measured(lambda number: 1.0, count)
    for instrument, (truth, length) in stories.items():
        found, after = _measured(length, count), _measured(lambda number: 1.0, count)
        expected, drift = (before.median_s + after.median_s) / 2, abs(after.median_s / before.median_s - 1)
        before = after
        drifts.append(drift)
        unsteady = f"the plain loop itself changed by {drift:.1%} meanwhile" if drift > STEADY else None
        yield _check(instrument, truth, STEADY, expected, found.median_s, unsteady)
        if instrument == "median":
            p99 = found.percentiles["p99"]
            few = None if p99.bound_s is not None else "too few samples in the time"
            yield _check("p99", "the same spikes", 0.1, 3 * expected, p99.value_s, few or unsteady)
    drifting = iter(range(1 << 62))
    calls = {key: (lambda: _loop(round(count * (1 + next(drifting) / 20_000)))()) for key in (1.0, 2.0)}
    taken = _turns(calls)
    ratio = paired_ratio(taken[1.0], taken[2.0])
    yield Check("timing in turns", "a drift that both sides share", "1", 0.01, 1.0, ratio.median, ratio.interval)


def _check(instrument: str, truth: str, limit: float, expected: float, got: float, unavailable: str | None) -> Check:
    """Make a check of a duration in seconds, or say why there is none."""
    if unavailable is not None:
        return Check(instrument, truth, "s", limit, unavailable=unavailable)
    return Check(instrument, truth, "s", limit, expected, got)


def _measured(length: Callable[[int], float], count: int) -> Any:
    """Measure a loop whose n-th call is so many times as long, as an inference is measured."""
    numbers = iter(range(1 << 62))
    loops = {share: _loop(round(share * count)) for share in (1.0, 3.0)}
    return timing.measure(lambda: loops[length(next(numbers))](), timing.nothing, SAMPLING, 1, budget_s=SAMPLING.sampling_s)


def _processor_time() -> Iterator[Check]:
    """Let a loop of one thread keep one processor busy, unless others want it, too."""
    meter, loop, look = CpuTime(), _loop(round(_count() * BUSY_S / LOOP_S)), Disturbance()
    meter.begin()
    (took_s,) = timing.sample(loop, timing.nothing, 1)
    found, disturbed = meter.end(), quiet.reasons(look.read())
    reason = disturbed[0] if disturbed else None
    yield _check("cpu_time", "a loop that keeps one processor busy", 0.05, took_s, found, reason)


# -- memory -----------------------------------------------------------------------------------------------------


def _memory() -> Iterator[Check]:
    """Allocations of known size, written to from end to end."""
    free = machine.memory_free()
    for count in ALLOCATED:
        truth = f"an allocation of {size(count)}"
        if 2 * count > free:
            yield Check(
                "memory", truth, "byte", MEMORY_LIMIT, unavailable=f"{size(free)} are free, and half of that is not touched"
            )
            continue
        found, reason = memory.growth(lambda count=count: _touched(count))  # type: ignore[misc]
        yield Check("memory", truth, "byte", MEMORY_LIMIT, count, found, unavailable=reason)


def _touched(count: int) -> int:
    return len(b"\1" * count)


def _kept() -> Iterator[Check]:
    """Tensors of known size, in runtimes that keep what their first inference takes."""
    for name, said in KEEPING.items():
        truth = f"a tensor of {size(WIDE)} within {said}"
        adapter = runtimes.find(name).adapter
        if (gone := runtimes.missing(adapter)) is not None:
            yield Check("memory", truth, "byte", MEMORY_LIMIT, unavailable=gone)
        elif machine.memory_free() < 4 * WIDE:
            yield Check("memory", truth, "byte", MEMORY_LIMIT, unavailable=f"only {size(machine.memory_free())} are free")
        else:
            expected, found, reason = kept(name, WIDE)
            yield Check("memory", truth, "byte", MEMORY_LIMIT, expected, found, unavailable=reason)


def kept(name: str, size: int, **options: str) -> tuple[float, int | None, str | None]:
    """Return what a runtime has to take for the first inference of a net with one large tensor, what it took, or why not.

    Sizes are in bytes. It has to take the tensor, the code that it is the first to run, and the book of ONNX Runtime's arena, of
    which the kernel tells how much was read and reserved.
    """
    import torch

    found = runtimes.find(name)
    with tempfile.TemporaryDirectory() as scratch:
        file = widening(Path(scratch) / "wide.onnx", size)
        config = RunConfig(PRECISIONS["fp32"], "cpu", 1, machine.allowed_cpus(), {**found.options, **options})
        executable = found.adapter(file, config)
        placed = executable.place((torch.zeros(1, 3, 8, 8),))
        executable.ready(placed)
        reserved, of_files = memory.reserved_bytes(), memory.of_files_bytes()
        got, reason = memory.growth(lambda: executable.run(placed))
        book = BOOK * (memory.reserved_bytes() - reserved) if config.options.get("arena") == "on" else 0.0
    return size + book + memory.of_files_bytes() - of_files, got, reason


# -- the machine ------------------------------------------------------------------------------------------------


def _others(found: Readings) -> Circumstance:
    reasons = quiet.reasons(found)
    unread = [
        f"{name} ({reading.unavailable})" for name, reading in found.items() if reading.unavailable and name in quiet.LIMITS
    ]
    shown = "; ".join(reasons) or "nothing disturbs"
    if unread:
        shown += f"; cannot be read: {', '.join(unread)}"
    return Circumstance("quiet", shown, UNFIT if reasons else FIT, "end what else runs here" if reasons else "")


def _speed(drifts: list[float]) -> Circumstance:
    most = max(drifts)
    advice = "let what is compared take turns (fastest, gate); hold the clock still; a virtual machine may share its processor"
    verdict, advice = (BETTER, advice) if most > STEADY else (FIT, "")
    return Circumstance("speed", f"a plain loop changed by {most:.1%} within seconds", verdict, advice)


def _text(path: Path) -> str | None:
    """Read a small file of the kernel; None of one that cannot be read, as of a processor that is switched off."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _of_machine(state: Readings, root: Path) -> Iterator[Circumstance]:
    cpu = root / "sys/devices/system/cpu"
    governors = {text for file in cpu.glob("cpu*/cpufreq/scaling_governor") if (text := _text(file))}
    if governors:
        slow = governors - {"performance"}
        advice = "cpupower frequency-set -g performance" if slow else ""
        yield Circumstance("governor", ", ".join(sorted(governors)), BETTER if slow else FIT, advice)
    else:
        yield _missing("governor", "cpufreq in /sys/devices/system/cpu/cpu*: a virtual machine, or firmware governs the clock")
    switches = {name: _text(cpu / name) for name in TURBO}
    for name, said in switches.items():
        if said is not None:
            boosts = said == TURBO[name]
            off = 1 - int(TURBO[name])
            advice = f"the clock depends on the temperature: echo {off} > /sys/devices/system/cpu/{name}" if boosts else ""
            yield Circumstance("turbo", "on" if boosts else "off", BETTER if boosts else FIT, advice)
    if not any(switches.values()):
        yield _missing("turbo", f"{' or '.join(TURBO)} in /sys/devices/system/cpu")
    if (celsius := value_of(state, "temperature")) is not None:
        verdict, advice = (UNFIT, "let it cool down, or cool it better") if celsius >= HOT else (FIT, "")
        yield Circumstance("temperature", f"{celsius:.0f} °C", verdict, advice)
    else:
        yield _missing("temperature", "sensor in /sys/class/thermal or /sys/class/hwmon")
    if throttled := int(value_of(state, "throttled") or 0) & 0xF:
        yield Circumstance("throttled", f"bits {throttled:#x}", UNFIT, "a better power supply, or a better cooler")
    if (mode := value_of(state, "power_mode")) is not None:
        yield _power_mode(int(mode), _text(root / "etc/nvpmodel.conf") or "")
    swap = psutil.swap_memory()
    if swap.total == 0:
        yield Circumstance("swap", "none")
    else:
        used = swap.used > 0.01 * swap.total
        verdict, advice = (BETTER, "swapoff -a; what does not fit then ends, instead of being slow") if used else (FIT, "")
        yield Circumstance("swap", f"{size(swap.used)} of {size(swap.total)} used", verdict, advice)
    allowed, there = machine.allowed_cpus(), psutil.cpu_count() or 1
    yield Circumstance("processors", f"{allowed} of {there} may be used")


def _missing(name: str, what: str) -> Circumstance:
    return Circumstance(name, "cannot be read", MISSING, f"there is no {what}")


def _power_mode(mode: int, file: str) -> Circumstance:
    """Say whether there is a faster power mode, by nvpmodel's own file: 0 is the fastest of some boards, and not of others."""
    names = {int(number): name for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", file)}
    if mode not in names:
        advice = "nvpmodel -q names the modes: take the one without limits (/etc/nvpmodel.conf, where they are, cannot be read)"
        return Circumstance("power mode", f"{mode} of nvpmodel", MISSING, advice)

    def fast(number: int) -> tuple[bool, bool, int]:
        """MAXN has no limit, and MAXN_SUPER still higher clocks; others are called by their watts."""
        watts = re.search(r"(\d+)W", names[number])
        return names[number].startswith("MAXN"), "SUPER" in names[number], int(watts[1]) if watts else 0

    best = max(names, key=fast)
    slower = fast(mode) < fast(best)
    advice = f"sudo nvpmodel -m {best} ({names[best]})" if slower else ""
    return Circumstance("power mode", f"{mode} of nvpmodel ({names[mode]})", BETTER if slower else FIT, advice)


def _meters(root: Path, device: str) -> Iterator[Circumstance]:
    """Open each meter of energy, and read it once; by how much it may be off in a window, besides what its sheet says."""
    for name in (*METERS, *announced()):
        try:
            kind = find(name)
            if not issubclass(kind, EnergyMeter):
                continue
            with asked():
                meter = kind(root, device)
                rail, value = meter.open(), meter.read()
        except (UnknownName, Unavailable) as reason:
            yield Circumstance(f"energy by {name}", "unavailable", MISSING, str(reason))
            continue
        if kind.estimate:
            yield Circumstance(f"energy by {name}", f"{rail.name}: an estimate, whose error is not known", FIT, rail.about)
            continue
        steps = f"a value every {rail.update_s:g} s, in steps of {rail.resolution:.2g} {rail.unit}"
        shown = f"{value:.3g} W now, " if rail.unit == "W" and math.isfinite(value) else ""
        off = f"±{rail.resolution / 2:.2g} W"
        if rail.unit == "J":
            window_s = max(LEAST_WINDOW_S, UPDATES * rail.update_s)
            off = f"±{2 * rail.resolution:.2g} J and {rail.update_s / window_s:.1%} in a window"
        yield Circumstance(f"energy by {name}", f"{rail.name}: {shown}{steps}; error {off}", FIT, rail.about)
