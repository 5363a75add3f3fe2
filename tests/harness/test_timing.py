"""The stopwatch, on clocks that are known."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from plumbline.harness import timing as ruler
from plumbline.harness.facts import Timing
from plumbline.harness.settings import Settings


@pytest.fixture(autouse=True, scope="module")
def little_garbage() -> Iterator[None]:
    """What other tests have imported is not looked through each time that garbage is collected before a sample."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Machine:
    """Calls that take a planned time on a clock of their own."""

    def __init__(self, durations: Iterable[float]) -> None:
        self.now, self.calls, self.synchronized = 0.0, 0, 0
        self._durations: Iterator[float] = iter(durations)

    def call(self) -> None:
        self.calls += 1

    def synchronize(self) -> None:
        """The work is done when the device is waited for, as on a GPU."""
        self.synchronized += 1
        while self.calls > 0:
            self.calls -= 1
            self.now += next(self._durations)

    def clock(self) -> float:
        return self.now

    def sample(self, count: int) -> list[float]:
        return ruler.sample(self.call, self.synchronize, count, self.clock)


def forever(value: float) -> Iterator[float]:
    while True:
        yield value


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=30))
def test_each_call_is_timed_with_the_work_it_queued(durations: list[float]) -> None:
    assert Machine(durations).sample(len(durations)) == pytest.approx(durations)


def test_a_sleep_is_not_shorter_than_it_is() -> None:
    """Calibration against a known truth: the clock runs in seconds."""
    assert min(ruler.sample(lambda: time.sleep(0.02), lambda: None, 3)) >= 0.02


def test_warm_up_waits_until_the_calls_get_no_faster() -> None:
    machine = Machine([0.1] * 5 + [0.05] * 5 + [0.02] * 100)
    calls, seconds, steady = ruler.warm_up(machine.call, machine.synchronize, 10.0, machine.clock)
    assert steady
    assert calls == 20
    assert seconds == pytest.approx(machine.now)


def test_warm_up_that_never_settles_ends_with_its_budget() -> None:
    machine = Machine(0.01 * 1.1**number for number in range(1000))
    _, seconds, steady = ruler.warm_up(machine.call, machine.synchronize, 2.0, machine.clock)
    assert not steady
    assert 2.0 <= seconds < 2.5


def measure(durations: Iterable[float], few: int | None = None, **changes: float) -> Timing:
    machine = Machine(durations)
    settings = Settings(warmup_s=0.0, **changes)  # type: ignore[arg-type]
    return ruler.measure(
        machine.call, machine.synchronize, settings, batch=4, budget_s=settings.sampling_s, few=few, clock=machine.clock
    )


def test_sampling_ends_when_the_median_is_known() -> None:
    timing = measure(forever(0.001), sampling_s=100.0)
    assert len(timing.samples_s) == Settings().min_samples
    assert timing.median_s == pytest.approx(0.001)
    assert timing.images_per_s == pytest.approx(4000)


def noisy() -> Iterator[float]:
    while True:
        yield from (0.001, 0.002)


def test_sampling_goes_on_while_the_median_is_not_known() -> None:
    assert len(measure(noisy(), sampling_s=100.0).samples_s) == Settings().max_samples


def test_sampling_ends_when_the_budget_is_spent() -> None:
    timing = measure(forever(0.4), sampling_s=2.0)
    assert len(timing.samples_s) == 5
    assert timing.interval_s is None
    assert timing.percentiles["p90"].reason == "too few samples"


def test_with_a_limit_of_p99_sampling_goes_on_until_its_bound_is_known() -> None:
    """Not longer, and not where the median tells already that p99 is beyond the limit."""
    timing = measure(forever(0.4), sampling_s=2.0, p99_within_s=0.5)
    assert len(timing.samples_s) == 662
    assert timing.percentiles["p99"].bound_s == pytest.approx(0.4)
    assert len(measure(forever(0.4), sampling_s=2.0, p99_within_s=0.3).samples_s) == 5
    assert len(measure(noisy(), sampling_s=100.0, p99_within_s=1.0).samples_s) == Settings().max_samples


def test_one_call_longer_than_the_budget_is_still_a_sample() -> None:
    assert len(measure(forever(50.0), sampling_s=1.0).samples_s) == 1


def test_emulated_arithmetic_is_timed_for_a_few_iterations() -> None:
    assert len(measure(forever(0.001), few=5).samples_s) == 5


def test_the_best_of_short_calls_is_found_by_the_clock() -> None:
    """Known truth: calls of one take two seconds at best and four otherwise, those of the other three."""
    moods, now = cycle([2.0, 4.0, 4.0]), [0.0]

    def wait(seconds: Iterator[float]) -> None:
        now[0] += next(seconds)

    uneven, even = (partial(wait, moods), lambda: None), (partial(wait, forever(3.0)), lambda: None)
    assert ruler.best(uneven, even, clock=lambda: now[0]) == [2.0, 3.0]


@example_settings(max_examples=10)  # each collects garbage
@given(st.integers(2, 5), st.integers(1, 12))
def test_in_every_round_each_has_one_turn(count: int, rounds: int) -> None:
    order: list[int] = []

    def taken(number: int) -> float:
        order.append(number)
        return float(len(order))

    found = ruler.interleave({number: partial(taken, number) for number in range(count)}, rounds=rounds)
    assert [sorted(order[start : start + count]) for start in range(0, len(order), count)] == [list(range(count))] * rounds
    for number, turns in found.items():
        assert turns == [place + 1 for place, one in enumerate(order) if one == number]


def test_turns_go_on_for_as_long_as_asked() -> None:
    now = [0.0]

    def taken() -> float:
        now[0] += 1.0
        return 1.0

    found = ruler.interleave({"a": taken, "b": taken}, seconds=100.0, clock=lambda: now[0])
    assert len(found["a"]) == len(found["b"]) == 50


def test_a_turn_leaves_out_its_first_calls() -> None:
    """Two calls, and 20 ms of them, before those that count; then the median of five."""
    machine = Machine([*[0.008] * 3, 0.001, 0.002, 0.009, 0.003, 0.004])
    assert ruler.turn(machine.call, machine.synchronize, machine.clock) == pytest.approx(0.003)


def test_spans_give_each_what_those_inside_did_not_take() -> None:
    now = [0.0]
    spans = ruler.Spans(lambda: now[0])
    for _ in range(2):
        spans.begin("outer")
        now[0] += 10
        spans.begin("inner")
        now[0] += 5
        spans.end()
        now[0] += 1
        spans.end()
    assert spans.seconds == {"inner": 10, "outer": 22}


def test_no_garbage_is_collected_between_samples() -> None:
    with ruler.quiet():
        assert not gc.isenabled()
    assert gc.isenabled()


def frames(durations: Iterable[float], count: int, period: float = 1.0) -> list[float | None]:
    machine = Machine(durations)

    def rest(seconds: float) -> None:
        machine.now += seconds

    return ruler.arrivals(machine.call, machine.synchronize, count, period, machine.clock, rest)


def test_frames_that_are_done_in_time_wait_for_nobody() -> None:
    assert frames(forever(0.5), 4) == [0.5] * 4


def test_a_frame_that_comes_meanwhile_waits() -> None:
    """The first takes one and a half periods: the second begins half a period late, the third in time."""
    assert frames([1.5, 0.25, 0.25, 0.25], 4) == [1.5, 0.75, 0.25, 0.25]


def test_the_newest_frame_takes_the_place_of_one_that_waits() -> None:
    """During the first, which ends at 3.5, come 1, 2 and 3: the last one is inferred, half a period after it came."""
    assert frames([3.5, 0.25, 0.25], 5) == [3.5, None, None, 0.75, 0.25]


def test_frames_of_a_camera_that_is_too_fast_are_dropped_to_the_end() -> None:
    """Two periods each: every second frame is dropped, and the last one that came is inferred."""
    assert frames(forever(2.0), 6) == [2.0, None, 2.0, None, 2.0, 3.0]


def test_a_sleep_that_ends_too_soon_is_gone_on_with() -> None:
    machine, rests = Machine(forever(0.25)), [0]

    def rest(seconds: float) -> None:
        rests[0] += 1
        machine.now += seconds / 2 if seconds > 0.1 else seconds

    found = ruler.arrivals(machine.call, machine.synchronize, 2, 1.0, machine.clock, rest)
    assert found == pytest.approx([0.25, 0.25])
    assert rests[0] > 1


def test_what_endures_is_handed_over_second_by_second() -> None:
    machine, seen = Machine(cycle([0.25, 0.25, 0.5])), []

    def each(at_s: float, samples: list[float]) -> bool:
        seen.append((at_s, samples))
        return True

    ruler.endure(machine.call, machine.synchronize, 3.0, each, machine.clock)
    assert seen == [(0.0, [0.25, 0.25, 0.5]), (1.0, [0.25, 0.25, 0.5]), (2.0, [0.25, 0.25, 0.5])]


def test_what_endures_ends_when_it_is_told_to() -> None:
    machine, ended = Machine(forever(0.25)), iter([True, False])
    ruler.endure(machine.call, machine.synchronize, 100.0, lambda at_s, samples: next(ended), machine.clock)
    assert machine.now == 2.0


class Gpu(Machine):
    """A device with a clock of its own, which runs ten times as fast as the host's says, and marks in its queue."""

    def mark(self) -> list[float]:
        """A mark is passed when the device has done what was queued before it."""
        marked: list[float] = []
        self.marks.append((self.calls, marked))
        return marked

    def __init__(self, durations: Iterable[float]) -> None:
        super().__init__(durations)
        self.marks: list[tuple[int, list[float]]] = []

    def synchronize(self) -> None:
        done, queued = 0, self.calls
        while True:
            for mark in [marked for after, marked in self.marks if after == done]:
                mark.append(10 * self.now)
            if done == queued:
                break
            self.calls, done = 1, done + 1
            super().synchronize()
        self.marks.clear()


def test_events_are_read_on_the_device_s_own_clock() -> None:
    gpu = Gpu([0.1, 0.2, 0.3])
    samples = ruler.sample_by_events(gpu.call, gpu.synchronize, gpu.mark, lambda one, other: other[0] - one[0], 3)
    assert samples == pytest.approx([1, 2, 3])


def test_calls_that_are_queued_are_waited_for_once_a_round() -> None:
    """A device that takes 10 ms for a call, and 2 ms where the next one is queued already."""
    now, queued, waited = 0.0, 0, 0

    def call() -> None:
        nonlocal queued
        queued += 1

    def synchronize() -> None:
        nonlocal now, queued, waited
        now, queued, waited = now + (0.008 + 0.002 * queued if queued else 0), 0, waited + 1

    found = ruler.pipelined(call, synchronize, 0.01, lambda: now)
    assert found.calls == 10
    assert found.rounds_s == pytest.approx([0.0028] * ruler.PIPELINED_ROUNDS)
    assert waited == 2 * ruler.PIPELINED_ROUNDS


@pytest.mark.parametrize(("latency_s", "calls"), [(1.0, 2), (1e-6, ruler.PIPELINED_MOST), (0.0, ruler.PIPELINED_MOST)])
def test_a_round_has_neither_one_call_nor_too_many(latency_s: float, calls: int) -> None:
    assert ruler.pipelined(lambda: None, lambda: None, latency_s, lambda: 0.0).calls == calls


def test_calls_are_repeated_to_the_end_of_the_last_one() -> None:
    machine, between = Machine(cycle([0.3])), list[float]()
    calls, seconds = ruler.repeat(
        machine.call, machine.synchronize, 1.0, lambda: between.append(round(machine.now, 9)), machine.clock
    )
    assert (calls, round(seconds, 9)) == (4, 1.2)
    assert between == [0.0, 0.3, 0.6, 0.9, 1.2], "before the first call, and after each"
