"""Order statistics, against scipy and against simulation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plumbline.harness.statistics import (
    loadgen_bound,
    loadgen_percentile,
    median_interval,
    paired_difference_at_least,
    percentile,
    ratio_of_medians,
    share_at_most,
    wilson_interval,
)


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


@pytest.mark.parametrize(
    ("first", "second", "pairs", "confidence", "interval"),
    [
        (1, 7, 21, 0.95, (-0.517, -0.026)),  # Fagerland et al. 2014, Statistics in Medicine 33, on Bentur et al. 2009
        (6, 16, 161, 0.95, (-0.1240, -0.0054)),  # R's contingencytables 3.0 (Fagerland et al. 2017), on Cavo et al. 2012
        (28, 25, 618, 0.90, (-0.0148, 0.0247)),  # R's PropCIs::scoreci.mp(25, 28, 618, 0.9), which takes them the other way round
    ],
)
def test_a_paired_difference_has_the_published_intervals(
    first: int, second: int, pairs: int, confidence: float, interval: tuple[float, float]
) -> None:
    """Of a two-sided interval the bound is one end, and with the two exchanged the other."""
    one_sided = (1 + confidence) / 2
    lower, upper = (
        paired_difference_at_least(first, second, pairs, one_sided),
        -paired_difference_at_least(second, first, pairs, one_sided),
    )
    digits = 3 if pairs == 21 else 4
    assert (round(lower, digits), round(upper, digits)) == interval


@given(st.integers(1, 2000))
def test_without_a_discordant_pair_there_is_a_bound_all_the_same(pairs: int) -> None:
    """-z^2 / (n + z^2), where the statistic can be solved by hand; Wald's interval would say that the difference is exactly 0."""
    z = stats.norm.ppf(0.99)
    assert paired_difference_at_least(0, 0, pairs) == pytest.approx(-(z**2) / (pairs + z**2), abs=1e-9)
    assert paired_difference_at_least(pairs, 0, pairs) == pytest.approx((pairs - z**2) / (pairs + z**2), abs=1e-9)
    assert paired_difference_at_least(0, pairs, pairs) == -1


@pytest.mark.parametrize(
    ("pairs", "lost", "gained"),
    [
        (100, 0.0, 0.005),  # Wald's bound is 0, and so too high, where no pair differs: in 61 %
        (100, 0.02, 0.02),
        (500, 0.01, 0.005),
        (500, 0.03, 0.0),  # the score test's worst: 1.8 %
    ],
)
def test_with_few_discordant_pairs_a_paired_difference_is_rarely_said_to_be_larger_than_it_is(
    pairs: int, lost: float, gained: float
) -> None:
    """By every outcome and its probability: in about 1 %, as the score test is right in the limit of many pairs only."""
    chance = stats.multinomial(pairs, [lost, gained, 1 - lost - gained])
    above = sum(
        chance.pmf([first, second, pairs - first - second])
        for first in range(50)
        for second in range(25)
        if paired_difference_at_least(first, second, pairs) > lost - gained
    )
    assert above <= 0.02


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentile_splits_the_samples(samples: list[float], fraction: float) -> None:
    value = percentile(sorted(samples), fraction)
    assert sum(sample <= value for sample in samples) >= fraction * len(samples)
    assert sum(sample < value for sample in samples) <= max(fraction, 0.5) * len(samples)


@pytest.mark.parametrize(("found", "trials"), [(0, 1), (0, 459), (3, 100), (99, 100), (100, 100)])
def test_the_bound_of_a_share_is_scipys(found: int, trials: int) -> None:
    expected = stats.binomtest(found, trials, alternative="less").proportion_ci(0.99, method="exact").high
    assert share_at_most(found, trials) == pytest.approx(expected)


def test_one_missed_in_a_hundred_is_shown_by_459_without_one() -> None:
    """Known: 0.99 ** 459 is the first power below 0.01."""
    assert share_at_most(0, 458) > 0.01 > share_at_most(0, 459)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_loadgens_percentile_is_at_most_one_rank_above_ours(samples: list[float], fraction: float) -> None:
    ordered = sorted(samples)
    if fraction != 0.5:  # of which ours is the mean of two
        ranks = [ordered.index(percentile(ordered, fraction)), len(ordered) - 1]
        assert percentile(ordered, fraction) <= loadgen_percentile(ordered, fraction) <= ordered[min(ranks[0] + 1, ranks[1])] or (
            ordered.count(percentile(ordered, fraction)) > 1
        )


def test_a_ratio_of_medians_has_the_ends_of_both() -> None:
    ratio, interval = ratio_of_medians([1.0] * 60, [1.5] * 60)
    assert (ratio, interval) == (1.5, (1.5, 1.5))
    assert ratio_of_medians([1.0] * 60, [1.0] * 6)[1] is None


def test_a_ratio_of_medians_covers() -> None:
    """Of samples with one median, the interval of the ratio holds 1 in 95 % of cases or more."""
    source = random.Random(2)
    held = 0
    for _ in range(1000):
        first, last = ([source.lognormvariate(0, 0.3) for _ in range(60)] for _ in range(2))
        found = ratio_of_medians(first, last)[1]
        assert found is not None
        held += found[0] <= 1 <= found[1]
    assert held >= 950
