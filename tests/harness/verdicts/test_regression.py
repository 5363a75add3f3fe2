"""The gate's statistics against known truths, worked out by hand, by scipy or by simulation."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.regression import (
    EFFECT,
    IMPROVED,
    INCONCLUSIVE,
    REGRESSED,
    WITHIN_NOISE,
    Evidence,
    Spread,
    judge,
    pair_effect,
    rounds_error,
    trimmed,
)

ALIKE = Spread(0.01**2, 1000.0)  # all cells of a suite have pairs that spread by 1 %


def around(centre: float, pairs: int = 15, deviation: float = 0.01, seed: int = 0) -> list[float]:
    """Effects with exactly this mean and standard deviation."""
    drawn = numpy.random.default_rng(seed).normal(size=pairs)
    return (centre + deviation * (drawn - drawn.mean()) / drawn.std(ddof=1)).tolist()


def test_drift_and_spikes_leave_the_effect_of_a_pair_alone() -> None:
    """The machine becomes three times as slow within a pair, and something else wakes up in every fifth round."""
    chance = random.Random(0)
    base_s, head_s = [], []
    for number in range(40):
        slowness = 1 + 2 * number / 40
        base_s.append(1e-3 * slowness * (5 if number % 5 == 0 else 1) * chance.uniform(0.999, 1.001))
        head_s.append(1.05e-3 * slowness * (7 if number % 5 == 2 else 1) * chance.uniform(0.999, 1.001))
    assert pair_effect([base_s], [head_s]) == pytest.approx(math.log(1.05), abs=2e-3)


def test_order_does_not_matter() -> None:
    """Whoever is the base: the effect is that of the opposite."""
    one, other = [1.0, 2.0, 3.0], [1.1, 2.0, 3.6]
    assert pair_effect([one], [other]) == pytest.approx(-pair_effect([other], [one]))


def test_what_the_order_of_starting_does_cancels() -> None:
    """Who is started first is 2 % slower: each side is so once, and the head is 5 % slower than its base."""
    base_s, head_s = [[1.02] * 5, [1.0] * 7], [[1.05] * 5, [1.05 * 1.02] * 7]
    assert pair_effect(base_s, head_s) == pytest.approx(math.log(1.05))


def test_the_error_of_rounds_is_how_much_their_median_varies() -> None:
    """Of 2,000 pairs of 40 rounds whose logs differ by 5 %, and one round in ten by much more."""
    chance = random.Random(7)
    base = [1.0] * 40
    heads = [[math.exp(chance.gauss(0, 0.5 if chance.random() < 0.1 else 0.05)) for _ in base] for _ in range(2000)]
    seen = stdev(pair_effect([base], [head]) for head in heads)
    assert 1 <= fmean(rounds_error(base, head) for head in heads) / seen <= 1.15, (
        "quartiles of 40 rounds lie a little too far out"
    )


def test_the_mean_of_few_pairs_is_students() -> None:
    """Below seven pairs nothing is trimmed, and scipy's t-test says the same."""
    effects = [0.02, 0.031, 0.018, 0.044, 0.027]
    expected = stats.ttest_1samp(effects, regression.MARGIN, alternative="greater").pvalue
    assert trimmed(effects).p() == pytest.approx(expected)
    assert Spread(0.0, 0.0).mean(effects).p() == pytest.approx(expected)


def test_one_wild_pair_does_not_hide_a_slowdown() -> None:
    """Its standard error would grow fivefold."""
    effects = [*around(0.05, 9), 1.5]
    assert trimmed(effects).p() < 1e-4 < stats.ttest_1samp(effects, regression.MARGIN, alternative="greater").pvalue


def test_trimmed_means_are_calibrated() -> None:
    """Of 4,000 means that lie on the margin, a hundredth is below p = 0.01; of heavy tails no more."""
    chance = numpy.random.default_rng(5)
    for draw, most in ((chance.standard_normal, 0.016), (lambda size: chance.standard_t(3, size), 0.012)):
        drawn = (regression.MARGIN + 0.01 * numpy.asarray(draw((4000, 15)))).tolist()
        below = sum(trimmed(effects).p() < 0.01 for effects in drawn)
        assert 0.002 < below / 4000 < most


def test_fresh_pairs_of_a_suite_that_is_known_are_surer_than_alone() -> None:
    """Four pairs alone have Student's three degrees of freedom; what spreads more than the suite did goes by its own spread."""
    usual, wild = around(0.05, 4), around(0.05, 4, 0.05)
    assert ALIKE.confirmed(usual).p() < 1e-6 < trimmed(usual).p()
    assert ALIKE.confirmed(wild).error == trimmed(wild).error
    assert Spread(0.0, 0.0).confirmed(usual) == trimmed(usual)


def test_spread_finds_what_cells_have_in_common() -> None:
    """Variances drawn around 1.5 % squared, with the freedom 10: three pairs a cell are enough for 3,000 cells."""
    chance = numpy.random.default_rng(1)
    variances = 0.015**2 * 10 / chance.chisquare(10, 3000)
    found = Spread.of([chance.normal(0, math.sqrt(variance), 3).tolist() for variance in variances])
    assert found.variance == pytest.approx(0.015**2, rel=0.1)
    assert found.freedom == pytest.approx(10, rel=0.4)


def test_spread_of_equal_cells_and_of_too_few() -> None:
    chance = numpy.random.default_rng(2)
    assert Spread.of([chance.normal(0, 0.01, 3).tolist() for _ in range(3000)]).freedom > 30
    assert Spread.of([[0.1, 0.2], [0.1, 0.3]]) == Spread(0.0, 0.0)


def test_screening_never_convicts() -> None:
    found = judge({"a": Evidence(screen=around(0.3, 8))}, ALIKE)["a"]
    assert found.verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("effect", "verdict"), [(EFFECT, REGRESSED), (-EFFECT, IMPROVED), (0.0, WITHIN_NOISE), (math.log(1.01), WITHIN_NOISE)]
)
def test_verdicts(effect: float, verdict: str) -> None:
    found = judge({"a": Evidence(confirm=around(effect))}, ALIKE)["a"]
    assert found.verdict == verdict
    assert found.interval is not None and found.effect is not None
    assert found.interval[0] < found.effect < found.interval[1]
    assert found.effect == pytest.approx(math.expm1(effect), abs=5e-3)


def test_too_much_noise_says_what_would_have_been_found() -> None:
    found = judge({"a": Evidence(confirm=around(0.02, deviation=0.2))}, ALIKE)["a"]
    assert found.verdict == INCONCLUSIVE and found.reason == "too much noise"
    assert found.detectable is not None and found.detectable > 0.1


def test_what_was_not_confirmed_for_lack_of_time_says_so() -> None:
    evidence = {"a": Evidence(screen=around(EFFECT, 4)), "b": Evidence()}
    found = judge(evidence, ALIKE, given_up=["a", "b"])
    assert [found[name].reason for name in "ab"] == ["the time was up before it was confirmed", "the time did not allow for it"]


def test_holms_procedure() -> None:
    """By hand, at 1 %: 0.001 is below 0.01 / 3, 0.004 below 0.01 / 2, and 0.02 is not below 0.01; 0.004 alone of two is not."""
    assert regression.rejected({"a": 0.001, "b": 0.004, "c": 0.02}) == {"a", "b"}
    assert regression.rejected({"a": 0.006, "b": 0.0055}) == set()


def test_many_suspects_ask_for_more_evidence() -> None:
    """What is certain enough alone is not among twenty, of which each could be red by chance."""
    slow = around(0.021, 15, 0.015)
    alone = judge({"a": Evidence(confirm=slow)}, ALIKE)
    among = judge({"a": Evidence(confirm=slow), **{str(n): Evidence(confirm=around(0, 15, 0.015, n)) for n in range(20)}}, ALIKE)
    assert (alone["a"].verdict, among["a"].verdict) == (REGRESSED, WITHIN_NOISE)


def test_more_noise_takes_more_pairs() -> None:
    spreads = [(around(EFFECT, 3, deviation), Spread(deviation**2, 100)) for deviation in (0.005, 0.02, 0.2)]
    counts = [regression.pairs_to_confirm(screen, 3, spread) for screen, spread in spreads]
    assert counts[0] == regression.CONFIRMING[0] < counts[1] < counts[2] == regression.CONFIRMING[1]


def test_controls_that_differ_are_told_of() -> None:
    """A schedule that favours one side: the same code is 3 % apart; and a slowdown that is not seen."""
    good, slowed = Evidence(confirm=around(0.001, 8)), Evidence(confirm=around(EFFECT, 10))
    evidence = {"one": good, "two": good, "slow": slowed}
    assert regression.distrust(evidence, ALIKE, ["one", "two"], "slow") == []
    (biased,) = regression.distrust({**evidence, "two": Evidence(confirm=around(-0.03, 8))}, ALIKE, ["one", "two"], "slow")
    assert "-3.0%" in biased and "two" in biased
    (blind,) = regression.distrust({**evidence, "slow": Evidence(confirm=around(0.0, 10))}, ALIKE, ["one", "two"], "slow")
    assert "was not found" in blind
    (missing,) = regression.distrust({**evidence, "slow": Evidence()}, ALIKE, ["one", "two"], "slow")
    assert "not timed" in missing


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=30))
def test_a_cell_never_regresses_and_improves(effects: Sequence[float]) -> None:
    found = judge({"a": Evidence(confirm=list(effects))}, ALIKE)["a"]
    if found.verdict == REGRESSED:
        assert found.effect is not None and found.effect > 0.01
    if found.verdict == IMPROVED:
        assert found.effect is not None and found.effect < -0.0099


@pytest.mark.parametrize(("pairs", "most"), [(2, 8.2), (3, 24.4)])
def test_few_pairs_say_little_of_the_common_spread(pairs: int, most: float) -> None:
    """20 cells that are alike: 2 n / trigamma(f / 2) degrees of freedom, and no more."""
    chance = random.Random(1)
    spread = Spread.of([[chance.gauss(0, 0.01) for _ in range(pairs)] for _ in range(20)])
    assert spread.freedom <= most
    assert 0.003 < math.sqrt(spread.variance) < 0.03
