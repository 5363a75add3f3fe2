"""What others took of the processor while something was timed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from plumbline.harness.probe import disturbance
from plumbline.harness.probe.disturbance import Disturbance


def test_doubt_counts_the_time_that_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known truth: in four seconds somebody waited for three of them, and half of one was stolen."""
    monkeypatch.setattr(disturbance, "_pressure_s", iter([100.0, 103.0]).__next__)
    monkeypatch.setattr(disturbance, "_steal_s", iter([7.0, 7.5]).__next__)
    found = Disturbance(iter([10.0, 14.0]).__next__).read()
    assert [found[quantity].value for quantity in ("seconds", "cpu_pressure", "cpu_steal")] == [4.0, 0.75, 0.125]
    assert {reading.scope for reading in found.values()} == {"process", "machine"}


def test_disturbance_that_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_pressure_s", lambda: None)
    monkeypatch.setattr(disturbance, "_steal_s", lambda: None)
    monkeypatch.setattr(disturbance, "resource", None)
    found = Disturbance(iter([10.0, 14.0]).__next__).read()
    assert [quantity for quantity, reading in found.items() if reading.value is None] == [
        "involuntary_switches", "cpu_pressure", "cpu_steal",
    ]  # fmt: skip
    assert found["cpu_pressure"].unavailable == "this kernel has no /proc/pressure/cpu"


def test_switches_are_those_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([100, 142])
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_nivcsw=next(counts)))
    monkeypatch.setattr(disturbance, "resource", usage)
    assert Disturbance().read()["involuntary_switches"].value == 42
