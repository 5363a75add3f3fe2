"""Does the interval hold the truth as often as it says? By simulation, with seeds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from plumbline.harness.meters import Rail
from plumbline.harness.meters.energy import Series, energy

WINDOW_S, IDLE_W, BUSY_W, INFERENCES, TRIALS = 2.0, 10.0, 30.0, 400, 400
TRUTH = (BUSY_W - IDLE_W) * WINDOW_S / INFERENCES


def noisy(watts: float, chance: random.Random) -> Series:
    """A power whose readings are off by a tenth, each by itself."""
    times = [number * 0.1 for number in range(21)]
    return Series(0.0, WINDOW_S, times, [chance.gauss(watts, watts / 10) for _ in times])


def drifting(watts: float, chance: random.Random) -> Series:
    """A power that keeps half of its last error: the next reading is much like this one."""
    off, values = 0.0, []
    for _ in range(21):
        off = 0.5 * off + chance.gauss(0.0, watts / 20)
        values.append(watts + off)
    return Series(0.0, WINDOW_S, [number * 0.1 for number in range(21)], values)


def stale(watts: float, chance: random.Random) -> Series:
    """A counter that shows, in steps of 10 mJ, what it knew when it was brought up to date, any time in the last 0.1 s."""
    phase = chance.uniform(0, 0.1)
    times = [number * 0.099 + chance.uniform(0, 0.02) for number in range(21)]
    known = [((time + phase) // 0.1) * 0.1 - phase for time in times]
    return Series(0.0, WINDOW_S, times, [1000 + round(time * watts, 2) for time in known])


def coverage(of: Callable[[float, random.Random], Series], rail: Rail) -> float:
    """The share of intervals that hold the truth."""
    held = 0
    for seed in range(TRIALS):
        chance = random.Random(seed)
        found = energy(rail, of(BUSY_W, chance), INFERENCES, of(IDLE_W, chance), scope="machine")
        held += found.interval is not None and found.interval[0] <= TRUTH <= found.interval[1]
    return held / TRIALS


@pytest.mark.parametrize(
    ("of", "unit", "least"),
    [(noisy, "W", 0.93), (stale, "J", 0.95), (drifting, "W", 0.80)],  # what drifts is known worse than the interval says
)
def test_the_interval_holds_the_truth(of: Callable[[float, random.Random], Series], unit: str, least: float) -> None:
    assert coverage(of, Rail("a rail", unit, 0.1, 0.01)) >= least
