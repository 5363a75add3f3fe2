"""Whether a latency depends on what it should not: a runtime that caches, one that works when its outputs are looked at."""

from __future__ import annotations

from collections.abc import Iterator

from plumbline.harness.facts import Audit
from plumbline.harness.verdicts.qualification import Claim

WITHIN = 0.1  # of the usual time
# Others may take longer for a reason: denormal numbers are slow on many processors, and zeros may be left out.
CLAIMED = {
    "rotating": "pictures that it has not seen take as long as the same ones again",
    "consumed": "outputs that are used take as long as those that are dropped",
}


def claims(audit: Audit | None) -> Iterator[Claim]:
    """Claim what a latency must not depend on; nothing where no audit was asked for, or none can be.

    An interval that lies beyond the limit as a whole shows that it does; a wide one shows nothing.
    """
    if audit is None or audit.unavailable is not None:
        return
    for name, text in CLAIMED.items():
        ratio, interval = audit.ratios[name]
        between = "" if interval is None else f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})"
        found = f"{text}: expected 1 within {WITHIN:.0%}, got {ratio:.2f} times{between}, in {audit.rounds} rounds"
        yield Claim(text, (ratio if interval is None else interval[0]) <= 1 + WITHIN, found)
    text = "the outputs are the same when the object qualifies and after all that was timed"
    found = f"not so: {text}: they differ by {audit.change:.2g} of their spread (tolerance {audit.tolerance:.2g})"
    yield Claim(text, audit.change <= audit.tolerance, found)
