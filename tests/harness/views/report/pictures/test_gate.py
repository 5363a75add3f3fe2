"""What a gate found, drawn as a forest plot."""

from __future__ import annotations

import math

import pytest

from plumbline.harness.studies.gate import Report, Row
from plumbline.harness.verdicts.regression import EFFECT, MARGIN, VERDICTS, Judgement
from tests.harness.views.report.pictures.drawings import check, data_of, drawn, evidence_of, links
from tests.records import record_of
from tests.records import replace as replaced

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from plumbline.harness.views.report.pictures import gate


def row(name: str, verdict: str = "within noise", effect: float | None = 0.0, half: float = 0.02, reason: str = "") -> Row:
    interval = None if effect is None else (effect - half, effect + half)
    return Row(
        name, Judgement(verdict, reason, effect, interval, 0.1, 8, 0.05), 1e-3, None if effect is None else 1e-3 * (1 + effect)
    )


def report(*rows: Row, controls: list[Row] | None = None, **more: object) -> Report:
    usual = {"skipped": {}, "distrust": [], "seconds": 60.0, "planned_s": 60.0}
    shown = [row("same code 1: a")] if controls is None else controls
    return Report("base (1)", "head (2)", "a machine", list(rows), shown, **{**usual, **more})  # type: ignore[arg-type]


def test_effects_intervals_and_verdicts_are_the_reports() -> None:
    rows = [
        row("slow", "regressed", 0.2),
        row("mlp-dense-eager-fp32-b1-8px-cpu"),
        row("gone", "missing", None, reason="the head has no such cell"),
    ]
    controls = [row("same code 1: a", effect=0.001), row("slowed by 5 %: b", "regressed", 0.05)]
    evidence = evidence_of(record_of(), gates=[report(*rows, controls=controls, skipped={"x": "no GPU"}, distrust=["a reason"])])
    (picture,) = gate.pictures(evidence)
    check(picture)
    found = data_of(picture, "gate_1_cells")
    for shown, judged in zip(found, rows):
        assert (shown["verdict"], shown["effect"]) == (judged.judgement.verdict, judged.judgement.effect)
        assert (shown["low"], shown["high"]) == judged.judgement.interval
    assert [one["name"] for one in found] == ["slow", "mlp-dense-eager-fp32-b1-8px-cpu"]
    assert [one["name"] for one in data_of(picture, "gate_1_controls")] == ["same code 1: a", "slowed by 5 %: b"]
    (band,) = data_of(picture, "gate_1_cells_band")
    assert (band["from"], band["to"]) == (pytest.approx(1 / 1.01), pytest.approx(1.01))
    assert math.exp(EFFECT) in [line["times"] for line in data_of(picture, "gate_1_cells_lines")]
    assert picture.title == "Is head (2) slower than base (1)?"
    for words in (
        "Could not tell: 1 regressed",
        "Not to be trusted: a reason",
        "missing: the head has no such cell (1)",
        "no GPU (1)",
        "a machine",
    ):
        assert words in picture.caption, picture.caption
    assert links(drawn(picture, evidence)) == {"#c0"}, "of the cell that has a record here"


def test_many_cells_within_noise_are_counted() -> None:
    rows = [row(f"cell{number}", half=0.001 * (number + 1)) for number in range(100)]
    changed = replaced(row("smaller"), changes=["weights -50 %"])
    (picture,) = gate.pictures(evidence_of(gates=[report(row("slow", "regressed", 0.2), *rows, changed)]))
    names = [one["name"] for one in data_of(picture, "gate_1_cells")]
    assert names == ["slow", *(f"cell{number}" for number in range(70, 100)), "smaller"], "those that are known least are shown"
    assert "70 more cells within noise left out" in picture.caption


def test_a_wide_interval_does_not_squeeze_the_others() -> None:
    rows = [
        row("slow", "regressed", 0.1),
        replaced(row("wild"), judgement=Judgement("inconclusive", "", 0.02, (-0.95, 20.0), 0.5, 2)),
    ]
    (picture,) = gate.pictures(evidence_of(gates=[report(*rows)]))
    low, high = gate.reach(data_of(picture, "gate_1_cells"))
    assert 0.7 < low < high < 1.4, "three times the largest effect, and not twenty"
    assert f"'domain': [{low}, {high}]" in str(picture.specification)
    assert [one["high"] for one in data_of(picture, "gate_1_cells")][1] == 20.0, "the data keep what was found"


def test_an_interval_that_knows_nothing() -> None:
    wild = replaced(row("wild"), judgement=Judgement("inconclusive", "", 0.02, (-1.0, 1e300), 0.5, 2))
    evidence = evidence_of(gates=[report(row("a"), wild)])
    (picture,) = gate.pictures(evidence)
    assert "NaN" not in drawn(picture, evidence)


def test_each_verdict_has_a_colour_and_a_shape_of_its_own() -> None:
    assert set(gate.STYLES) == set(VERDICTS)
    assert len(set(gate.STYLES.values())) == len(VERDICTS)
    assert MARGIN < EFFECT


def test_nothing_is_drawn_where_nothing_was_timed() -> None:
    assert gate.pictures(evidence_of()) == []
    assert gate.pictures(evidence_of(gates=[report(row("gone", "missing", None), controls=[])])) == []


def test_two_gates_have_two_pictures() -> None:
    found = gate.pictures(evidence_of(gates=[report(row("a")), report(row("b"), controls=[])]))
    assert [picture.name for picture in found] == ["gate-1", "gate-2"]
    assert "No control was timed." in found[1].caption
