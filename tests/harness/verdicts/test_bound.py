"""A latency below its bound is red; a missing bound is said, and is no pass of anything."""

from __future__ import annotations

import pytest

from plumbline.harness.facts import Bound, OnDevice, Work
from plumbline.harness.verdicts.bound import possible
from tests.records import latency_of, replace, timing_of

BOUND = Bound(seconds=1e-3, compute_s=1e-3, work=Work("fp32", 1, 1.0, 1), device="d")


def test_what_is_above_its_bound_is_possible() -> None:
    claim = possible(latency_of(2e-3, samples=3), BOUND)
    assert claim.holds
    assert claim.found == "the fastest inference took 0.002 s, 2 times the bound of 0.001 s on d"


def test_one_sample_below_it_is_enough() -> None:
    slow = latency_of(2e-3, samples=3)
    claim = possible(replace(slow, model=replace(slow.model, samples_s=[2e-3, 1e-6, 2e-3])), BOUND)
    assert not claim.holds
    assert "let synchronize wait for the device" in claim.found


def test_each_figure_is_held_to_it() -> None:
    fine = latency_of(2e-3, samples=3)
    device = OnDevice(timing_of(2e-3, 3), [2e-3], 10, 500.0)
    assert possible(replace(fine, on_device=device), BOUND).holds
    for wrong, says in (
        (replace(fine, with_transfer=timing_of(1e-4, 3)), "with transfer"),
        (replace(fine, on_device=replace(device, events=timing_of(1e-4, 3))), "by the device's clock"),
        (replace(fine, on_device=replace(device, pipelined_s=[2e-3, 1e-4])), "in the fastest pipelined round"),
    ):
        claim = possible(wrong, BOUND)
        assert not claim.holds
        assert says in claim.found


@pytest.mark.parametrize("reason", ["no peaks of 'x' (cuda) are known"])
def test_no_bound_is_no_word_against_it_and_says_why(reason: str) -> None:
    claim = possible(latency_of(1e-9, samples=3), Bound(missing=[reason]))
    assert claim.holds
    assert claim.found == f"no bound: {reason}"


def test_what_multiplies_nothing_has_no_bound() -> None:
    claim = possible(latency_of(1e-5, samples=3), replace(BOUND, seconds=0.0, compute_s=0.0))
    assert claim.holds and claim.found.endswith("it multiplies nothing, and has no bound")
