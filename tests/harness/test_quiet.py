"""Whether a measurement was disturbed."""

from __future__ import annotations

import pytest

from plumbline.harness import quiet
from plumbline.harness.readings import Readings, read


def readings(**values: float | None) -> Readings:
    return {name: read("1", "machine", value) for name, value in values.items()}


@pytest.mark.parametrize("name", quiet.LIMITS)
def test_what_is_at_its_limit_is_quiet_and_above_it_not(name: str) -> None:
    most = quiet.LIMITS[name].most
    assert quiet.reasons(readings(**{name: most})) == []
    assert len(quiet.reasons(readings(**{name: most + 0.01}))) == 1


def test_the_worst_comes_first() -> None:
    found = quiet.reasons(readings(waited=0.06, others=0.6, cpu_steal=0.0))
    assert found == [
        "other processes had 60.0% of its processors",
        "its threads together waited for a processor for 6.0% of the time",
    ]


def test_what_cannot_be_read_says_nothing() -> None:
    assert quiet.reasons(readings(waited=None, others=None)) == []
    assert quiet.severity(readings(waited=None)) == 0.0


def test_of_two_the_one_with_the_smaller_excess_is_the_quieter() -> None:
    assert quiet.severity(readings(waited=0.06, others=0.01)) < quiet.severity(readings(waited=0.01, others=0.2))
