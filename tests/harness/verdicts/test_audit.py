"""What a latency must not depend on."""

from __future__ import annotations

from plumbline.harness.facts import Audit
from plumbline.harness.verdicts.audit import claims

Ratio = tuple[float, tuple[float, float] | None]


def broken(rotating: Ratio = (1.0, (0.98, 1.02)), consumed: Ratio = (1.0, (0.98, 1.02)), change: float = 0.0) -> list[str]:
    audit = Audit({"rotating": rotating, "consumed": consumed, "zeros": (0.2, None), "denormals": (40.0, None)}, 20, change, 1e-6)
    return [claim.text.partition(" ")[0] for claim in claims(audit) if not claim.holds]


def test_what_makes_no_difference_is_fine() -> None:
    assert broken() == []
    assert list(claims(None)) == []


def test_what_cannot_be_audited_is_not_red() -> None:
    """A board with an agent, say: its latency is there all the same."""
    assert list(claims(Audit(unavailable="an agent times itself on its board"))) == []


def test_a_runtime_that_remembers_its_input_is_red() -> None:
    assert broken(rotating=(5.0, (4.8, 5.3))) == ["pictures"]


def test_a_runtime_that_works_when_its_outputs_are_used_is_red() -> None:
    assert broken(consumed=(1.3, (1.2, 1.4))) == ["outputs"]


def test_an_interval_that_is_wide_shows_nothing() -> None:
    assert broken(rotating=(1.3, (1.05, 1.6))) == []


def test_outputs_that_have_changed_meanwhile_are_red() -> None:
    assert broken(change=1e-5) == ["the"]
