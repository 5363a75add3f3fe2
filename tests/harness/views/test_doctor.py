"""What the doctor prints."""

from __future__ import annotations

from plumbline.harness.examination import BETTER, UNFIT, Check, Circumstance, Examination
from plumbline.harness.views.doctor import summary, text
from tests.records import record_of

RIGHT = Check("timer", "a sleep of 20 ms", "s", 0.05, 0.02, 0.0201)
WRONG = Check("memory", "an allocation of 10 MB", "byte", 0.05, 1e7, 1.2e7)
MISSING = Check("memory", "an allocation of 2.0 GB", "byte", 0.05, unavailable="too little is free")
TURBO = Circumstance("turbo", "on", BETTER, "turn it off")


def test_each_instrument_stands_beside_its_truth() -> None:
    shown = text(record_of().machine, Examination([RIGHT, WRONG, MISSING], [TURBO], 31.0))
    rows = {line.split()[0]: line for line in shown.splitlines() if line}
    assert rows["timer"].split() == ["timer", "a", "sleep", "of", "20", "ms", "20", "ms", "20.1", "ms", "+0.50%", "5.0%", "fit"]
    assert "+20.00%" in shown and "not fit" in shown
    assert "- memory, an allocation of 2.0 GB: too little is free" in shown
    assert shown.endswith("not fit to measure (31 s): memory: an allocation of 10 MB")


def test_a_fit_machine_is_told_what_could_be_better() -> None:
    assert summary(Examination([RIGHT], [TURBO], 31.0)) == "fit to measure (31 s); could be better: turbo"
    assert summary(Examination([RIGHT], [], 31.0)) == "fit to measure (31 s)"
    vague = Check("timing in turns", "a slowdown by 2%", "1", 0.005, 1.02, 1.02, (0.918, 1.224))
    assert summary(Examination([vague], [], 31.0)) == "fit to measure (31 s); could be better: timing in turns"
    shown = text(record_of().machine, Examination([vague], [TURBO], 31.0))
    assert "+0.00% (-10.00% to +20.00%)" in shown
    assert "- timing in turns, a slowdown by 2%: the machine is too noisy to tell" in shown
    assert "not fit" in summary(Examination([RIGHT], [Circumstance("quiet", "busy", UNFIT)], 31.0))
