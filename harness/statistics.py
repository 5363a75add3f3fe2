"""Order statistics and proportions. No torch, no pytest: this runs wherever there is a journal file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, median
from typing import Any

from msgspec import Struct

LOADGEN = "loadgen-early-stopping-99"
P99_SAMPLES = 662  # from which on `loadgen_bound` gives one of p99


@cache
def _special() -> Any:
    """Import scipy's functions when one is needed: half of the time in which a session starts, and it may need none."""
    from scipy import special

    return special


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Nearest-rank percentile of samples in ascending order; the median is the mean of the two middle ones."""
    count = len(ordered)
    if fraction == 0.5:
        return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return ordered[max(0, math.ceil(fraction * count) - 1)]


def median_interval(ordered: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Distribution-free confidence interval of the median, from order statistics; None with too few samples.

    Source: Conover 1999, "Practical Nonparametric Statistics", section 3.2.
    """
    count = len(ordered)
    outside = _largest_with_cdf_below((1 - confidence) / 2, count, 0.5)
    if outside < 0:
        return None
    return ordered[outside], ordered[count - 1 - outside]


class Ratio(Struct, frozen=True):
    """The median of ratios of pairs, and its 95 % interval; None with fewer than six pairs."""

    median: float
    interval: tuple[float, float] | None
    pairs: int


def paired_ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """How many times as fast `other` is as `base`, whose durations were taken in turns: the n-th of each are one pair.

    A pair shares what the machine was doing at that moment, so their ratio has less spread than the ratio of medians.
    """
    ratios = sorted(first / second for first, second in zip(base, other, strict=True))
    return Ratio(median(ratios), median_interval(ratios), len(ratios))


def loadgen_bound(ordered: Sequence[float], fraction: float, confidence: float = 0.99) -> float | None:
    """Upper confidence bound of a latency percentile by MLPerf LoadGen's early-stopping rule; None with too few samples.

    With t the largest number of samples such that Binomial(n, 1 - fraction) is at most t with a
    probability of 1 - confidence or less, the bound is the t-th largest sample; t must be at least 1,
    which takes 64 samples for p90 and 662 for p99. Source: MLPerf inference rules, appendix "Early
    stopping"; loadgen/early_stopping.cc.
    """
    allowed = _largest_with_cdf_below(1 - confidence, len(ordered), 1 - fraction)
    return ordered[len(ordered) - allowed] if allowed >= 1 else None


def percentile_floor(ordered: Sequence[float], fraction: float, confidence: float = 0.99) -> float | None:
    """Lower confidence bound of a percentile, from order statistics; None with too few samples. It holds for any distribution.

    Source: Conover 1999, "Practical Nonparametric Statistics", section 3.2.
    """
    above = _largest_with_cdf_below(confidence, len(ordered), 1 - fraction) + 1  # samples beyond the percentile, at most
    return ordered[len(ordered) - 1 - above] if above < len(ordered) else None


def loadgen_percentile(ordered: Sequence[float], fraction: float) -> float:
    """Percentile of samples in ascending order as MLPerf LoadGen has it, at most one rank above ours.

    Source: loadgen/results.cc, PerformanceSummary::ProcessLatencies.
    """
    return ordered[int(len(ordered) * fraction)]


def share_at_most(found: int, trials: int, confidence: float = 0.99) -> float:
    """Exact upper confidence bound of a proportion. It holds for trials that are independent of each other.

    Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26.
    """
    return 1.0 if found >= trials else float(_special().bdtri(found, trials, 1 - confidence))


def ratio_of_medians(
    base: Sequence[float], other: Sequence[float], confidence: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """How many times the median of `base` that of `other` is, of samples that are no pairs, and its confidence interval.

    The interval is that of both medians' own intervals, each of which fails with half the probability (Bonferroni): wider than
    need be, and right for any distribution. None with fewer than seven samples of either.
    """
    ends = [median_interval(sorted(samples), (1 + confidence) / 2) for samples in (base, other)]
    interval = None if ends[0] is None or ends[1] is None else (ends[1][0] / ends[0][1], ends[1][1] / ends[0][0])
    return median(other) / median(base), interval


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion. Source: Wilson 1927, "Probable Inference", JASA 22."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (successes + z * z / 2) / (trials + z * z)
    half = z / (trials + z * z) * math.sqrt(successes * (trials - successes) / trials + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference_at_least(lost: int, gained: int, pairs: int, confidence: float = 0.99) -> float:
    """Lower confidence bound of the difference of two proportions on the same images, by the score test.

    `lost` and `gained` count the images that only the first and only the second got right, among `pairs`. The bound is the
    smallest difference that the score test does not reject one-sided, so that it holds with few discordant pairs, and with none.
    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, section 4.
    """
    z, estimate = NormalDist().inv_cdf(confidence), (lost - gained) / pairs
    # bisection by hand: scipy.optimize would take half a second, and memory of the process that is measured
    rejected, possible = -1.0, estimate
    while rejected < (middle := (rejected + possible) / 2) < possible:
        if _paired_score(lost, gained, pairs, middle) > z:
            rejected = middle
        else:
            possible = middle
    return possible


def student(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution."""
    return float(_special().stdtrit(freedom, probability))


def student_above(value: float, freedom: float) -> float:
    """Return the chance that Student's t is above a value."""
    return float(_special().stdtr(freedom, -value))


def trigamma_inverse(value: float) -> float:
    """Solve trigamma(x) = value for x > 0, by Newton's method on its reciprocal.

    Source: Smyth 2004, "Linear models and empirical Bayes methods", appendix.
    """
    x = 0.5 + 1 / value
    for _ in range(50):
        found = float(_special().polygamma(1, x))
        step = found * (1 - found / value) / float(_special().polygamma(2, x))
        x += step
        if -step < 1e-8 * x:
            break
    return x


def _paired_score(lost: int, gained: int, pairs: int, difference: float) -> float:
    """Tango's statistic of a true `difference`; the share gained is then the likeliest one under it (his equation 5)."""
    b = -lost - gained + (2 * pairs - lost + gained) * difference
    share = (math.sqrt(max(0.0, b * b + 8 * pairs * gained * difference * (1 - difference))) - b) / (4 * pairs)
    variance = pairs * (2 * share + difference * (1 - difference))
    distance = lost - gained - pairs * difference
    return distance / math.sqrt(variance) if variance > 0 else math.inf * distance if distance else 0.0


def _largest_with_cdf_below(probability: float, trials: int, chance: float) -> int:
    """Return the largest k with P(Binomial(trials, chance) <= k) <= probability; -1 where there is none."""
    if trials == 0 or _special().bdtr(0, trials, chance) > probability:
        return -1
    # bdtrik interpolates between the integers; the step below settles rounding on either side
    k = math.floor(_special().bdtrik(probability, trials, chance))
    while _special().bdtr(k + 1, trials, chance) <= probability:
        k += 1
    while _special().bdtr(k, trials, chance) > probability:
        k -= 1
    return k
