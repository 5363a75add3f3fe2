"""What compression brings, drawn: each value as the records have it, and what is left out is said."""

from __future__ import annotations

import re
from typing import Any

import pytest

from plumbline.harness.facts import Delivery, Promise
from plumbline.harness.machine import Machine
from plumbline.harness.record import Record
from plumbline.harness.verdicts.realised import verdict
from plumbline.harness.views.report.picture import COLOURS, Picture
from tests.harness.views.report.pictures.drawings import check, data_of, drawn, evidence_of, links, marks
from tests.records import accuracy_of, cell_of, latency_of, prepared_of, record_of, replace

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from plumbline.harness.views.report.pictures import compression


def variant(
    name: str, effective: int = 100, speedup: float | None = 5.0, top1: float | None = 0.9, nonzero: int = 10, **fields: Any
) -> Record:
    """Make the record of a variant of a net of 100 parameters and 1,000 MACs."""
    axes = {axis: fields.pop(axis) for axis in ("model", "precision", "batch", "runtime") if axis in fields}
    epochs = fields.pop("epochs", None)
    promise = Promise(100, 100, nonzero, 100, 1000, 1000, effective, 400, 40, None, [{"epochs": epochs}] if epochs else [])
    delivery = Delivery(speedup, (speedup * 0.9, speedup * 1.1), 9) if speedup else Delivery(unavailable="another runtime")
    options = {"machine": Machine(id="m", cpu_model="a processor"), **fields}
    accuracy = accuracy_of(top1, parent_top1=0.95, loss=0.95 - top1, interval=(top1 - 0.01, top1 + 0.01)) if top1 else None
    return record_of(
        cell_of(variant=name, **axes),
        prepared=prepared_of(promise),
        delivery=delivery,
        latency=latency_of(),
        accuracy=accuracy,
        **options,
    )


def named(pictures: list[Picture], name: str) -> Picture:
    found = {picture.name: picture for picture in pictures}
    assert name in found, f"expected {name}, got {list(found)}"
    return found[name]


def test_the_verdicts_are_those_of_the_rules() -> None:
    records = [
        variant("prune90", 100, 1.0), variant("filter50", 500, 1.7), variant("svd50", 500, 1.2), variant("prune50", 500, 0.8),
        variant("prune99", 10, None), record_of(cell_of(), latency=latency_of()),
    ]  # fmt: skip
    evidence = evidence_of(*records)
    picture = named(compression.pictures(evidence), "promised-and-realised")
    check(picture)
    found = {row["key"]: row for row in data_of(picture, "speedup_verdicts")}
    assert {key: row["verdict"] for key, row in found.items()} == {
        "c0": "no faster", "c1": "passed", "c2": "under-delivers", "c3": "slower",
    }  # fmt: skip
    assert found["c0"]["words"] == verdict(records[0]) == "no faster"
    assert "Left out are 1 without a realised speed-up: another runtime (1)" in picture.caption
    assert "Under-delivers: realised gain below 50 %" in picture.caption
    said = dict(marks(drawn(picture, evidence)))
    assert set(said) == {"#c0", "#c1", "#c2", "#c3"}, "a variant each, and no dense net"
    for key, theoretical, realised in (("#c0", "10", "1"), ("#c1", "2", "1.7"), ("#c3", "2", "0.8")):
        assert f"dense net / effective MACs): {theoretical};" in said[key]
        assert f"over the dense net: {realised};" in said[key]


def test_the_lines_are_those_of_the_rules() -> None:
    picture = compression.pictures(evidence_of(variant("prune90")))[0]
    lines = {(row["line"], row["x"]): row["y"] for row in data_of(picture, "speedup_lines")}
    for (line, x), y in lines.items():
        assert y == pytest.approx({compression.FULL: x, compression.HALF: 1 + (x - 1) / 2, compression.DENSE: 0.95}[line])
    assert min(x for line, x in lines if line == compression.HALF) >= 1.05


def test_an_emulator_gives_no_verdict() -> None:
    emulated = variant("prune90", 100, 0.2, machine=Machine(id="m", emulator="qemu-aarch64-static"))
    picture = compression.pictures(evidence_of(emulated))[0]
    assert [row["verdict"] for row in data_of(picture, "speedup_verdicts")] == [compression.EMULATED]


def test_nothing_is_drawn_of_dense_nets_and_of_failures() -> None:
    for evidence in (evidence_of(), evidence_of(record_of(latency=latency_of()), record_of(outcome="failed", reason="wrong"))):
        assert compression.pictures(evidence) == []


def test_each_variant_stands_once_with_the_technique_of_its_parsed_name() -> None:
    evidence = evidence_of(
        variant("filter50+tune+svd25", nonzero=40), variant("prune90", precision="bf16"), variant("prune90", top1=0.8),
        variant("prune90", top1=0.7, batch=8), variant("elsewhere95+x=1", nonzero=5), variant("l1+penalty=0.001", nonzero=0),
    )  # fmt: skip
    picture = named(compression.pictures(evidence), "accuracy-by-sparsity")
    check(picture)
    found = {row["key"]: row for row in data_of(picture, "sparse_variants")}
    assert {key: (row["technique"], row["trained"]) for key, row in found.items()} == {
        "c0": ("filter", compression.TRAINED[True]), "c2": ("prune", compression.TRAINED[False]),
        "c4": ("elsewhere95", compression.TRAINED[None]),
    }  # fmt: skip
    assert {row["parent_top1"] for row in found.values()} == {0.95}
    assert "2 cells of the same variants in other precisions" in picture.caption
    assert "1 with no parameter left" in picture.caption
    svg = drawn(picture, evidence)
    fills = dict(re.findall(r'href="[^"#]*(#[^"]+)"><path [^>]*fill-opacity="([^"]*)"', svg))
    assert fills == {"#c0": "0.85", "#c2": "0", "#c4": "0.4"}, "filled where it was trained, a ring where not"
    said = dict(marks(svg))
    assert set(said) == {"#c0", "#c2", "#c4"}
    assert "0.1" in said["#c2"] or "10%" in said["#c2"]
    assert "0.8" in said["#c2"] or "80%" in said["#c2"]


def test_penalties_are_those_of_the_options() -> None:
    names = {"l1+penalty=1e-05": (1e-05, "2"), "l1+decimals=1+penalty=0.001": (0.001, "1"), "l1": (0.0001, "2")}
    evidence = evidence_of(*(variant(name, epochs=4) for name in names), variant("l1+penalty=0.5", model="other", epochs=4))
    picture = named(compression.pictures(evidence), "accuracy-by-penalty")
    check(picture)
    found = {row["key"]: row for row in data_of(picture, "l1_penalty")}
    assert [(row["amount"], row["line"]) for row in found.values()] == list(names.values())
    assert {row["panel"] for row in found.values()} == {"mlp at 8 px, 4 epochs"}
    assert "1 more are left out" in picture.caption, "of a model with one penalty there is nothing to compare"
    assert links(drawn(picture, evidence)) == {"#c0", "#c1", "#c2"}
    one = compression.pictures(evidence_of(variant("l1")))
    assert "accuracy-by-penalty" not in [each.name for each in one]


def test_thousands_of_variants_and_of_techniques() -> None:
    records = [variant(f"prune{number / 100:g}", nonzero=1 + number % 99) for number in range(1, 3000)]
    records += [variant(f"theirs{letter}") for letter in "abcdefghijkl"]
    evidence = evidence_of(*records)
    found = compression.pictures(evidence)
    for picture in found:
        check(picture)
    sparse = data_of(named(found, "accuracy-by-sparsity"), "sparse_variants")
    assert len(sparse) == len(records)
    shown = {row["technique"] for row in sparse}
    assert "other" in shown, "of twelve techniques that nobody knows"
    assert len(shown) == len(COLOURS)
    assert len(data_of(named(found, "promised-and-realised"), "speedup_verdicts")) == len(records)


def test_a_page_that_holds_a_choice_of_the_records_says_so() -> None:
    whole = evidence_of(variant("prune90"), variant("prune50"), variant("filter50"))
    few = replace(whole, records={key: record for key, record in whole.records.items() if key != "c1"})
    for picture in compression.pictures(few):
        assert "Looked at are the 2 records of 3 that this page holds." in picture.caption
        assert "#c1" not in links(drawn(picture, few))
    assert "Looked at" not in compression.pictures(whole)[0].caption


def test_a_caption_names_the_dense_net_and_bars_where_they_are_drawn() -> None:
    def caption(*records: Record) -> str:
        return named(compression.pictures(evidence_of(*records)), "accuracy-by-sparsity").caption

    whole = variant("prune90")
    assert "bars are Wilson's 95 % intervals; the dashed line is the dense net on the same images" in caption(whole)
    assert "each panel has an axis of its own" not in caption(whole)
    assert "each panel has an axis of its own" in caption(whole, variant("prune90", model="other"))
    assert whole.accuracy is not None
    bare = caption(replace(whole, accuracy=replace(whole.accuracy, interval=None, parent_top1=None)))
    assert "bars" not in bare and "dashed" not in bare
