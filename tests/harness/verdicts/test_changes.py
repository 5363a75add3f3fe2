"""Points in series whose levels are known: planted steps, none, a drift, outliers."""

from __future__ import annotations

import math

import numpy
import pytest

from plumbline.harness.machine import Machine
from plumbline.harness.verdicts.changes import LEAST, Floats, Found, changed_with, changes, hardware, series_of
from tests.harness.verdicts.test_comparison import row
from tests.records import cell_of, replace

SPREAD = 0.01


def noise(rows: int, count: int, autocorrelation: float, seed: int = 0) -> Floats:
    """Logs of medians that spread by a percent around 1, of neighbours that are alike."""
    chance = numpy.random.default_rng(seed)
    made = chance.standard_normal((rows, count))
    for number in range(1, count):
        made[:, number] = autocorrelation * made[:, number - 1] + math.sqrt(1 - autocorrelation**2) * made[:, number]
    return SPREAD * made


def found_in(logs: Floats) -> list[Found]:
    return [changes(each) for each in numpy.exp(logs).tolist()]


@pytest.mark.parametrize("count", [LEAST, 20, 40])
@pytest.mark.parametrize("autocorrelation", [0.0, 0.5, 0.8])
def test_steady_series_have_no_more_points_than_promised(count: int, autocorrelation: float) -> None:
    """5 % of 300 are 15; 22 or more would come by chance once in thirty times."""
    seen = found_in(noise(300, count, autocorrelation))
    assert sum(bool(each.changes or each.drift_steps) for each in seen) <= 22


@pytest.mark.parametrize("autocorrelation", [0.0, 0.5])
@pytest.mark.parametrize(("size", "count", "least"), [(0.05, 40, 0.8), (0.10, 20, 0.95), (-0.10, LEAST, 0.85)])
def test_planted_steps_are_found_where_they_are(size: float, autocorrelation: float, count: int, least: float) -> None:
    logs = noise(100, count, autocorrelation, seed=1)
    logs[:, count // 2 :] += math.log1p(size)
    seen = found_in(logs)
    right = [each for each in seen if len(each.changes) == 1 and abs(each.changes[0].first - count // 2) <= 1]
    assert len(right) >= least * 100
    assert sum(each.changes[0].size for each in right) / len(right) == pytest.approx(size, abs=0.01)
    held = sum(each.changes[0].interval[0] <= size <= each.changes[0].interval[1] for each in right)
    assert held >= 0.7 * len(right), "an interval holds the truth, less often where few sessions tell of the noise"


def test_two_steps_are_two_points() -> None:
    logs = noise(20, 60, 0.0, seed=2)
    logs[:, 20:40] += math.log(1.1)
    seen = [[point.first for point in each.changes] for each in found_in(logs)]
    assert sum(len(points) == 2 and abs(points[0] - 20) <= 1 and abs(points[1] - 40) <= 1 for points in seen) >= 18


def test_noise_of_its_own_is_what_keeps_a_series_from_having_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for independent, neighbours that are alike would have points in more than a third of series."""
    from plumbline.harness.verdicts import changes as module

    monkeypatch.setattr(module, "_autocorrelation", lambda rest, levels: 0.0)
    assert sum(bool(each.changes or each.drift_steps) for each in found_in(noise(100, 40, 0.8, seed=3))) > 33


def test_a_drift_is_said_to_be_one() -> None:
    """It is reported as steps in none of these series; of the steep ones with the growth that it has."""
    for growth, told_at_least in ((0.6, 20), (0.1, 0)):
        logs = noise(20, 40, 0.0, seed=4) + numpy.linspace(0, math.log1p(growth), 40)
        seen = found_in(logs)
        assert sum(len(each.changes) > 1 for each in seen) == 0
        told = [each for each in seen if each.drift is not None]
        assert len(told) >= told_at_least
        assert all(each.drift == pytest.approx(growth, abs=0.05) for each in told)


def test_a_staircase_is_no_drift_and_a_ramp_after_a_start_is_no_staircase() -> None:
    """By Schwarz's criterion, on three levels that are far apart, and on a line through the same."""
    from plumbline.harness.verdicts.changes import _is_line

    time, steps = numpy.arange(30) - 14.5, numpy.repeat([0.0, 0.1, 0.2], 10)
    for logs, is_line in ((steps, False), (0.007 * time, True)):
        logs = logs + noise(1, 30, 0.0)[0]
        rest = numpy.concatenate([level - level.mean() for level in numpy.split(logs, [10, 20])])
        line = float(time @ logs / (time @ time)) * time
        assert _is_line(logs, rest, [10, 20], line) == is_line


def test_a_session_that_is_off_is_no_change() -> None:
    logs = noise(100, 20, 0.0, seed=5)
    logs[:, 7] += math.log(2)
    assert sum(bool(each.changes or each.drift_steps) for each in found_in(logs)) <= 8


def test_a_series_that_is_too_short_says_so() -> None:
    assert changes([1.0] * 4 + [2.0] * 5).short == f"9 sessions, expected {LEAST} at least"


def test_a_series_without_any_noise() -> None:
    assert changes([1.0] * 12).changes == []


def test_a_series_is_a_cell_on_a_machine_in_time() -> None:
    """Another torch is what else changed; another processor is another series; what was not timed is none."""
    usual = Machine(cpu_model="a processor", cores_allowed=2, torch="2.14")
    records = [
        row(2e-3, session="b", started_at="2026-01-02", revision="r2", machine=replace(usual, torch="2.15")),
        row(1e-3, session="a", started_at="2026-01-01", revision="r1", machine=usual),
        row(9e-3, session="a", started_at="2026-01-01", machine=replace(usual, cpu_model="another")),
        row(1e-3, session="a", outcome="failed", cell=cell_of(batch=8), machine=usual),
    ]
    series = series_of([records[:2], records[2:]])
    assert sorted((each.machine, [session.revision for session in each.sessions]) for each in series) == [
        ("a processor, 2 cores", ["r1", "r2"]),
        ("another, 2 cores", ["5ca1ab1e"]),
    ]
    change = changes([1.0, 1.01, 0.99, 1.0, 1.01, 2.0, 2.01, 1.99, 2.0, 2.02]).changes[0]
    whole = next(each for each in series if len(each.sessions) == 2)
    assert changed_with(whole, replace(change, first=1)) == ["torch: torch 2.14 -> 2.15"]
    assert hardware(replace(usual, accelerator="NVIDIA X, driver 600")) == "NVIDIA X, a processor, 2 cores"
