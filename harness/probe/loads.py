"""Put a loaded object under a load: what each scenario does with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from plumbline.harness import machine, timing
from plumbline.harness.load import BESIDE, CAMERA, LOADGEN, SERVER, SINGLE, SOAK, Beside, Camera, Loaded, Run, Scenario, Soak
from plumbline.harness.probe import loadgen
from plumbline.harness.probe.disturbance import Disturbance
from plumbline.harness.probe.loadgen import Served
from plumbline.harness.readings import Readings, value_of
from plumbline.harness.statistics import loadgen_percentile, paired_ratio, percentile, ratio_of_medians, share_at_most
from plumbline.texts import duration

Progress = Callable[[str], None]
ONE_BY_ONE = (SINGLE, CAMERA, BESIDE)  # which send one image after the other
MINUTE_S = 60.0
ALONE = 200  # inferences without a queue, before a search
BESIDE_S, FEWEST, MOST = 0.25, 64, 2000  # of a turn of LoadGen's and of ours; 64 is what its early stopping takes of p90


def run(
    scenario: Scenario,
    infer: Callable[[int], Any],
    synchronize: Callable[[], None],
    batch: int,
    batches: int,
    warmup_s: float,
    progress: Progress,
    *,
    most: float | None = None,
    device: str = "cpu",
) -> Loaded:
    """Put the object under a load, once it is warm. What cannot be done here is `unavailable`, with the reason.

    `infer` starts an inference of its n-th placed batch, of `batches`. A soak ends when the machine is hotter than `most`, in °C.
    """
    if scenario.name in ONE_BY_ONE and batch != 1:
        return Loaded(scenario, unavailable=f"{scenario.name} sends one image at a time: expected a batch of 1, got {batch}")
    if scenario.name == SOAK and most is not None and machine.hottest() is None:
        return Loaded(scenario, unavailable=f"it cannot be stopped at {most:g} °C (--max-temperature): there is no sensor here")
    if scenario.name in (*LOADGEN, BESIDE) and (reason := loadgen.missing()) is not None:
        return Loaded(scenario, unavailable=reason)
    first = partial(infer, 0)
    progress(f"{scenario.name}: warming up")
    timing.warm_up(first, synchronize, warmup_s)
    served = Served(infer, synchronize, batch, batches, timing.turn(first, synchronize))
    progress(f"{scenario.name}: {duration(scenario.seconds)}")
    disturbance = Disturbance(device=device)
    if scenario.name == SOAK:
        found = Loaded(scenario, soak=soak(first, synchronize, scenario.seconds, progress, most=most))
    else:
        found = _DONE.get(scenario.name, _loadgen)(scenario, served, progress)
    return replace(found, disturbance=disturbance.read())


def _loadgen(scenario: Scenario, served: Served, progress: Progress) -> Loaded:
    return Loaded(scenario, [loadgen.run(scenario.name, served, scenario.seconds, scenario.queries)])


def _server(scenario: Scenario, served: Served, progress: Progress) -> Loaded:
    limit_s = scenario.limit_s
    if limit_s is None:
        return Loaded(scenario, unavailable="expected the latency that p99 is to be kept under (--limit-ms), got none")

    def test(rate_hz: float) -> Run:
        progress(f"{SERVER}: {rate_hz:.4g}/s for {duration(scenario.seconds)} or more")
        return loadgen.run(SERVER, served, scenario.seconds, scenario.queries, rate_hz=rate_hz, limit_s=limit_s)

    capacity_hz = served.batch / served.expected_s
    alone = sorted(timing.sample(partial(served.infer, 0), served.synchronize, ALONE))
    if percentile(alone, 0.99) > limit_s:  # no rate keeps what is not kept without a queue: LoadGen says so of one of them
        return Loaded(scenario, [test(capacity_hz / 2)])
    return Loaded(scenario, loadgen.search(test, capacity_hz))


def _camera(scenario: Scenario, served: Served, progress: Progress) -> Loaded:
    period_s = 1 / scenario.rate_hz
    frames = max(1, round(scenario.seconds * scenario.rate_hz))
    turns = iter(range(frames))
    with timing.quiet():
        found = timing.arrivals(lambda: served.infer(next(turns)), served.synchronize, frames, period_s)
    return Loaded(scenario, camera=of_frames(found, scenario.rate_hz, scenario.deadline_s or period_s))


def of_frames(found: list[float | None], rate_hz: float, deadline_s: float) -> Camera:
    """Count what became of frames: seconds from arrival to the end, None of what was dropped."""
    done = sorted(seconds for seconds in found if seconds is not None)
    late, dropped = sum(seconds > deadline_s for seconds in done), len(found) - len(done)
    return Camera(
        rate_hz,
        deadline_s,
        len(found),
        dropped,
        late,
        (late + dropped) / len(found),
        share_at_most(late + dropped, len(found)),
        {name: percentile(done, fraction) for name, fraction in timing.PERCENTILES.items()},
    )


def soak(
    call: Callable[[], Any],
    synchronize: Callable[[], None],
    seconds: float,
    progress: Progress,
    state: Callable[[], Readings] = machine.state,
    clock: timing.Clock | None = None,
    most: float | None = None,
) -> Soak:
    """Sample for so long without a pause, and read the state of the machine between the seconds.

    Ends when that is hotter than `most`, in °C; the rows until then are kept.
    """
    rows: list[tuple[float, list[float], Readings]] = []
    stopped: str | None = None

    def each(at_s: float, samples: list[float]) -> bool:
        nonlocal stopped
        rows.append((at_s, sorted(samples), state()))
        celsius = value_of(rows[-1][2], "temperature")
        if most is not None and celsius is not None and celsius > most:
            after = duration(at_s + timing.SECOND_S)
            stopped = f"{celsius:.0f} °C after {after}, and at most {most:g} °C are allowed (--max-temperature)"
            return False
        left = max(0.0, seconds - at_s - timing.SECOND_S)
        progress(f"{SOAK}: p50 {percentile(rows[-1][1], 0.5):.4g} s, {duration(left)} left")
        return True

    with timing.quiet():
        timing.endure(call, synchronize, seconds, each, *([] if clock is None else [clock]))
    medians = [percentile(ordered, 0.5) for _, ordered, _ in rows]
    window_s = min(MINUTE_S, (seconds if stopped is None else rows[-1][0] + timing.SECOND_S) / 2)
    many = max(1, min(sum(at_s < window_s for at_s, _, _ in rows), len(rows) // 2))
    ratio, interval = ratio_of_medians(medians[:many], medians[-many:])
    return Soak(
        at_s=[at_s for at_s, _, _ in rows],
        counts=[len(ordered) for _, ordered, _ in rows],
        medians_s=medians,
        p99s_s=[percentile(ordered, 0.99) for _, ordered, _ in rows],
        temperatures=[value_of(read, "temperature") for _, _, read in rows],
        clocks_hz=[value_of(read, "clock") for _, _, read in rows],
        window_s=window_s,
        ratio=ratio,
        interval=interval,
        stopped=stopped,
    )


def _beside(scenario: Scenario, served: Served, progress: Progress) -> Loaded:
    """Take LoadGen's p90 and ours in turns, by one rule for a percentile, of as many inferences, after some that do not count."""
    many = min(MOST, max(FEWEST, round(BESIDE_S / served.expected_s)))
    numbers = iter(range(1 << 62))  # the pictures take turns, as LoadGen lets them

    def infer() -> Any:
        return served.infer(next(numbers))

    def theirs() -> float:
        timing.sample(infer, served.synchronize, timing.UNTIMED)
        latency_s = loadgen.run(SINGLE, served, 0.0, exactly=many).latency_s
        assert latency_s is not None
        return latency_s

    def ours() -> float:
        timing.sample(infer, served.synchronize, timing.UNTIMED)
        return loadgen_percentile(sorted(timing.sample(infer, served.synchronize, many)), loadgen.PERCENTILES[SINGLE])

    taken = timing.interleave({"loadgen": theirs, "ours": ours}, seconds=scenario.seconds, progress=progress)
    found = paired_ratio(taken["loadgen"], taken["ours"])
    return Loaded(scenario, beside=Beside(taken["loadgen"], taken["ours"], many, found.median, found.interval))


_DONE: Mapping[str, Callable[[Scenario, Served, Progress], Loaded]] = {
    SERVER: _server, CAMERA: _camera, BESIDE: _beside,
}  # fmt: skip
