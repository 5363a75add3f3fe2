"""The benchmark: is it the right model, and only then, how fast is it?"""

from __future__ import annotations

from plumbline.harness.facts import Counts
from plumbline.harness.session.client import Probe


def test_counts(counter: Probe) -> None:
    """What is too large to be timed in this tier is counted all the same."""
    counts_agree(counter.counts())


def test_cell(probe: Probe) -> None:
    counts = probe.counts()
    counts_agree(counts)
    promise = probe.promise()
    if promise is None:
        assert probe.prepared().parameters == counts.parameters
    else:
        assert probe.prepared().parameters == promise.parameters_stored
        assert promise.keeps_to(counts), promise.explanation

    agreement = probe.agreement()
    assert agreement.repeatable, agreement.explanation
    assert agreement.same_function, agreement.explanation

    accuracy = probe.accuracy()
    assert accuracy.reaches_floor, accuracy.explanation
    assert accuracy.keeps_to_parent, accuracy.explanation

    probe.latency()
    probe.memory()
    probe.layers()
    probe.delivery()


def counts_agree(counts: Counts) -> None:
    assert counts.formula_holds, counts.explanation
    assert counts.counters_agree, counts.explanation
    assert counts.as_published, counts.explanation
