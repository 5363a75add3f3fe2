"""A gate on stored sessions: its error rates by simulation, its constants, and what it declines to say."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest

from plumbline.harness.verdicts import baseline
from plumbline.harness.verdicts.baseline import LEAST, Kept, Level, Session, factor, judge, level, suspicious, undecided
from plumbline.harness.verdicts.regression import (
    EFFECT,
    IMPROVED,
    INCOMPARABLE,
    INCONCLUSIVE,
    NEW,
    REGRESSED,
    WITHIN_NOISE,
)

KEY: dict[str, dict[str, Any]] = {"machine": {"cpu_model": "X"}, "settings": {"sampling_s": 1.0}}
CANARY = "canary"


def session(number: int = 0, key: dict[str, dict[str, Any]] | None = None, **medians_s: float) -> Session:
    cells = {name: Kept(median_s, f"2026-01-{number + 1:02}", "r") for name, median_s in medians_s.items()}
    return Session(str(number), key or KEY, cells)


def stored(sessions: int = 12, deviation: float = 0.005, seed: int = 0, shared: float = 0.0) -> list[Session]:
    """Sessions of a cell of a millisecond and a canary; `shared` is by how much whole sessions spread."""
    chance = numpy.random.default_rng(seed)
    found = []
    for number in range(sessions):
        machine = chance.normal(0, shared)
        cell, canary = (1e-3 * math.exp(machine + chance.normal(0, deviation / math.sqrt(2))) for _ in range(2))
        found.append(session(number, cell=cell, canary=canary))
    return found


@pytest.mark.parametrize(("sessions", "confirming", "expected"), [(10, 3, 4.4), (20, 3, 3.5), (20, 5, 2.8)])
def test_the_smallest_effect_has_the_factor_that_was_worked_out_before(sessions: int, confirming: int, expected: float) -> None:
    """By simulation, for suites of which 20 cells are confirmed."""
    assert factor(sessions, 20, confirming) == pytest.approx(expected, abs=0.05)


def test_error_rates() -> None:
    """Of 1,500 suites of 20 cells without a slowdown 1 % at most are red; one of 5 % in a suite, of 6 % spread, is found."""
    chance, red, found = numpy.random.default_rng(0), 0, 0
    suites, cells, deviation = 1500, 20, 0.006
    for suite in range(suites):
        slowed = suite % 5 == 0
        logs = chance.normal(0, deviation, (cells, LEAST + 4))
        logs[0, LEAST:] += EFFECT if slowed else 0
        known = {str(n): Level(float(row.mean()), float(row.std(ddof=1)), LEAST) for n, row in enumerate(logs[:, :LEAST])}
        first = {name: float(logs[int(name), LEAST]) for name in known}
        fresh = {name: logs[int(name), LEAST + 1 :].tolist() for name in known if suspicious(known[name], first[name])}
        regressed = [name for name, judged in judge(known, first, fresh).items() if judged.verdict == REGRESSED]
        red += any(name != "0" or not slowed for name in regressed)
        found += slowed and "0" in regressed
    assert red <= 0.016 * suites, "1 %, and what chance may add"
    assert found >= 0.95 * suites / 5


def test_the_prediction_is_calibrated() -> None:
    """Of 4,000 new sessions of the same code a fifth is suspect at p < 0.2, with ten stored sessions as with any number."""
    logs = numpy.random.default_rng(3).normal(0, 0.01, (4000, LEAST + 1))
    levels = [Level(float(row.mean()), float(row.std(ddof=1)), LEAST) for row in logs[:, :LEAST]]
    suspects = sum(known.above([float(log)]).p(0.0) < baseline.SUSPECT for known, log in zip(levels, logs[:, LEAST], strict=True))
    assert suspects / 4000 == pytest.approx(0.2, abs=0.015)
    assert Level(0.0, 0.01, 10).above([0.02, 0.03]).error == pytest.approx(0.01 * math.sqrt(1 / 2 + 1 / 10))


def test_a_suspect_is_convicted_by_fresh_sessions_only() -> None:
    known, first = {"a": Level(0.0, 0.005, 12)}, {"a": 0.2}
    assert judge(known, first, {})["a"].verdict == INCONCLUSIVE
    assert judge(known, first, {"a": [0.2, 0.2]})["a"].reason == "it was not confirmed"
    assert judge(known, first, {"a": [0.0, 0.001, -0.001]})["a"].verdict == WITHIN_NOISE
    assert judge(known, first, {"a": [0.06, 0.05, 0.05]})["a"].verdict == REGRESSED


def test_verdicts_of_one_session() -> None:
    known = {"a": Level(0.0, 0.005, 12)}
    assert not suspicious(known["a"], 0.0)
    for log, verdict in ((0.0, WITHIN_NOISE), (-0.1, IMPROVED)):
        judged = judge(known, {"a": log}, {})["a"]
        assert judged.verdict == verdict and judged.effect == pytest.approx(math.expm1(log))


def test_the_quotient_cancels_what_slows_the_machine() -> None:
    """Sessions that are 20 % apart as a whole: without a canary nothing can be told, with it half a percent is."""
    many = stored(shared=0.2)
    fresh = session(99, cell=2e-3, canary=2e-3)
    assert undecided(many, fresh, "cell", CANARY) is None
    declined = undecided(many, fresh, "cell", None)
    assert declined is not None and declined.verdict == INCONCLUSIVE and declined.reason == "compare two revisions instead"
    assert declined.detectable is not None and declined.detectable > EFFECT


def test_a_canary_that_changes_is_told_of() -> None:
    """As everything that is divided by it would hide the change."""
    many = stored()
    for slower, changed in ((1.0, False), (1.1, True), (0.9, True)):
        found = baseline.canary_judgement(many, [session(99, cell=1e-3, canary=slower * 1e-3)], CANARY)
        assert found is not None and found[1] == changed


def test_too_few_sessions_are_none() -> None:
    declined = undecided(stored(LEAST - 1), session(99, cell=1e-3, canary=1e-3), "cell", CANARY)
    assert declined is not None and declined.verdict == INCONCLUSIVE and "9 sessions stored" in declined.reason


@pytest.mark.parametrize(
    ("kind", "changed"), [("machine", {"cpu_model": "Y"}), ("settings", {"sampling_s": 2.0}), ("torch", {"torch": "2.15"})]
)
def test_another_key_is_incomparable(kind: str, changed: dict[str, Any]) -> None:
    fresh = session(99, {**KEY, kind: changed}, cell=1e-3, canary=1e-3)
    judged = undecided(stored(), fresh, "cell", CANARY)
    assert judged is not None and judged.verdict == INCOMPARABLE and judged.reason.startswith(f"{kind}: ")


def test_a_cell_that_was_never_stored_is_new_where_others_are() -> None:
    fresh = session(99, cell=1e-3, canary=1e-3, other=1e-3)
    for sessions, verdict in ((LEAST, NEW), (LEAST - 1, INCONCLUSIVE), (0, INCONCLUSIVE)):
        judged = undecided(stored(sessions), fresh, "other", CANARY)
        assert judged is not None and judged.verdict == verdict


def test_the_usual_canary_is_the_cell_of_most_sessions() -> None:
    many = [*stored(3), session(4, zebra=1.0, cell=1.0), session(5, zebra=1.0, cell=1.0)]
    assert baseline.usual_canary(many, session(99, zebra=1.0, cell=1.0, canary=1.0)) == "cell"
    assert baseline.usual_canary([], session(99, b=1.0, a=1.0)) == "a"


def test_a_level_is_that_of_sessions_that_have_both() -> None:
    many = [*stored(LEAST), session(50, cell=5.0)]
    known = level(many, "cell", CANARY)
    assert known is not None and known.sessions == LEAST
