"""The benchmark: is it the right model, and only then, how fast is it?"""

from __future__ import annotations

from harness.ask import Probe


def test_cell(probe: Probe) -> None:
    counts = probe.counts()
    assert counts.formula == counts.flop_counter
    assert counts.measured_parameters == counts.parameters
    assert counts.explains_ptflops, counts.explanation

    agreement = probe.agreement()
    assert agreement.repeatable, agreement.explanation
    assert agreement.same_function, agreement.explanation

    accuracy = probe.accuracy()
    assert accuracy.reaches_floor, accuracy.explanation
    assert accuracy.keeps_to_parent, accuracy.explanation

    probe.latency()
    probe.memory()
