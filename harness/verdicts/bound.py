"""Whether a latency is possible at all: none is shorter than what its own multiplications and weights take on its device."""

from __future__ import annotations

from plumbline.harness.facts import Bound, Latency
from plumbline.harness.verdicts.qualification import Claim


def possible(latency: Latency, bound: Bound) -> Claim:
    """Claim that nothing that was timed is below the bound; `found` says so, too, where there is none."""
    return Claim("no inference takes less than its own work does", bound.allows(latency), bound.explained(latency))
