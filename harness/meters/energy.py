"""From what a meter read to joules an inference, with their doubt. Pure functions of numbers."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean, stdev

from msgspec import Struct

from plumbline.harness.facts import Energy
from plumbline.harness.meters.meter import Rail
from plumbline.harness.statistics import student

UPDATES = 20  # of the meter, in a window: at both ends of it up to one is lost, which is 5 % of a counter's energy each
BATCHES = 10  # of a window, two updates each at least, so that their means know little of each other
MOST_W = 20e3  # no machine on a desk or in a rack takes more
ODD_SHARE = 0.1  # of the readings or of the time that may be missing


class Series(Struct):
    """What a meter read in one window, from `begun_s` to `ended_s` on one clock: watts, or joules since any moment.

    `bad` counts the readings that failed, `reason` says why the last of them did.
    """

    begun_s: float
    ended_s: float
    times_s: list[float] = []
    values: list[float] = []
    bad: int = 0
    reason: str | None = None

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.ended_s - self.begun_s


class Power(Struct, frozen=True):
    """Mean power over a window, with the half width of its 95 % interval; or why it is not known."""

    watts: float = math.nan
    within: float = math.nan
    wrong: str | None = None
    remarks: tuple[str, ...] = ()


def power(series: Series, rail: Rail) -> Power:
    """Return the mean power over a window, by batch means: 10 parts of it, and Student's t of their spread.

    Source: Law 2015, "Simulation Modeling and Analysis", section 9.5.3. To that half width comes what a spread does not show:
    of a counter, two steps of its resolution and the energy of one update, over the window; of a power, half a step.
    """
    wrong, remarks = _oddities(series, rail)
    if wrong is not None:
        return Power(wrong=wrong)
    joules = _joules(series, rail)
    ends = [series.begun_s + series.seconds * part / BATCHES for part in range(BATCHES + 1)]
    first, last = max(ends[0], series.times_s[0]), min(ends[-1], series.times_s[-1])
    if rail.unit == "J":  # there is nothing to know outside of its readings
        ends = [first + (last - first) * part / BATCHES for part in range(BATCHES + 1)]
    energies = [_at(time, series.times_s, joules, steady=rail.unit == "W") for time in ends]
    part_s = (ends[-1] - ends[0]) / BATCHES
    means = [(later - earlier) / part_s for earlier, later in zip(energies, energies[1:])]
    watts = fmean(means)
    if watts == 0:
        return Power(wrong=f"it reads {series.values[-1]:g} {rail.unit} all the time")
    spread = student(0.975, BATCHES - 1) * stdev(means) / math.sqrt(BATCHES)
    coarse = rail.resolution / 2 if rail.unit == "W" else (2 * rail.resolution + watts * rail.update_s) / (ends[-1] - ends[0])
    return Power(watts, spread + coarse, remarks=remarks)


def energy(
    rail: Rail,
    running: Series,
    inferences: int,
    idle: Series,
    *,
    scope: str,
    estimate: bool = False,
    disturbed: Sequence[str] = (),
) -> Energy:
    """Return the joules of an inference: the power that it adds to that at rest, times its duration.

    The doubts of the two powers are independent, and add up in quadrature. Where they are as large as the difference, that is
    not known. `disturbed` says what else the machine did in the two windows, and is added to the remarks.
    """
    found, rest = power(running, rail), power(idle, rail)
    remarks = [*(f"while it ran: {remark}" for remark in found.remarks), *(f"at rest: {remark}" for remark in rest.remarks)]
    remarks += disturbed
    start = running.values[0] if rail.unit == "J" and running.values else 0.0

    def known(**more: object) -> Energy:
        fields = {
            **declared(rail, scope=scope, estimate=estimate),
            "seconds": running.seconds, "idle_s": idle.seconds, "inferences": inferences,
            "updates": int(running.seconds / rail.update_s),
            "samples": [value - start for value in running.values], "remarks": remarks,
            "running_w": _finite(found.watts), "running_within_w": _finite(found.within),
            "idle_w": _finite(rest.watts), "idle_within_w": _finite(rest.within), **more,
        }  # fmt: skip
        return Energy(**fields)  # type: ignore[arg-type]

    if found.wrong is not None:
        return known(unavailable=f"while it ran: {found.wrong}")
    if rest.wrong is not None:
        return known(unavailable=f"at rest: {rest.wrong}")
    each_s, more_w, within_w = running.seconds / inferences, found.watts - rest.watts, math.hypot(found.within, rest.within)
    if more_w <= within_w:
        told = f"{found.watts:.4g} W while it runs, {rest.watts:.4g} W at rest, known to ±{within_w:.2g} W"
        return known(unavailable=f"an inference is lost in what the machine takes anyway: {told}")
    return known(joules=more_w * each_s, interval=((more_w - within_w) * each_s, (more_w + within_w) * each_s))


def declared(rail: Rail, *, scope: str, estimate: bool) -> dict[str, object]:
    """Return the fields of Energy that a meter declares."""
    return {
        "rail": rail.name, "scope": scope, "unit": rail.unit, "update_s": rail.update_s, "resolution": rail.resolution,
        "about": rail.about, "estimate": estimate,
    }  # fmt: skip


def _oddities(series: Series, rail: Rail) -> tuple[str | None, tuple[str, ...]]:
    """Return why a window says nothing, or what is to be said beside it."""
    times, all_readings = series.times_s, len(series.times_s) + series.bad
    if not times or (series.bad and series.bad > ODD_SHARE * all_readings):
        failed = f"{series.bad} of {all_readings} readings failed: {series.reason}" if series.bad else "it was never read"
        return failed, ()
    remarks = [f"{series.bad} of {all_readings} readings failed: {series.reason}"] if series.bad else []
    steps = [later - earlier for earlier, later in zip([series.begun_s, *times], [*times, series.ended_s])]
    if min(steps) < 0:
        return f"the clock went back by {-min(steps):.3g} s", ()
    if rail.unit == "J" and len(times) < 2:
        return "its counter was read once", ()
    backwards = next((f"{one:g} to {two:g} J" for one, two in zip(series.values, series.values[1:]) if two < one), None)
    if rail.unit == "J" and backwards is not None:
        return f"the counter went backwards, from {backwards}: it was reset meanwhile", ()
    if (watts := _most_watts(series, rail)) > MOST_W:
        return f"garbage: it reads {watts:.3g} W", ()
    if rail.unit == "W" and max(steps) > ODD_SHARE * series.seconds:  # what a counter missed, it has counted
        return f"nothing was read for {max(steps):.3g} of {series.seconds:.3g} s: it hung, or the clock jumped", ()
    return None, tuple(remarks)


def _most_watts(series: Series, rail: Rail) -> float:
    """Return the highest power; of a counter between two readings, each of which may be late by an update or off by a step."""
    if rail.unit == "W":
        return max(series.values)
    steps = zip(series.times_s, series.times_s[1:], series.values, series.values[1:])
    return max((more - less - 2 * rail.resolution) / (two - one + rail.update_s) for one, two, less, more in steps)


def _joules(series: Series, rail: Rail) -> list[float]:
    """Return the energy at each reading: as counted, or the area below the power (trapezoids)."""
    if rail.unit == "J":
        return series.values
    areas = (
        (two - one) * (more + less) / 2
        for one, two, more, less in zip(series.times_s, series.times_s[1:], series.values, series.values[1:])
    )
    return [0.0, *accumulate(areas)]


def _at(time: float, times: Sequence[float], joules: Sequence[float], *, steady: bool) -> float:
    """Return the energy at a time: between two readings on the line through them; beyond, with `steady`, at the nearest power."""
    if len(times) == 1:
        return joules[0]
    index = min(max(bisect_right(times, time) - 1, 0), len(times) - 2)
    (one, two), (less, more) = times[index : index + 2], joules[index : index + 2]
    if two == one or not (steady or one <= time <= two):
        return less if time < two else more
    return less + (more - less) * (time - one) / (two - one)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
