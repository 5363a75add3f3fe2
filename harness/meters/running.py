"""How meters are started and read: `Running` around the samples of a latency, `Watch` for energy.

No meter does anything while a sample is taken. Energy has windows of its own: one at rest, before the cell, and one of further
inferences, after its latency is known. There one thread, at most, samples all powers; counters need none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

from plumbline import UnknownName
from plumbline.harness import timing
from plumbline.harness.facts import Energy
from plumbline.harness.meters.energy import UPDATES, Series, declared, energy
from plumbline.harness.meters.meter import EnergyMeter, Meter, Rail, Unavailable, asked, finite
from plumbline.harness.meters.registry import METERS, announced, find
from plumbline.harness.readings import Reading, Readings

LEAST_WINDOW_S = 0.5  # however fast a meter is, the machine is not: clocks and fans follow the load
LEAST_S = {"W": 0.02, "J": 0.01}  # between two readings: one of a monitor on I2C takes about a millisecond


class Running:
    """All meters there are but those of energy, running from now on until they are read."""

    def __init__(self) -> None:
        self._running: dict[str, Meter] = {}
        self._found: dict[str, type[Meter]] = {}
        self._reasons: dict[str, str] = {}
        for name in (*METERS, *announced()):
            try:
                kind = find(name)
                if issubclass(kind, EnergyMeter):
                    continue
                self._found[name] = kind
                with asked():
                    begun = kind()
                    begun.begin()
                self._running[name] = begun
            except (UnknownName, Unavailable) as reason:
                self._reasons[name] = str(reason)

    def read(self, inferences: int) -> Readings:
        """Read each over that many inferences, or say why it is unavailable."""
        found: Readings = {}
        for name in dict.fromkeys((*self._found, *self._reasons)):
            meter = self._found.get(name, Meter)
            values: list[float] = []
            if name in self._running:
                try:
                    with asked():
                        values = finite(self._running[name].end())
                except Unavailable as reason:
                    self._reasons[name] = str(reason)
            window = inferences if values else None
            found[name] = Reading(meter.unit, meter.scope, values, meter.rate_hz, window, self._reasons.get(name))
        return found


Background = Callable[[Callable[[], float]], AbstractContextManager[None]]
Looking = Callable[[], Callable[[], list[str]]]  # begins to look at what else the machine does; the second says what disturbed


def not_looking() -> Callable[[], list[str]]:
    """Look at nothing, and find nothing."""
    return list


@contextmanager
def in_background(poll: Callable[[], float]) -> Iterator[None]:
    """Let a thread call `poll`, each time so many seconds later as the last call has returned. What it raises comes out here."""
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(poll()):
            pass

    with ThreadPoolExecutor(1, "plumbline-meters") as threads:
        going = threads.submit(go)
        try:
            yield
        finally:
            ended.set()
    going.result()


class Watch:
    """All meters of energy, opened and read at rest: make it before anything runs. Then ask it what inferences take.

    A window has 20 updates of the slowest meter that keeps within `budget_s`, and lasts half a second at least. What a meter
    still averages over is waited for before it. `device` is that of the cell, `looking` begins to look at what disturbs a window;
    `root`, `clock`, `sleep` and `background` are for a device that is replayed.
    """

    def __init__(
        self,
        budget_s: float,
        device: str = "cpu",
        *,
        looking: Looking = not_looking,
        root: Path = Path("/"),
        clock: timing.Clock = perf_counter,
        time_of_day: timing.Clock = time.time,
        sleep: Callable[[float], None] = time.sleep,
        background: Background = in_background,
    ) -> None:
        self._clock, self._sleep, self._background, self._looking = clock, sleep, background, looking
        self._disturbed: list[str] = []
        self._meters: dict[str, tuple[EnergyMeter, Rail]] = {}
        self._without: dict[str, Energy] = {}
        for name in (*METERS, *announced()) if budget_s > 0 else ():
            try:
                kind = find(name)
            except UnknownName:  # `Running` says so
                continue
            if not issubclass(kind, EnergyMeter):
                continue
            try:
                with asked():
                    meter = kind(root, device, time_of_day)
                    rail = meter.open()
            except Unavailable as reason:
                self._without[name] = Energy(scope=kind.scope, estimate=kind.estimate, unavailable=str(reason))
                continue
            needed_s = UPDATES * _interval_s(rail) + rail.averaged_s
            if needed_s > budget_s:
                why = f"window too short: {UPDATES} updates of it take {needed_s:.3g} s, and energy_s allows {budget_s:g} s"
                self._without[name] = Energy(
                    **declared(rail, scope=kind.scope, estimate=kind.estimate), unavailable=why  # type: ignore[arg-type]
                )  # fmt: skip
                continue
            self._meters[name] = meter, rail
        rails = [rail for _, rail in self._meters.values()]
        self._wait_s = max((rail.averaged_s for rail in rails), default=0.0)
        self._window_s = max([LEAST_WINDOW_S, *(UPDATES * _interval_s(rail) for rail in rails)])
        self._idle = self._rest() if self._meters else {}

    def _rest(self) -> dict[str, Series]:
        """Read the power at rest, while this process sleeps."""
        self._sleep(self._wait_s)
        disturbed = self._looking()
        poll = _Poll(self._meters, self._clock)
        while (left := poll.begun_s + self._window_s - self._clock()) > 0:
            self._sleep(min(poll(), left))
        found = poll.ended()
        self._disturbed = [f"at rest: {reason}" for reason in disturbed()]
        return found

    def run(self, call: Callable[[], Any], synchronize: Callable[[], None]) -> dict[str, Energy]:
        """Return what one inference takes, by each meter, or why that is not known; of as many as fit into the window."""
        if not self._meters:
            return dict(self._without)
        powers, counters = (
            {name: (meter, rail) for name, (meter, rail) in self._meters.items() if rail.unit == unit} for unit in ("W", "J")
        )
        with timing.quiet():
            timing.repeat(call, synchronize, self._wait_s, timing.nothing, self._clock)
            disturbed = self._looking()
            poll, beside = _Poll(counters, self._clock), _Poll(powers, self._clock)
            with self._background(beside) if powers else nullcontext():
                count, _ = timing.repeat(call, synchronize, self._window_s, poll, self._clock)
        seen = {**poll.ended(), **beside.ended()}
        said = [*(f"while it ran: {reason}" for reason in disturbed()), *self._disturbed]
        return self._without | {
            name: energy(rail, seen[name], count, self._idle[name], scope=meter.scope, estimate=meter.estimate, disturbed=said)
            for name, (meter, rail) in self._meters.items()
        }


def _interval_s(rail: Rail) -> float:
    """Seconds between two readings: as often as it has a new value, but not more often than is good."""
    return max(rail.update_s, LEAST_S[rail.unit])


class _Poll:
    """A window that begins now: each call reads the meters that are due, and returns the seconds until the next one is."""

    def __init__(self, meters: Mapping[str, tuple[EnergyMeter, Rail]], clock: timing.Clock) -> None:
        self._meters, self._clock = meters, clock
        self.begun_s = clock()
        self._series = {name: Series(self.begun_s, self.begun_s) for name in meters}
        self._due_s = dict.fromkeys(meters, self.begun_s)
        self._last_s = self.begun_s

    def __call__(self) -> float:
        last_s, self._last_s = self._last_s, self._clock()
        went_back = self._last_s < last_s  # that shows in the times of the readings
        for name, (meter, rail) in self._meters.items():
            now = self._clock()
            if now < self._due_s[name] and not went_back:
                continue
            series = self._series[name]
            try:
                with asked():
                    (value,) = finite(meter.read())
            except Unavailable as reason:
                series.bad, series.reason = series.bad + 1, str(reason)
            else:
                series.times_s.append(now)
                series.values.append(value)
            self._due_s[name] = now + _interval_s(rail)
        return max(0.0, min(self._due_s.values(), default=0.0) - self._clock())

    def ended(self) -> dict[str, Series]:
        """End the window now."""
        now = self._clock()
        for series in self._series.values():
            series.ended_s = now
        return self._series
