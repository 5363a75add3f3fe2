"""The line through logarithms, against scipy, and its interval by simulation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plumbline.harness.verdicts.fits import LEAST, log_log

POINTS = st.lists(st.tuples(st.floats(1e3, 1e11), st.floats(1e-6, 10)), min_size=LEAST, max_size=30)


@given(POINTS)
def test_slope_intercept_and_r2_are_those_of_scipy(points: list[tuple[float, float]]) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    u, v = [math.log10(x) for x in xs], [math.log10(y) for y in ys]
    fit = log_log(xs, ys)
    if fit is None:
        assert max(u) - min(u) < 1e-9
        return
    if max(u) - min(u) < 0.01 or max(v) - min(v) < 0.01:
        return  # digits are lost in both
    line = stats.linregress(u, v)
    half = stats.t.ppf(0.975, len(u) - 2) * line.stderr
    assert (fit.slope, fit.intercept) == pytest.approx((line.slope, line.intercept), rel=1e-5, abs=1e-5)
    assert fit.r2 == pytest.approx(line.rvalue**2, abs=1e-5)
    assert fit.slope_interval == pytest.approx((line.slope - half, line.slope + half), rel=1e-4, abs=1e-4)


def test_a_power_law_is_found_exactly() -> None:
    xs = [1e6, 3e6, 1e7, 1e8]
    fit = log_log(xs, [2e-9 * x**0.75 for x in xs])
    assert fit is not None
    assert fit.slope == pytest.approx(0.75)
    assert fit.at(1e9) == pytest.approx(2e-9 * 1e9**0.75)
    assert fit.interval(1e7) == pytest.approx((fit.at(1e7), fit.at(1e7)))


def test_the_interval_of_the_line_holds_the_truth_in_95_of_100() -> None:
    """Six nets whose latencies differ by a fifth from a power law, 2,000 times."""
    chance, xs = random.Random(3), [1e6, 5e6, 2e7, 9e7, 4e8, 4e9]
    held = 0
    for _ in range(2000):
        fit = log_log(xs, [1e-9 * x * math.exp(chance.gauss(0, 0.2)) for x in xs])
        assert fit is not None
        low, high = fit.interval(1e8)
        held += low <= 0.1 <= high
    assert 0.935 < held / 2000 < 0.965


def test_one_more_net_is_within_its_prediction_in_95_of_100() -> None:
    """The same six nets and a seventh one, 2,000 times; the interval of the line holds it in far fewer."""
    chance, xs = random.Random(4), [1e6, 5e6, 2e7, 9e7, 4e8, 4e9]
    held, in_line = 0, 0
    for _ in range(2000):
        fit = log_log(xs, [1e-9 * x * math.exp(chance.gauss(0, 0.2)) for x in xs])
        assert fit is not None
        one = 0.1 * math.exp(chance.gauss(0, 0.2))
        (low, high), (nearest, farthest) = fit.prediction(1e8), fit.interval(1e8)
        held, in_line = held + (low <= one <= high), in_line + (nearest <= one <= farthest)
    assert 0.935 < held / 2000 < 0.965
    assert in_line < 0.75 * 2000


def test_of_too_few_points_and_of_one_x_nothing_is_said() -> None:
    assert log_log([1, 2, 3], [1, 2, 3]) is None
    assert log_log([2, 2, 2, 2], [1, 2, 3, 4]) is None
