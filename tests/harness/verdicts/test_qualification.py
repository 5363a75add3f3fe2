"""What must hold before a cell is timed: one list, and nobody gets past it."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.harness.facts import Promise
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.verdicts.qualification import claims, qualify
from tests.fake import AGREEMENT, WRONG, FakeConnection
from tests.records import accuracy_of, cell_of, counts_of, prepared_of, replace

SMALLER = Promise(100, 60, 50, 60, 1000, 600, 500, 400, 240, None)


@pytest.mark.parametrize(
    ("told", "fails"),
    [
        ({}, []),
        (
            {"counts": replace(counts_of(), formula={"parameters": 1, "macs": 1})},
            ["the formula gives what torch's counter finds"],
        ),
        (
            {"counts": replace(counts_of(), ptflops={"parameters": 100, "macs": 1001})},
            ["two counters that know nothing of each other agree"],
        ),
        ({"prepared": prepared_of(parameters=99)}, ["the object has the parameters that were counted"]),
        ({"prepared": prepared_of(SMALLER, parameters=60)}, []),
        ({"prepared": prepared_of(SMALLER, parameters=61)}, ["the object has the parameters that were counted"]),
        (
            {"prepared": prepared_of(replace(SMALLER, macs_dense=999), parameters=60)},
            ["the compressed net is what its dense parent allows"],
        ),
        ({"agreement": WRONG}, ["the outputs are those of the float64 reference"]),
        ({"agreement": replace(AGREEMENT, repeat_error=1.0)}, ["two calls on one input give the same"]),
        (
            {"accuracy": accuracy_of(0.5, top5=0.9, top5_interval=(0.8, 0.9), floor=0.9, budget=0.0)},
            ["the accuracy reaches its floor"],
        ),
        (
            {"accuracy": accuracy_of(0.5, budget=0.01, loss=0.2, loss_at_least=0.1)},
            ["the accuracy keeps to that of the fp32 parent"],
        ),
    ],
)
def test_each_claim_fails_for_its_own_reason(told: dict[str, Any], fails: list[str]) -> None:
    found = list(claims(CellProbe(FakeConnection(**told), cell_of(), Settings())))
    assert [claim.text for claim in found if not claim.holds] == fails
    assert all(claim.found for claim in found)
    probe = CellProbe(FakeConnection(**told), cell_of(), Settings())
    if not fails:
        qualify(probe)
        return
    with pytest.raises(CellEnded, match=f"not so: {fails[0]}") as caught:
        qualify(probe)
    assert caught.value.outcome == "failed"


@pytest.mark.parametrize("question", ["latency", "turn", "layers"])
def test_what_nobody_has_checked_is_checked_by_the_probe_before_it_is_timed(
    server: Connection, settings: Settings, question: str
) -> None:
    """Swapped classes: the first question is for a time, and the answer is none."""
    probe = CellProbe(server, cell_of("tests.faulty:SWAPPED"), replace(settings, layers=True))
    with pytest.raises(CellEnded, match="RMS error") as caught:
        getattr(probe, question)(*([5] if question == "turn" else []))
    assert caught.value.outcome == "failed"
    assert question not in probe.facts


def test_a_race_times_no_wrong_contender(server: Connection, settings: Settings) -> None:
    good, wrong = cell_of("tests.faulty:GOOD"), cell_of("tests.faulty:SWAPPED")
    found = CellProbe(server, good, settings).race([wrong, good])
    assert [bool(one.turns_s) for one in found] == [True, False, True]
    assert found[1].reason is not None and "RMS error" in found[1].reason


def test_a_resident_process_answers_turns(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, cell_of("tests.faulty:GOOD"), settings)
    assert min(probe.turn(5) for _ in range(3)) > 0
    assert probe.latency().model.median_s > 0
    probe.close()
