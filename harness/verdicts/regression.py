"""Whether a change made cells slower: pure statistics over pairs of processes, one effect a pair.

A pair is a process of the base and one of the head, resident side by side, that take turns. Its effect is the median over rounds
of log(head / base). The pair is the unit of error, not the inference: what a process has by chance (where its memory lies, when
it ran) is the same in all of its samples.

Screening clears a cell as soon as its upper bound excludes the `EFFECT` that is promised to be found, and never convicts. What it
does not clear is confirmed by fresh pairs alone, so any rule of screening is allowed. `docs/gate.md` gives the error rates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from statistics import fmean, median, quantiles, variance
from typing import TypeVar

from msgspec import Struct
from scipy.special import polygamma, psi

from plumbline.harness.statistics import student, student_above, trigamma_inverse
from plumbline.harness.verdicts.words import INCONCLUSIVE as INCONCLUSIVE

MARGIN = math.log(1.01)  # a slowdown below that is none: two identical sides may differ by a bias of some tenths of a percent
EFFECT = math.log(1.05)  # the slowdown that is promised to be found
FAMILY = 0.01  # the chance that a suite without a slowdown is called regressed
CLEARED = 0.002  # the chance, at each look, that a cell which is slower by EFFECT is cleared
LOOKS = (2, 3, 4, 5, 6, 8)  # pairs after which screening looks at a cell
CONFIRMING = (6, 25)  # fresh pairs: at least, at most
HURRIED = 4  # fresh pairs at least where the time does not allow for more
POWER = 0.99  # with which the number of fresh pairs is to find EFFECT; in a hurry, LIKELY of what screening saw
LIKELY = 0.75  # of an effect that is looked at because it is large; where that is more than EFFECT
TRIMMED = 0.15  # of the fresh pairs, at each end: a pair during which something else woke up says little
CONTROL = 0.0025  # p of a control, in either direction, below which the gate distrusts itself

REGRESSED, IMPROVED, WITHIN_NOISE = "regressed", "improved", "within noise"
MISSING, NEW, INCOMPARABLE, UNCHANGED = "missing", "new", "incomparable", "unchanged"
VERDICTS = (
    REGRESSED,
    INCOMPARABLE,
    MISSING,
    INCONCLUSIVE,
    IMPROVED,
    NEW,
    WITHIN_NOISE,
    UNCHANGED,
)  # what a reader has to see comes first


Named = TypeVar("Named", bound=Hashable)


class Evidence(Struct):
    """The effects of a cell's pairs: those that screened it, and the fresh ones that confirm."""

    screen: list[float] = []
    confirm: list[float] = []


class Judgement(Struct, frozen=True):
    """What became of a cell.

    `effect` is the share by which the head is slower than the base (negative: faster), `interval` its 99 % interval, `detectable`
    the smallest slowdown that would have been found with a chance of 95 %. `p` is one-sided, of more than the margin; of the
    opposite in an improved cell.
    """

    verdict: str
    reason: str = ""
    effect: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    pairs: int = 0
    detectable: float | None = None


class Spread(Struct, frozen=True):
    """What the variances of all cells say about that of one: `variance` on `freedom` degrees of freedom, beside its own.

    Source: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression", section 6.2.
    """

    variance: float
    freedom: float

    @classmethod
    def of(cls, screens: Iterable[Sequence[float]]) -> Spread:
        """Fit it to the effects of the cells of a suite. With fewer than three cells it says nothing (`freedom` 0).

        Few pairs of few cells say little about the common spread itself, so that its `freedom` is no larger than what it was
        estimated from (not in Smyth, who has thousands of genes).
        """
        known = [(variance(effects), len(effects) - 1) for effects in screens if len(effects) > 1]
        known = [(found, freedom) for found, freedom in known if found > 0]
        if len(known) < 3:
            return cls(0.0, 0.0)
        # what is left of log variances without the part that few pairs add to them
        logs = [math.log(found) - float(psi(freedom / 2)) + math.log(freedom / 2) for found, freedom in known]
        centre = fmean(logs)
        expected = fmean(float(polygamma(1, freedom / 2)) for _, freedom in known)
        excess = variance(logs) - expected
        # the common spread is an estimate, too: of a log variance with f degrees of freedom the variance is about 2 / f
        most = 2 * len(known) / max(expected, variance(logs))
        if excess <= 0:  # all cells are alike
            return cls(math.exp(centre), most)
        half = trigamma_inverse(excess)
        return cls(math.exp(centre + float(psi(half)) - math.log(half)), min(2 * half, most))

    def mean(self, effects: Sequence[float]) -> Mean:
        """Return the mean of the few pairs that screen a cell, whose spread alone says little."""
        return self._moderated(Mean(fmean(effects), math.sqrt(variance(effects) / len(effects)), len(effects) - 1))

    def confirmed(self, effects: Sequence[float]) -> Mean:
        """Return the mean of fresh pairs; of one that spreads more than the suite did before, by its own spread."""
        own = trimmed(effects)
        found = self._moderated(own)
        return Mean(found.value, max(found.error, own.error), found.freedom)

    def _moderated(self, mean: Mean) -> Mean:
        """Take the error of a mean from the spread of its pairs and from this one, each by its degrees of freedom."""
        freedom, pairs = self.freedom + mean.freedom, mean.freedom + 1
        pooled = (self.freedom * self.variance / pairs + mean.freedom * mean.error**2) / freedom
        return Mean(mean.value, math.sqrt(pooled), freedom)


class Mean(Struct, frozen=True):
    """A mean effect, its standard error, and the degrees of freedom of that."""

    value: float
    error: float
    freedom: float

    def p(self, margin: float = MARGIN) -> float:
        """One-sided p of an effect beyond the margin."""
        beyond = self.value - margin
        if self.error == 0:
            return 0.0 if beyond > 0 else 1.0
        return student_above(beyond / self.error, self.freedom)

    def opposite(self) -> Mean:
        """Return the mean of the opposite effects."""
        return Mean(-self.value, self.error, self.freedom)


def trimmed(effects: Sequence[float]) -> Mean:
    """Return the mean of the fresh pairs of a cell, without a share TRIMMED of them at each end.

    Source: Yuen 1974, "The two-sample trimmed t for unequal population variances", Biometrika 61.
    """
    ordered, cut = sorted(effects), int(TRIMMED * len(effects))
    kept = ordered[cut : len(ordered) - cut]
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = math.sqrt(variance(winsorized) * (len(effects) - 1) / (len(kept) * (len(kept) - 1)))
    return Mean(fmean(kept), error, len(kept) - 1)


def pair_effect(base_s: Sequence[Sequence[float]], head_s: Sequence[Sequence[float]]) -> float:
    """Return log(head / base): the median over rounds, and the mean of that over the orders in which processes were started.

    Takes the seconds of rounds, a list for each order; the n-th of both sides are of one round.
    """
    return fmean(median(_ratios(*both)) for both in zip(base_s, head_s, strict=True))


def rounds_error(base_s: Sequence[float], head_s: Sequence[float]) -> float:
    """Return the standard error of the median over rounds, as far as they show it: that of a normal distribution's median.

    Its standard deviation is taken from the quartiles (1.349 of it apart), as single rounds are far off; the error of a median is
    1.2533 times that of a mean (Kenney and Keeping 1962, "Mathematics of Statistics", part 1, section 13.9).
    """
    low, _, high = quantiles(_ratios(base_s, head_s), n=4)
    return 1.2533 * (high - low) / 1.349 / math.sqrt(len(base_s))


def _ratios(base_s: Sequence[float], head_s: Sequence[float]) -> list[float]:
    return [math.log(head / base) for base, head in zip(base_s, head_s, strict=True)]


def cleared(effects: Sequence[float], spread: Spread) -> bool:
    """Whether a slowdown by EFFECT is excluded, at this look of screening."""
    mean = spread.mean(effects)
    return mean.value + student(1 - CLEARED, mean.freedom) * mean.error < EFFECT


def suspicion(effects: Sequence[float], spread: Spread) -> float:
    """Return p of being no slower than the margin, from screening; the smaller, the sooner is it confirmed."""
    return spread.mean(effects).p()


def pairs_to_confirm(effects: Sequence[float], suspects: int, spread: Spread, hurried: bool = False) -> int:
    """Return how many fresh pairs find a slowdown with the chance POWER, by the spread that screening saw."""
    seen = spread.mean(effects)
    deviation, wanted = seen.error * math.sqrt(len(effects)), max(EFFECT, LIKELY * seen.value) if hurried else EFFECT
    for count in range(HURRIED if hurried else CONFIRMING[0], CONFIRMING[1]):
        kept = count - 2 * int(TRIMMED * count)
        freedom = spread.freedom + kept - 1
        if _detectable(deviation / math.sqrt(kept), freedom, FAMILY / max(1, suspects), POWER) <= wanted:
            return count
    return CONFIRMING[1]


def judge(
    evidence: Mapping[Named, Evidence], spread: Spread, controls: Collection[Named] = (), given_up: Collection[Named] = ()
) -> dict[Named, Judgement]:
    """Return the judgement of each cell. `given_up` are suspects that were not confirmed; controls are not of the family."""
    confirmed = _confirmed(evidence, spread)
    family = {name: mean for name, mean in confirmed.items() if name not in controls}
    slower = rejected({name: mean.p() for name, mean in family.items()})
    faster = rejected({name: mean.opposite().p() for name, mean in family.items()})
    found = {}
    for name, seen in evidence.items():
        if name not in confirmed and len(seen.screen) < 2:
            reason = "the time did not allow for it" if name in given_up else "it was not timed twice"
            found[name] = Judgement(INCONCLUSIVE, reason, pairs=len(seen.screen))
            continue
        mean = confirmed[name] if name in confirmed else spread.mean(seen.screen)
        verdict, reason, p = INCONCLUSIVE, "too much noise", mean.p()
        if name in slower or (name in controls and name in confirmed and mean.p() <= FAMILY):
            verdict, reason = REGRESSED, ""
        elif name in faster:
            verdict, reason, p = IMPROVED, "", mean.opposite().p()
        elif upper(mean, 0.99) < EFFECT:
            verdict, reason = WITHIN_NOISE, ""
        elif name in given_up:
            reason = "the time was up before it was confirmed"
        found[name] = Judgement(
            verdict,
            reason,
            effect=math.expm1(mean.value),
            interval=(math.expm1(-upper(mean.opposite(), 0.995)), math.expm1(upper(mean, 0.995))),
            p=p,
            pairs=len(seen.confirm) or len(seen.screen),
            detectable=math.expm1(_detectable(mean.error, mean.freedom, FAMILY / max(1, len(family)), 0.95)),
        )
    return found


def judge_amounts(effects: Mapping[Named, Sequence[float]]) -> dict[Named, Judgement]:
    """Return the judgement of each quantity of memory and energy, by log(head / base) of all its pairs.

    One that cannot be told is within noise or inconclusive; a family of its own, by the same margin.
    """
    return judge({name: Evidence(confirm=list(found)) for name, found in effects.items()}, Spread(0.0, 0.0))


def distrust(evidence: Mapping[str, Evidence], spread: Spread, same: Collection[str], slowed: str) -> list[str]:
    """Say why a run is not to be trusted: sides that are the same differ, or a known slowdown was not seen. Empty where it is."""
    reasons, confirmed = [], _confirmed(evidence, spread)
    for name in same:
        mean = confirmed.get(name)
        if mean is not None and min(mean.p(), mean.opposite().p()) < CONTROL:
            reasons.append(f"two processes of one side differ by {math.expm1(mean.value):+.1%} ({name})")
    mean = confirmed.get(slowed)
    if mean is None or mean.p() > FAMILY:
        got = "it was not timed" if mean is None else f"it shows {math.expm1(mean.value):+.1%}, and that is not certain"
        reasons.append(f"a slowdown of {math.expm1(EFFECT):.0%}, made on purpose, was not found: {got}")
    return reasons


def _confirmed(evidence: Mapping[Named, Evidence], spread: Spread) -> dict[Named, Mean]:
    return {name: spread.confirmed(seen.confirm) for name, seen in evidence.items() if len(seen.confirm) > 1}


def upper(mean: Mean, confidence: float) -> float:
    return mean.value + student(confidence, mean.freedom) * mean.error


def rejected(p: Mapping[Named, float]) -> set[Named]:
    """Return the hypotheses that Holm's procedure rejects at FAMILY.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    rejected: set[Named] = set()
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] > FAMILY / (len(p) - rank):
            break
        rejected.add(name)
    return rejected


def _detectable(error: float, freedom: float, level: float, power: float) -> float:
    """Return the effect that a mean with that standard error shows, at a level, with a chance of `power`."""
    return MARGIN + (student(1 - level, freedom) + student(power, freedom)) * error
