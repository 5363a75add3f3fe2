"""The benchmark: first whether it is the right model, and only then how fast it is."""

from __future__ import annotations

from plumbline.harness.session.client import CellProbe
from plumbline.harness.verdicts import qualification


def test_counts(counter: CellProbe) -> None:
    """What is too large to be timed in this tier is counted all the same."""
    for claim in qualification.counted(counter.counts()):
        assert claim.holds, claim.found


def test_cell(probe: CellProbe) -> None:
    """Counts, size, outputs and accuracy first (harness/verdicts/qualification.py); the probe times nothing that fails."""
    for claim in qualification.claims(probe):
        assert claim.holds, claim.found

    probe.latency()
    probe.memory()
    probe.layers()
    probe.delivery()
