"""The benchmark: first whether it is the right model, and only then how fast it is."""

from __future__ import annotations

from collections.abc import Callable

from plumbline.harness.session.client import CellProbe
from plumbline.harness.verdicts import audit, bound, qualification


def test_counts(counter: CellProbe) -> None:
    """What is too large to be timed in this tier is counted all the same."""
    for claim in qualification.counted(counter.counts()):
        assert claim.holds, claim.found


def test_cell(probe: CellProbe, budget: Callable[[CellProbe], None]) -> None:
    """Counts, size, outputs and accuracy first (harness/verdicts/qualification.py); the probe times nothing that fails.

    No figure may be below what the cell's own work takes (harness/roofline.py). With `--budget`, its limits come last.
    """
    for claim in qualification.claims(probe):
        assert claim.holds, claim.found

    latency = probe.latency()
    probe.memory()
    probe.layers()
    for claim in audit.claims(probe.audit()):
        assert claim.holds, claim.found
    claim = bound.possible(latency, probe.bound())
    assert claim.holds, claim.found

    probe.delivery()
    budget(probe)
