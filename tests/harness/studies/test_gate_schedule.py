"""Whole suites on simulated pairs: what is found, what is not, and how long it takes. No clock but a simulated one."""

from __future__ import annotations

import math
import random
from statistics import median

import numpy
import pytest

from plumbline.harness.studies.gate import schedule, selftest
from plumbline.harness.studies.gate.schedule import CONTROLS, SAME, SLOWER
from plumbline.harness.studies.gate.selftest import Pool, Resampled, resample
from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.regression import INCONCLUSIVE, REGRESSED, Evidence

SECONDS = 1.6
QUIET_S, LONGER_S, *_ = selftest.LIMITS_S


def pool(deviation: float, *, heavy: bool = False, bias: float = 0.0, seconds: float = SECONDS) -> Pool:
    """Twenty kinds of cells, each with its own spread around `deviation`; with Student's three degrees of freedom, or normal."""
    chance = numpy.random.default_rng(1)
    effects = {}
    for kind in range(20):
        own = deviation * math.exp(chance.normal(0, 0.35))
        drawn = chance.standard_t(3, 80) / math.sqrt(3) if heavy else chance.standard_normal(80)
        effects[f"kind {kind}"] = (own * drawn + bias).tolist()
    return Pool(effects, dict.fromkeys(effects, seconds), 0.0)


def test_what_is_promised_holds_on_simulated_pairs() -> None:
    """Pairs that spread by 1.2 %: nothing is red, each 5 % and 10 % is found, 200 cells take less than 25 minutes."""
    fine = resample(pool(0.012), 12, budget_s=QUIET_S)
    assert (fine.red, fine.distrusted) == (0, 0)
    assert max(fine.seconds) < 25 * 60
    slow = resample(pool(0.012), 6, budget_s=QUIET_S, slowed_each=1, seed=1)
    assert slow.found[0.05] == slow.slowed[0.05] == 6
    assert slow.found[0.10] == slow.slowed[0.10] == 6
    assert slow.red == 0


def test_where_pairs_take_longer_so_does_what_is_promised() -> None:
    """The self-test says in which time 200 cells are told apart: where a pair takes 5 s, not in 25 minutes."""
    quick, limit_s = selftest.resampled(pool(0.012), 8)
    assert limit_s == QUIET_S and not selftest.promise_broken(quick)
    slow, limit_s = selftest.resampled(pool(0.012, seconds=5.0), 8)
    assert limit_s > QUIET_S and not selftest.promise_broken(slow)
    never, limit_s = selftest.resampled(pool(0.012, seconds=60.0), 4)
    assert limit_s == selftest.LIMITS_S[-1] and selftest.promise_broken(never)


@pytest.mark.parametrize(("deviation", "heavy", "bias"), [(0.035, False, 0.0), (0.02, True, 0.0), (0.012, False, 0.005)])
def test_a_noisy_or_slightly_biased_machine_is_not_red(deviation: float, heavy: bool, bias: float) -> None:
    assert resample(pool(deviation, heavy=heavy, bias=bias), 8, budget_s=LONGER_S).red == 0


def test_a_machine_on_which_nothing_can_be_told_says_so() -> None:
    """Pairs that spread by a third."""
    tally = resample(pool(0.3), 2, budget_s=LONGER_S, cells=20)
    assert tally.red == 0 and tally.could_not_tell == tally.suites == 2


def test_a_broken_schedule_is_noticed() -> None:
    """One side is favoured by 4 %: what would be red everywhere is distrusted instead."""
    tally = resample(pool(0.01, bias=0.04), 3, budget_s=QUIET_S, cells=40)
    assert tally.distrusted == tally.suites and tally.red == 0


def test_a_budget_is_kept_and_what_was_given_up_is_named() -> None:
    pairs = Resampled(pool(0.01), 40, {"cell 3": 0.1}, random.Random(0))
    outcome = schedule.run(pairs.names, pairs, chance=random.Random(0), until=60 * SECONDS)
    assert pairs.clock() <= 60 * SECONDS
    assert outcome.given_up and set(outcome.given_up) < set(pairs.names)
    judged = regression.judge(outcome.evidence, outcome.spread, CONTROLS, outcome.given_up)
    untimed = [name for name in outcome.given_up if not outcome.evidence[name].screen]
    assert untimed and {judged[name].verdict for name in untimed} == {INCONCLUSIVE}
    assert REGRESSED not in {judged[name].verdict for name in outcome.given_up}
    assert all(len(outcome.evidence[name].confirm) >= regression.HURRIED for name in CONTROLS)


def test_what_seems_to_be_slower_is_confirmed_and_not_looked_at_again() -> None:
    """The budget pays for two pairs of each cell, for the controls and to confirm one in a hurry; not for a third look."""
    pairs = Resampled(pool(0.004), 6, {"cell 3": 0.1}, random.Random(0))
    until = SECONDS * (6 * 2 + 3 * 4 + 4.5)
    outcome = schedule.run(pairs.names, pairs, chance=random.Random(0), until=until)
    assert (len(outcome.evidence["cell 3"].screen), outcome.given_up) == (2, [])
    assert regression.judge(outcome.evidence, outcome.spread, CONTROLS)["cell 3"].verdict == REGRESSED


def test_four_slower_cells_are_not_looked_at_until_no_time_is_left_to_confirm_one() -> None:
    """As with a layer of ResNet-20 (2026-11-28): four of six cells slower, whose pairs of 5 s spread by 2 %, and 260 s.

    Screening looked eight times, the control then got all that was left, and nothing was confirmed.
    """
    found = 0
    for seed in range(20):
        slowed = {f"cell {number}": effect for number, effect in enumerate((0.07, 0.04, 0.05, 0.075), 1)}
        pairs = Resampled(pool(0.02, seconds=5.0), 6, slowed, random.Random(seed))
        outcome = schedule.run(pairs.names, pairs, chance=random.Random(seed), until=260.0)
        judged = regression.judge(outcome.evidence, outcome.spread, CONTROLS, outcome.given_up)
        found += any(judged[name].verdict == REGRESSED for name in slowed)
    assert found >= 16  # 11 before


def test_the_longest_cells_are_given_up_first() -> None:
    short = pool(0.01)
    short.seconds["kind 7"] = 30.0
    pairs = Resampled(short, 20, {}, random.Random(0))
    outcome = schedule.run(pairs.names, pairs, chance=random.Random(0), until=135.0)
    assert outcome.given_up == ["cell 17"]  # of that kind


def test_controls_have_their_pairs_where_cells_take_longer_than_was_guessed() -> None:
    """Each pair takes three times as long as it seemed before the first one: cells are given up, and the controls are not."""

    class Slower(Resampled):
        def take(self, name: str, stage: str) -> float:
            self._pool.seconds.update(dict.fromkeys(self._pool.seconds, 3 * SECONDS))
            return super().take(name, stage)

    pairs = Slower(pool(0.005), 20, {}, random.Random(0))
    until = SECONDS * (2 * 20 + 3 * 6 + 30)  # what seems to be enough
    outcome = schedule.run(pairs.names, pairs, chance=random.Random(0), until=until)
    assert all(len(outcome.evidence[name].confirm) >= regression.HURRIED for name in CONTROLS)
    assert outcome.given_up and pairs.clock() <= until


def test_a_gate_that_was_interrupted_goes_on_where_it_was() -> None:
    """Pairs that are there are not taken again."""
    pairs = Resampled(pool(0.005), 10, {}, random.Random(0))
    earlier = {name: Evidence(screen=[0.001, -0.001, 0.0]) for name in pairs.names}
    schedule.run(pairs.names, pairs, chance=random.Random(0), evidence=earlier)
    assert pairs.clock() == pytest.approx(SECONDS * sum(len(earlier[name].confirm) for name in CONTROLS))


def test_a_cell_that_dies_is_left_alone() -> None:
    class Dying(Resampled):
        def take(self, name: str, stage: str) -> float | None:  # type: ignore[override]
            return None if name == "cell 2" else super().take(name, stage)

    pairs = Dying(pool(0.01), 5, {}, random.Random(0))
    outcome = schedule.run(pairs.names, pairs, chance=random.Random(0))
    assert outcome.evidence["cell 2"] == Evidence() and len(outcome.evidence["cell 1"].screen) >= 2


def test_what_is_said_to_be_left_comes_to_nothing() -> None:
    pairs = Resampled(pool(0.01), 10, {}, random.Random(0))
    told: list[float] = []
    schedule.run(pairs.names, pairs, chance=random.Random(0), say=lambda text, left: told.append(left))
    assert told[0] == pytest.approx(pairs.clock(), rel=0.2)
    assert told[-1] == pytest.approx(SECONDS)


@pytest.mark.parametrize("until", [math.inf, 250.0])
@pytest.mark.parametrize("deviation", [0.005, 0.01])
def test_the_time_planned_is_kept_where_pairs_spread_as_before(deviation: float, until: float) -> None:
    planned, taken = _planned(deviation, until)
    usual = median(planned)
    assert sum(0.85 * usual <= seconds <= 1.15 * usual for seconds in taken) >= 18, (usual, sorted(taken))


def test_where_noise_makes_suspects_a_range_is_planned() -> None:
    planned, taken = _planned(0.03, math.inf)
    assert sum(0.95 * planned[0] <= seconds <= 1.05 * planned[-1] for seconds in taken) >= 18, (planned, sorted(taken))
    assert median(planned) > 1.5 * median(_planned(0.005, math.inf)[0])


def _planned(deviation: float, until: float) -> tuple[list[float], list[float]]:
    """Seconds that are planned for a suite of 20 cells, and those that 20 suites take, in which pairs spread as was supposed."""
    suites = [Resampled(pool(deviation), 20, {}, random.Random(seed)) for seed in range(20)]
    planned = schedule.planned(suites[0].names, suites[0], regression.Spread(deviation**2, 16.0), until)
    for seed, pairs in enumerate(suites):
        schedule.run(pairs.names, pairs, chance=random.Random(seed), until=until)
    return planned, [pairs.clock() for pairs in suites]


def test_a_tally_counts_what_it_says() -> None:
    """A suite in which a slowed cell and another one are called regressed: one found, and a false alarm."""
    slow, fine = [0.1, 0.101, 0.099] * 4, [0.0, 0.001, -0.001] * 4
    evidence = {name: Evidence(confirm=list(slow)) for name in ("slowed", "wrong", SLOWER)}
    evidence |= {name: Evidence(confirm=list(fine)) for name in ("fine", *SAME)}
    tally = selftest.Tally()
    tally.add(schedule.Outcome(evidence, regression.Spread(0.0, 0.0), []), {"slowed": 0.1}, 60.0)
    assert (tally.suites, tally.red, tally.distrusted, tally.found, tally.slowed) == (1, 1, 0, {0.1: 1}, {0.1: 1})
    assert {"1 of 1"} == {row[2] for row in selftest.table({"live": tally})[:2]}
    assert regression.judge(evidence, regression.Spread(0.0, 0.0))["wrong"].verdict == REGRESSED
