"""The timed call, warm-up until steady, and sampling until the median is known well enough."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from plumbline.harness.facts import Timing
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import loadgen_bound, median_interval, percentile

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Clock = Callable[[], float]
Call = tuple[Callable[[], Any], Callable[[], None]]
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
STEADY, WINDOW_CALLS, WINDOW_S, PATIENCE = 0.02, 5, 0.02, 5
# Calls before those of a turn, and for how long: another runtime's threads still spin, and the caches hold its weights.
UNTIMED, UNTIMED_S = 2, 0.02
TIMED = 5
ROUNDS = 7  # at least: an interval of the median takes six


def sample(call: Callable[[], Any], synchronize: Callable[[], None], count: int, clock: Clock = perf_counter) -> list[float]:
    """Time `count` calls, one by one, in seconds: the one place where this project takes a duration.

    The device is idle when a call starts, and has done all its work when it ends.
    """
    durations = []
    synchronize()
    for _ in range(count):
        start = clock()
        call()
        synchronize()
        durations.append(clock() - start)
    return durations


def warm_up(
    call: Callable[[], Any], synchronize: Callable[[], None], budget_s: float, clock: Clock = perf_counter
) -> tuple[int, float, bool]:
    """Call until steady: two windows one after the other whose medians differ by less than 2 %.

    A window has at least 5 calls and lasts at least 20 ms. Ends when `budget_s` is spent, too; with slow calls two
    windows are given up to five times as much.
    Returns the number of calls, their duration in seconds, and whether they became steady.
    """
    calls, spent, last = 0, 0.0, None
    while True:
        window: list[float] = []
        begun = spent
        while len(window) < WINDOW_CALLS or spent - begun < WINDOW_S:
            window += sample(call, synchronize, 1, clock)
            calls, spent = calls + 1, spent + window[-1]
            if spent >= budget_s and (calls >= 2 * WINDOW_CALLS or spent >= PATIENCE * budget_s):
                return calls, spent, False
        middle = median(window)
        if last is not None and abs(middle - last) <= STEADY * last:
            return calls, spent, True
        last = middle


def measure(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    settings: Settings,
    batch: int,
    *,
    budget_s: float,
    few: int | None = None,
    clock: Clock = perf_counter,
) -> Timing:
    """Warm up, then sample until the median's 95 % interval is narrow enough or the budget is spent.

    With `few`, exactly that many samples after one call for warm-up, for arithmetic done in software.
    """
    with quiet():
        if few is not None:
            warmed, warmed_s, steady = 1, sample(call, synchronize, 1, clock)[0], False
            samples = sample(call, synchronize, few, clock)
        else:
            warmed, warmed_s, steady = warm_up(call, synchronize, settings.warmup_s, clock)
            samples = _until_known(call, synchronize, settings, budget_s, clock)
    return summarise(samples, batch, warmed, warmed_s, steady)


def in_turns(
    calls: Mapping[int, Call], seconds: float, progress: Callable[[str], None], clock: Clock = perf_counter
) -> dict[int, list[float]]:
    """For each call the medians of its turns, in seconds: in every round each has one, in random order, for `seconds` in all.

    A call is what starts an inference, and what waits until it is done.
    """
    turns: dict[int, list[float]] = {number: [] for number in calls}
    ends, rounds = clock() + seconds, 0
    with quiet():
        while rounds < ROUNDS or clock() < ends:
            rounds += 1
            progress(f"{len(calls)} ways, round {rounds}, {max(0.0, ends - clock()):.0f} s left")
            for number in random.sample(sorted(calls), len(calls)):
                call, synchronize = calls[number]
                rest = clock() + UNTIMED_S
                sample(call, synchronize, UNTIMED)
                while clock() < rest:
                    sample(call, synchronize, 1)
                turns[number].append(median(sample(call, synchronize, TIMED)))
    return turns


def _until_known(
    call: Callable[[], Any], synchronize: Callable[[], None], settings: Settings, budget_s: float, clock: Clock
) -> list[float]:
    samples = sample(call, synchronize, 1, clock)
    spent = samples[0]
    while spent < budget_s and len(samples) < settings.max_samples:
        # look again after half as many samples more: few looks, and no sample much beyond what is needed;
        # and never start more of them than the budget pays for
        more = max(1, min(len(samples) // 2, settings.max_samples - len(samples)))
        if len(samples) < settings.min_samples:
            more = min(more, settings.min_samples - len(samples))
        more = min(more, int((budget_s - spent) / (spent / len(samples))) + 1)
        samples += sample(call, synchronize, more, clock)
        spent += sum(samples[-more:])
        if len(samples) >= settings.min_samples and _known(sorted(samples), settings.median_within):
            break
    return samples


def _known(ordered: list[float], within: float) -> bool:
    interval, middle = median_interval(ordered), percentile(ordered, 0.5)
    return interval is not None and max(middle - interval[0], interval[1] - middle) <= within * middle


def summarise(samples: list[float], batch: int, warmup: int, warmup_s: float, steady: bool) -> Timing:
    """Everything that follows from the raw samples."""
    ordered = sorted(samples)
    percentiles: dict[str, dict[str, Any]] = {}
    for name, fraction in PERCENTILES.items():
        bound = loadgen_bound(ordered, fraction)
        percentiles[name] = {"value_s": percentile(ordered, fraction), "bound_s": bound}
        if bound is None:
            percentiles[name]["reason"] = "too few samples"
    middle = percentile(ordered, 0.5)
    return Timing(samples, warmup, warmup_s, steady, middle, median_interval(ordered), percentiles, batch / middle)


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection while samples are taken."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Doubt:
    """Counts what else the machine did from now on until `read`."""

    def __init__(self, clock: Clock = perf_counter) -> None:
        self._clock = clock
        self._before = self._counters()

    def _counters(self) -> tuple[float, int | None, float | None, float | None]:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else None  # of all threads
        return self._clock(), switches, _pressure_s(), _steal_s()

    def read(self) -> dict[str, Any]:
        """`involuntary_switches` of this process; `cpu_pressure` and `cpu_steal` as shares of the time, None where unknown.

        Pressure is the share of time in which some process of the machine waited for a processor (PSI, "some").
        """
        then, now = self._before, self._counters()
        seconds = now[0] - then[0]

        def share(before: float | None, after: float | None) -> float | None:
            return None if before is None or after is None or seconds <= 0 else round((after - before) / seconds, 4)

        return {
            "seconds": seconds,
            "involuntary_switches": None if now[1] is None or then[1] is None else now[1] - then[1],
            "cpu_pressure": share(then[2], now[2]),
            "cpu_steal": share(then[3], now[3]),
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
