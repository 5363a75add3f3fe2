"""The timed call, warm-up until steady, sampling until the median is known, and the one interleaver.

Every duration that this project reports is taken in this file, on a clock that is passed in.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple, TypeVar

from plumbline.harness.facts import Percentile, Timing
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import P99_SAMPLES, loadgen_bound, median_interval, percentile

Clock = Callable[[], float]
Call = tuple[Callable[[], Any], Callable[[], None]]  # what starts an inference, and what waits until it is done
Key = TypeVar("Key", bound=Hashable)
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
STEADY, WINDOW_CALLS, WINDOW_S, PATIENCE = 0.02, 5, 0.02, 5
# Calls before those of a turn, and for how long: another runtime's threads still spin, and the caches hold its weights.
UNTIMED, UNTIMED_S = 2, 0.02
TIMED = 5
TOUCH_S = 0.003  # of untimed calls before a turn of a process that shares the machine with one other
ROUNDS = 7  # at least: an interval of the median takes six
SHORT: Mapping[str, Any] = {"untimed": 1, "untimed_s": 0.002, "timed": 1}  # a turn of a call that shares nothing with others
SHORT_ROUNDS = 9
SECOND_S = 1.0  # of one row of `endure`
PIPELINED_S, PIPELINED_ROUNDS, PIPELINED_MOST = 0.1, 5, 1000  # how long a round of queued calls lasts, how many, its most calls
Mark = TypeVar("Mark")


class Pipelined(NamedTuple):
    """Rounds of `calls` calls that were queued, each in seconds a call."""

    calls: int
    rounds_s: list[float]


def sample(call: Callable[[], Any], synchronize: Callable[[], None], count: int, clock: Clock = perf_counter) -> list[float]:
    """Time `count` calls one by one, in seconds.

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


def sample_by_events(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    mark: Callable[[], Mark],
    between: Callable[[Mark, Mark], float],
    count: int,
) -> list[float]:
    """Time `count` calls one by one by the clock of a device, in seconds: between marks in its queue before and after each.

    `mark` puts one into the queue, `between` says how many seconds lie between two that the device has passed.
    """
    durations = []
    synchronize()
    for _ in range(count):
        before = mark()
        call()
        after = mark()
        synchronize()
        durations.append(between(before, after))
    return durations


def pipelined(
    call: Callable[[], Any], synchronize: Callable[[], None], latency_s: float, clock: Clock = perf_counter
) -> Pipelined:
    """Queue many calls and wait once, in each of a few rounds of a tenth of a second; `latency_s` is that of one call.

    Returns the calls of a round, and for each round its duration by them, in seconds a call.
    """
    calls = max(2, min(PIPELINED_MOST, round(PIPELINED_S / latency_s) if latency_s > 0 else PIPELINED_MOST))
    rounds = []
    for _ in range(PIPELINED_ROUNDS):
        synchronize()
        start = clock()
        for _ in range(calls):
            call()
        synchronize()
        rounds.append((clock() - start) / calls)
    return Pipelined(calls, rounds)


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


def repeat(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    seconds: float,
    between: Callable[[], Any],
    clock: Clock = perf_counter,
) -> tuple[int, float]:
    """Call for so many seconds, to the end of the last call; `between` two calls something else is done.

    Returns the number of calls, and how long they took in seconds. These are for what meters read; nothing is said of one call.
    """
    synchronize()
    between()
    begun, calls = clock(), 0
    while (spent := clock() - begun) < seconds:
        call()
        synchronize()
        calls += 1
        between()
    return calls, spent


def nothing() -> None:
    """Wait for nothing: Python is done when it returns."""


def turn(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    clock: Clock = perf_counter,
    *,
    untimed: int = UNTIMED,
    untimed_s: float = UNTIMED_S,
    timed: int = TIMED,
    settle: Callable[[], Any] = nothing,
) -> float:
    """Take one turn of an interleaving: the median of a few calls in seconds, after some that are not counted.

    `settle` is called first; it returns when nothing of the turn before keeps a processor busy.
    """
    settle()
    rest = clock() + untimed_s
    sample(call, synchronize, untimed, clock)
    while clock() < rest:
        sample(call, synchronize, 1, clock)
    return median(sample(call, synchronize, timed, clock))


def slowed(
    call: Callable[[], Any], synchronize: Callable[[], None], share: float, clock: Clock = perf_counter
) -> Callable[[], Any]:
    """Return the call with `share` of its time more work in it: a counted loop, whose length was taken in turns with it."""
    many = 20_000

    def loop(count: int = many) -> None:
        for _ in range(count):
            pass

    taken, of_loop = best((call, synchronize), (loop, nothing), clock=clock)
    count = round(share * taken / of_loop * many)

    def longer() -> Any:
        loop(count)
        return call()

    return longer


def interleave(
    turns: Mapping[Key, Callable[[], float]],
    *,
    seconds: float = 0.0,
    rounds: int = ROUNDS,
    progress: Callable[[str], None] = lambda text: None,
    clock: Clock = perf_counter,
) -> dict[Key, list[float]]:
    """Let each take one turn a round, in random order: drift affects all alike, and cancels in their ratio.

    Lasts `seconds`, and `rounds` at least. A turn returns its duration; it may be taken here (`turn`) or in another process
    (`session.client.CellProbe.turn`). Returns the durations by key; the n-th of all keys are of one round.
    """
    taken: dict[Key, list[float]] = {key: [] for key in turns}
    ends, done = clock() + seconds, 0
    with quiet():
        while done < rounds or clock() < ends:
            done += 1
            progress(f"{len(turns)} configurations, round {done}, {max(0.0, ends - clock()):.0f} s left")
            for key in random.sample(list(turns), len(turns)):
                taken[key].append(turns[key]())
    return taken


def interleave_calls(calls: Mapping[Key, Call], settle: Callable[[], Any] = nothing, **how: Any) -> dict[Key, list[float]]:
    """Interleave calls of this process, each turn after `settle`; `how` is passed on to `interleave`."""
    return interleave({key: partial(turn, *call, settle=settle) for key, call in calls.items()}, **how)


def best(*calls: Call, clock: Clock = perf_counter) -> list[float]:
    """Time short calls in turns, and return the best turn of each in seconds: what else the machine does can only add to it."""
    turns = {number: partial(turn, *call, clock, **SHORT) for number, call in enumerate(calls)}
    taken = interleave(turns, rounds=SHORT_ROUNDS, clock=clock)
    return [min(taken[number]) for number in turns]


def arrivals(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    frames: int,
    period_s: float,
    clock: Clock = perf_counter,
    rest: Callable[[float], None] = sleep,
) -> list[float | None]:
    """Let frames arrive one by one, `period_s` apart, and infer the newest that is there.

    A frame that comes while another is inferred waits; when a newer one comes, it is dropped. Returns of each the seconds from
    its arrival until its inference was done, with what waking up took; None where it was dropped.
    """
    found: list[float | None] = [None] * frames
    synchronize()
    start, frame = clock(), 0
    while frame < frames:
        arrival = start + frame * period_s
        while (early := arrival - clock()) > 0:
            rest(early)
        call()
        synchronize()
        now = clock()
        found[frame] = now - arrival
        frame = max(frame + 1, min(int((now - start) / period_s), frames - 1))
    return found


def endure(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    seconds: float,
    each: Callable[[float, list[float]], bool],
    clock: Clock = perf_counter,
) -> None:
    """Sample for so long without a pause; after each second hand over when it began and its samples, both in seconds.

    Ends earlier where `each` says so, by False.
    """
    start = began = clock()
    while began - start < seconds:
        window: list[float] = []
        while clock() - began < SECOND_S:
            window += sample(call, synchronize, 1, clock)
        if not each(began - start, window):
            return
        began = clock()


class Spans:
    """Self time of nested spans: each one's duration less that of the spans inside it, added up by name, in seconds."""

    def __init__(self, clock: Clock = perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._open: list[list[Any]] = []  # of each span that is running: its name, when it began, seconds in those inside it

    def begin(self, name: str) -> None:
        """Open a span inside the one that is running."""
        self._open.append([name, self._clock(), 0.0])

    def end(self) -> None:
        """Close the innermost span."""
        name, began, inside = self._open.pop()
        took = self._clock() - began
        self.seconds[name] = self.seconds.get(name, 0.0) + took - inside
        if self._open:
            self._open[-1][2] += took


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
    while missing := _missing_of_p99(samples, settings):
        samples += sample(call, synchronize, min(missing, len(samples)), clock)
    return samples


def _missing_of_p99(samples: Sequence[float], settings: Settings) -> int:
    """Return how many more samples a limit of p99 wants; none where the median is beyond it, as p99 is then, too."""
    if settings.p99_within_s is None or percentile(sorted(samples), 0.5) > settings.p99_within_s:
        return 0
    return max(0, P99_SAMPLES - len(samples))


def _known(ordered: Sequence[float], within: float) -> bool:
    interval, middle = median_interval(ordered), percentile(ordered, 0.5)
    return interval is not None and max(middle - interval[0], interval[1] - middle) <= within * middle


def summarise(samples: list[float], batch: int, warmup: int, warmup_s: float, steady: bool) -> Timing:
    """Derive everything that follows from the raw samples."""
    ordered = sorted(samples)
    percentiles: dict[str, Percentile] = {}
    for name, fraction in PERCENTILES.items():
        bound = loadgen_bound(ordered, fraction)
        percentiles[name] = Percentile(percentile(ordered, fraction), bound, "too few samples" if bound is None else None)
    middle = percentile(ordered, 0.5)
    return Timing(samples, warmup, warmup_s, steady, middle, median_interval(ordered), percentiles, batch / middle)


@contextmanager
def quiet() -> Iterator[None]:
    """Collect no garbage while samples are taken."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
