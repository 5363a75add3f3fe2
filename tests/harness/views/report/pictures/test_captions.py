"""Every picture says on which machine, on which day, in which precision and batch it was measured."""

from __future__ import annotations

import re

import pytest

from plumbline.harness.facts import Layers, Part
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.changes import Found
from tests import synthetic_runs
from tests.harness.views.report.pictures.drawings import evidence_of
from tests.harness.views.report.pictures.test_gate import report, row
from tests.harness.views.report.pictures.test_history import series, stepped
from tests.records import replace

pytest.importorskip("altair")

from plumbline.harness.views.report.pictures import KINDS, pictures

MACHINES = ("Synthetic CPU", "another processor", "a machine")


def everything() -> Evidence:
    """Make evidence of which each kind of picture is drawn."""
    records: list[Record] = list(synthetic_runs.records(synthetic_runs.cells(150), samples=200))
    for number, record in enumerate(records[:8]):
        layers = Layers(None, [Part("one", "Conv", 1e-3, None, "a", 500)], 9, 1e-3, 1e-3)
        records[number] = replace(record, layers=layers, state_before={"clock": read("Hz", "machine", 2e9 + number)})
    other = replace(records[0].machine, id="other", cpu_model="another processor")
    moved = [replace(record, machine=other) for record in records[:5]]
    medians = stepped(0.3)
    history = [(series(medians, machine="a machine"), Found(drift=0.2))]
    gates = [report(row("slow", "regressed", 0.2), started_at="2026-01-01T00:00:00+00:00")]
    return evidence_of(*records, *moved, history=history, gates=gates)


def test_every_caption_says_where_and_when_and_how() -> None:
    found = pictures(everything())
    names = {re.sub(r"-c\d+", "", picture.name) for picture in found}
    assert {"history", "gate-1", "devices", "machine-during-the-session", "layers", "layers-and-parent", "samples"} <= names
    assert len(found) > len(KINDS)
    for picture in found:
        assert any(machine in picture.caption for machine in MACHINES), picture
        assert re.search(r"measured \d{4}-\d\d-\d\d", picture.caption), picture
        assert "precision" in picture.caption and "batch" in picture.caption, picture
