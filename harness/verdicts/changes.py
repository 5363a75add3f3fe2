"""Where a series of session medians changed its level: the best partitions, judged by simulation of the series' own noise.

Medians of sessions that follow each other are alike for reasons of their own, as the load of a week; a penalty for independent
noise would take that for changes. So what points must save is found by simulation: of series with the autocorrelation and the
spread of this one, and no change, at most a given share has a point.

The partitioning is written here, in a dozen lines, as each simulation takes a thousand series: they are partitioned all at once,
which ruptures, the usual library, does not do; and it would be one more dependency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy
from msgspec import Struct
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from plumbline.harness.machine import Machine
from plumbline.harness.record import Record
from plumbline.harness.statistics import student
from plumbline.harness.verdicts.comparison import differing, measured
from plumbline.texts import number_of

Floats = NDArray[numpy.floating[Any]]

LEAST = 10  # sessions; of fewer nothing is said
SEGMENT = 3  # sessions of a level, at least: one that is off is an outlier, and two may be
SPIKE = 5.0  # robust standard deviations from the median of its neighbours, beyond which a session counts as that median
FALSE_POINTS = 0.05  # of series without a change: the share that may have a point
AT_ONCE = 2  # points that are added together, at most
SIMULATED = 1000
WANDERS = 0.7  # autocorrelation from which on a series without points drifts, or wanders: levels could not be told from that
LARGEST = 0.95  # autocorrelation that is simulated; beyond, a series is as good as a random walk


class Session(Struct, frozen=True):
    """A session's median of a cell, in seconds, and where it came from."""

    at: str
    median_s: float
    revision: str | None
    session: str
    conditions: dict[str, dict[str, Any]]


class Series(Struct, frozen=True):
    """The sessions of one cell on one machine, in time."""

    cell: str
    machine: str
    sessions: list[Session]


class Change(Struct, frozen=True):
    """A point: the number of the first session at the new level, the size as a share with its 95 % interval."""

    first: int
    size: float
    interval: tuple[float, float]


class Found(Struct, frozen=True):
    """What a series shows. `drift` is the growth of a line from first to last session, where it fits better than `drift_steps`.

    With no such steps the series wanders: no level can be told in it. `autocorrelation` and `spread` (a share) are those of what
    the levels leave; `short` says why nothing could be said.
    """

    changes: list[Change] = []
    drift: float | None = None
    drift_steps: int = 0
    autocorrelation: float = 0.0
    spread: float = 0.0
    short: str | None = None


def series_of(runs: Sequence[Sequence[Record]]) -> list[Series]:
    """Return a series for each cell and machine: the last record of a session counts, and only those that were timed."""
    found: dict[tuple[str, str], dict[str, Session]] = {}
    for record in sorted((record for records in runs for record in records), key=lambda record: record.started_at):
        row = measured(record)
        if row.median_s is not None and row.unusable is None:
            sessions = found.setdefault((record.id, hardware(record.machine)), {})
            sessions[record.session] = Session(row.at, row.median_s, row.revision, row.session, row.conditions)
    return [Series(cell, machine, list(sessions.values())) for (cell, machine), sessions in found.items()]


def hardware(machine: Machine) -> str:
    """Name what of a machine stays when its software is another one: versions may be the cause of a change, and no new series."""
    accelerator = (machine.accelerator or "").partition(", driver")[0]
    return ", ".join(filter(None, [accelerator, machine.cpu_model, machine.architecture, f"{machine.cores_allowed} cores"]))


def changed_with(series: Series, change: Change) -> list[str]:
    """Say what else differs between the sessions before and after a point, in words."""
    before, after = series.sessions[change.first - 1], series.sessions[change.first]
    return list(differing(before.conditions, after.conditions).values())


def changes(medians_s: Sequence[float], share: float = FALSE_POINTS) -> Found:
    """Find the changes of level in a series of medians in seconds. At most a share of series without a change has one.

    Points are added while the squares that they save are rare in noise like what is left of the series without them: one at a
    time, or two at once, as of a level that came and went neither end alone would show.
    """
    count = len(medians_s)
    if count < LEAST:
        return Found(short=f"{number_of(count, 'session')}, expected {LEAST} at least")
    logs = _without_spikes(numpy.log(numpy.asarray([medians_s])))[0]
    points: list[int] | None = []
    while points is not None:
        found, points = points, _more(logs, points, share)
    rest = _rest(logs, found)
    autocorrelation = _autocorrelation(rest, len(found) + 1)
    spread = math.sqrt(float(rest @ rest) / max(1, count - len(found) - 1))
    time = numpy.arange(count) - (count - 1) / 2
    slope = float(time @ logs / (time @ time))
    if _is_line(logs, rest, found, slope * time) or (not found and autocorrelation > WANDERS):
        return Found([], math.expm1(slope * (count - 1)), len(found), autocorrelation, spread)
    levels = [_change(logs, found, index, autocorrelation, spread) for index in range(len(found))]
    return Found(levels, None, 0, autocorrelation, spread)


def _more(logs: Floats, points: Sequence[int], share: float) -> list[int] | None:
    """Return the best partition with one point more, or two, if noise alone seldom saves as much by them; else None."""
    rest, count = _rest(logs, points), len(logs)
    now = float(rest @ rest)
    if now == 0:
        return None
    # What a step adds to the autocorrelation makes the first point dearer, never cheaper.
    allowed = _left_by_noise(count, round(20 * _autocorrelation(rest, len(points) + 1)) / 20, share)
    most = min(len(points) + AT_ONCE, count // SEGMENT - 1)
    squares, begins = _partitions(logs[None], most)
    for number in range(len(points) + 1, most + 1):
        if squares[0, number] < allowed[number - len(points) - 1] * now:
            return _traced(begins[:, 0], number, count)
    return None


def _change(logs: Floats, points: Sequence[int], index: int, autocorrelation: float, spread: float) -> Change:
    """Return a point with its interval, from the means of the levels on both sides of it."""
    ends = [0, *points, len(logs)]
    before, after = logs[ends[index] : ends[index + 1]], logs[ends[index + 1] : ends[index + 2]]
    alike = (1 + autocorrelation) / (1 - autocorrelation)  # by which the variance of a mean grows
    error = spread * math.sqrt(alike * (1 / len(before) + 1 / len(after)))
    freedom = max(2.0, (len(logs) - len(points) - 1) / alike)
    size, reach = float(after.mean() - before.mean()), student(0.975, freedom) * error
    return Change(points[index], math.expm1(size), (math.expm1(size - reach), math.expm1(size + reach)))


def _is_line(logs: Floats, rest: Floats, points: Sequence[int], line: Floats) -> bool:
    """Whether a line fits better than steps in one direction do.

    Compared by Schwarz's criterion: a line has one parameter beyond the first level, a step two, its place and its size.
    """
    levels = [float(level.mean()) for level in numpy.split(logs, points)]
    steps = [after - before for before, after in zip(levels, levels[1:])]
    if not steps or min(steps) < 0 < max(steps):
        return False
    off, count = logs - logs.mean() - line, len(logs)
    of_steps, of_line = (count * math.log(max(float(each @ each), 1e-300)) for each in (rest, off))
    return of_line + math.log(count) < of_steps + 2 * len(points) * math.log(count)


def _rest(logs: Floats, points: Sequence[int]) -> Floats:
    return numpy.concatenate([level - level.mean() for level in numpy.split(logs, points)])


def _autocorrelation(rest: Floats, levels: int) -> float:
    """Return that of two neighbours, 0 to LARGEST, less what a mean that was taken from few sessions hides of it.

    Source: Marriott & Pope 1954, "Bias in the estimation of autocorrelations", Biometrika 41.
    """
    squares = float(rest @ rest)
    raw = max(0.0, float(rest[1:] @ rest[:-1]) / squares) if squares else 0.0
    return min(LARGEST, raw + (levels + (levels + 3) * raw) / len(rest))


def _without_spikes(logs: Floats) -> Floats:
    """Put the median of five neighbours in the place of single sessions that are far off, in each row."""
    middle = numpy.median(sliding_window_view(numpy.pad(logs, ((0, 0), (2, 2)), mode="reflect"), 5, axis=1), axis=2)
    off = numpy.abs(logs - middle)
    return numpy.where(off > SPIKE * 1.4826 * numpy.median(off, axis=1, keepdims=True), middle, logs)


@cache
def _left_by_noise(count: int, autocorrelation: float, share: float) -> list[float]:
    """Return the share of squares that is left by the best one, two, ... points, and less of it in so few series of noise."""
    chance = numpy.random.default_rng(1)
    series = chance.standard_normal((SIMULATED, count))
    for number in range(1, count):
        series[:, number] *= math.sqrt(1 - autocorrelation**2)
        series[:, number] += autocorrelation * series[:, number - 1]
    squares, _ = _partitions(_without_spikes(series), min(AT_ONCE, count // SEGMENT - 1))
    return [float(numpy.quantile(squares[:, each] / squares[:, 0], share / AT_ONCE)) for each in range(1, squares.shape[1])]


def _partitions(series: Floats, most: int) -> tuple[Floats, NDArray[numpy.int64]]:
    """Return the least squares around levels with 0 to `most` points, of each row; and where the last level begins.

    The latter by number of points, row and number of sessions. Source: Bellman 1961, "On the approximation of curves by line
    segments using dynamic programming", Communications of the ACM 4.
    """
    rows, count = series.shape
    sums, squares = (numpy.cumsum(numpy.pad(values, ((0, 0), (1, 0))), axis=1) for values in (series, series**2))
    costs = numpy.full((most + 1, rows, count + 1), numpy.inf)
    begins = numpy.zeros((most + 1, rows, count + 1), dtype=numpy.int64)
    for end in range(SEGMENT, count + 1):
        starts = numpy.arange(end - SEGMENT + 1)
        within = squares[:, [end]] - squares[:, starts] - (sums[:, [end]] - sums[:, starts]) ** 2 / (end - starts)
        costs[0, :, end] = within[:, 0]
        for points in range(1, most + 1):
            whole = costs[points - 1][:, starts] + within
            begins[points, :, end] = whole.argmin(axis=1)
            costs[points, :, end] = whole.min(axis=1)
    return numpy.maximum(costs[:, :, count].T, 0.0), begins


def _traced(begins: NDArray[numpy.int64], number: int, end: int) -> list[int]:
    """Return the points of one row's best partition with that number of them."""
    points: list[int] = []
    for left in range(number, 0, -1):
        end = int(begins[left, end])
        points.append(end)
    return points[::-1]


def level(series: Series, first: int, last: int) -> float:
    """Return the typical median of some sessions in seconds: their geometric mean."""
    return math.exp(fmean(math.log(each.median_s) for each in series.sessions[first:last]))
