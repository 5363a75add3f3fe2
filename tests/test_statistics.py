"""Order statistics, against scipy and against simulation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plumbline.harness.statistics import loadgen_bound, median_interval, paired_difference_at_least, percentile, wilson_interval


@pytest.mark.parametrize(("fraction", "least"), [(0.5, 11), (0.9, 64), (0.99, 662)])
def test_loadgen_takes_as_many_samples_as_published(fraction: float, least: int) -> None:
    """64 for p90 and 662 for p99 (MLPerf inference rules); one less is too few."""
    assert loadgen_bound([1.0] * (least - 1), fraction) is None
    assert loadgen_bound([1.0] * (least - 1) + [2.0], fraction) == 2.0


@pytest.mark.parametrize("fraction", [0.9, 0.99])
def test_loadgen_bound_holds_as_often_as_it_says(fraction: float) -> None:
    """Of uniform samples, the bound lies above the true percentile in 99 % of cases or more."""
    source = random.Random(1)
    below = 0
    for _ in range(2000):
        bound = loadgen_bound(sorted(source.random() for _ in range(1000)), fraction)
        assert bound is not None
        below += bound < fraction
    assert below <= 2000 * 0.01 + 3 * (2000 * 0.01) ** 0.5


@given(st.lists(st.floats(0, 1), min_size=6, max_size=200, unique=True))
def test_median_interval_leaves_out_what_the_binomial_allows_and_no_more(samples: list[float]) -> None:
    """2.5 % on each side, by scipy's binomial: one rank more would leave out too much."""
    interval = median_interval(sorted(samples))
    assert interval is not None
    outside = sorted(samples).index(interval[0])
    assert outside == len(samples) - 1 - sorted(samples).index(interval[1])
    heads = stats.binom(len(samples), 0.5)
    assert heads.cdf(outside) <= 0.025 < heads.cdf(outside + 1)


@pytest.mark.parametrize("count", range(6))
def test_too_few_samples_have_no_interval(count: int) -> None:
    assert median_interval(list(range(count))) is None


def test_median_interval_covers() -> None:
    source = random.Random(2)
    missed = 0
    for _ in range(2000):
        interval = median_interval(sorted(source.random() for _ in range(50)))
        assert interval is not None
        missed += not interval[0] <= 0.5 <= interval[1]
    assert 2000 * 0.01 < missed <= 2000 * 0.05 + 3 * (2000 * 0.05) ** 0.5


@given(st.integers(0, 300).flatmap(lambda trials: st.tuples(st.integers(0, trials + 1), st.just(trials + 1))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    theirs = stats.binomtest(*case).proportion_ci(0.95, method="wilson")
    assert wilson_interval(*case) == pytest.approx((theirs.low, theirs.high))


def test_a_paired_difference_is_not_said_to_be_larger_than_it_is() -> None:
    """Of 500 images, 6 % lost and 3 % gained at random: the bound exceeds the true 3 % about once in a hundred."""
    source = random.Random(3)
    above = 0
    for _ in range(1000):
        drawn = [source.random() for _ in range(500)]
        lost, gained = sum(value < 0.06 for value in drawn), sum(value > 0.97 for value in drawn)
        above += paired_difference_at_least(lost, gained, 500) > 0.03
    assert above <= 1000 * 0.01 + 3 * (1000 * 0.01) ** 0.5


@given(st.integers(0, 200), st.integers(0, 200), st.integers(400, 1000))
def test_a_paired_difference_lies_above_its_bound(lost: int, gained: int, pairs: int) -> None:
    bound = paired_difference_at_least(lost, gained, pairs)
    assert bound <= (lost - gained) / pairs
    assert bound <= paired_difference_at_least(lost, gained, pairs, confidence=0.9)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentile_splits_the_samples(samples: list[float], fraction: float) -> None:
    value = percentile(sorted(samples), fraction)
    assert sum(sample <= value for sample in samples) >= fraction * len(samples)
    assert sum(sample < value for sample in samples) <= max(fraction, 0.5) * len(samples)
