"""The benchmark: is it the right model, and only then, how fast is it?"""

from __future__ import annotations

from harness.ask import Probe


def test_cell(probe: Probe) -> None:
    counts = probe.counts()
    assert counts.formula == counts.flop_counter
    assert counts.measured_parameters == counts.parameters
    assert counts.explains_ptflops, counts.unexplained

    agreement = probe.agreement()
    assert agreement.repeatable, agreement
    assert agreement.same_function, agreement

    accuracy = probe.accuracy()
    assert accuracy.reaches_floor, accuracy
    assert accuracy.keeps_to_parent, accuracy

    probe.latency()
    probe.memory()
