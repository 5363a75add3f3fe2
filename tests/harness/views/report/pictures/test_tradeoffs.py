"""What is weighed against what: values are those of the records, and what is left out is said."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.harness.facts import Energy
from plumbline.harness.record import Record
from plumbline.harness.views.report.pictures import tradeoffs
from tests import synthetic_runs
from tests.harness.views.report.pictures.drawings import check, data_of, evidence_of
from tests.records import accuracy_of, cell_of, counts_of, latency_of, record_of, replace

NETS = {"a": (1e6, 1e-3, 0.6), "b": (1e7, 8e-3, 0.7), "c": (1e8, 60e-3, 0.8), "d": (1e9, 500e-3, 0.9)}


def one(model: str, variant: str = "dense", faster: float = 1.0, **fields: Any) -> Record:
    macs, seconds, top1 = NETS[model]
    cell = cell_of(model, variant=variant, **fields.pop("axes", {}))
    latency = replace(latency_of(seconds / faster, 8), emulated=fields.pop("emulated", False))
    accuracy = accuracy_of(top1, interval=(top1 - 0.02, top1 + 0.02), data=fields.pop("data", "digits"))
    return record_of(cell, counts=counts_of(100, int(macs)), latency=latency, accuracy=accuracy, **fields)


def named(evidence: Any) -> dict[str, Any]:
    found = {picture.name: picture for picture in tradeoffs.pictures(evidence)}
    for picture in found.values():
        check(picture)
    return found


def test_the_line_goes_through_dense_nets_alone() -> None:
    records = [one(model) for model in NETS]
    outlier = one("d", axes={"runtime": "onnxruntime"}, faster=1000)
    picture = named(evidence_of(*records, outlier))["macs-latency"]
    line = data_of(picture, "macs_latency_fit_1")
    assert [point["x"] for point in (line[0], line[-1])] == [1, 1000]
    assert line[0]["y"] == pytest.approx(1, rel=0.2)
    assert line[-1]["y"] == pytest.approx(500, rel=0.2)
    assert all(point["least"] < point["low"] < point["y"] < point["high"] < point["most"] for point in line)
    assert "to the power of 0.9" in picture.caption
    assert "4 nets" in picture.caption
    assert {row["key"] for row in data_of(picture, "macs_latency_1")} == {f"c{number}" for number in range(5)}


def test_the_frontier_joins_what_nothing_beats_and_wedges_lead_to_variants() -> None:
    records = [one("a"), one("b"), one("c"), one("c", "filter50", 2.0), one("c", "filter50+tune", 4.0), one("d", faster=0.5)]
    picture = named(evidence_of(*records))["latency-accuracy"]
    edge = {point["x"]: point["y"] for point in data_of(picture, "latency-accuracy_frontier")}
    assert edge == pytest.approx({1: 60, 8: 70, 15: 80, 1000: 90})
    steps = data_of(picture, "latency-accuracy_steps")
    ways = {step["step"]: [(own["x"]) for own in steps if own["step"] == step["step"]] for step in steps}
    assert ways == {"c3": pytest.approx([60, 30]), "c4": pytest.approx([30, 15])}, "from the part of the chain that was measured"
    assert "A wedge leads" in picture.caption


def test_accuracies_on_different_pictures_never_share_an_axis() -> None:
    records = [one(model) for model in NETS] + [one(model, data="mnist", axes={"image_size": 28}) for model in NETS]
    found = named(evidence_of(*records))
    assert "macs-accuracy" in found
    assert "macs-accuracy-mnist" in found
    keys = [{row["key"] for row in data_of(found[name], f"{name}_points")} for name in ("macs-accuracy", "macs-accuracy-mnist")]
    assert keys == [{"c0", "c1", "c2", "c3"}, {"c4", "c5", "c6", "c7"}]


def test_machines_never_share_a_picture() -> None:
    other = [replace(one(model), machine=replace(one(model).machine, id="another", cpu_model="another")) for model in NETS]
    found = named(evidence_of(*(one(model) for model in NETS), *other))
    assert {"macs-latency", "macs-latency-2"} <= set(found)
    assert "another" in found["macs-latency-2"].caption
    assert "another" not in found["macs-latency"].caption


def test_what_is_left_out_is_said() -> None:
    records = [one(model) for model in NETS] + [one("a", emulated=True, axes={"precision": "bf16"}), one("a", axes={"batch": 8})]
    found = named(evidence_of(*records))
    assert "1 cell whose arithmetic the processor lacks" in found["macs-latency"].caption
    assert "c4" not in {row["key"] for row in data_of(found["macs-latency"], "macs_latency_1")}
    many = [replace(one(model), machine=replace(one(model).machine, id=str(number))) for number in range(5) for model in NETS]
    assert "2 more places with fewer cells" in named(evidence_of(*many))["macs-latency"].caption


def test_energy_that_is_an_estimate_is_no_point_beside_what_was_measured() -> None:
    def of(model: str, **fields: Any) -> Record:
        energy = Energy("rail", joules=NETS[model][1], interval=(1e-4, 1.0), **fields)
        record = one(model)
        return replace(record, latency=replace(record.latency, energy={"meter": energy}))

    guessed, measured = of("d", estimate=True), [of(model) for model in "abc"]
    found = named(evidence_of(*measured, guessed))
    for name in ("latency-energy", "energy-accuracy"):
        assert len(data_of(found[name], f"{name}_points")) == 3
        assert "1 more cell, whose energy is an estimate" in found[name].caption
    assert len(data_of(found["latency-accuracy"], "latency-accuracy_points")) == 4
    assert "latency-energy" not in named(evidence_of(*(of(model, estimate=True) for model in NETS)))


def test_what_failed_or_was_not_timed_is_no_point() -> None:
    records = [one(model) for model in NETS] + [replace(one("a"), outcome="failed"), record_of(cell_of("e"), counts=counts_of())]
    found = named(evidence_of(*records))
    assert {row["key"] for row in data_of(found["latency-accuracy"], "latency-accuracy_points")} == {"c0", "c1", "c2", "c3"}
    assert named(evidence_of(record_of())) == {}
    assert named(evidence_of()) == {}


def test_of_very_many_variants_the_wedges_to_the_frontier_are_drawn() -> None:
    found = named(evidence_of(*synthetic_runs.records(synthetic_runs.cells(400), samples=16)))
    for picture in found.values():
        if picture.name in tradeoffs.TRADED and any("_steps" in str(layer) for layer in picture.specification["layer"]):
            assert len(data_of(picture, f"{picture.name}_steps")) <= 2 * max(tradeoffs.STEPS_SHOWN, 40)


def test_a_caption_names_what_is_drawn_alone() -> None:
    whole = named(evidence_of(*(one(model) for model in NETS)))["latency-accuracy"].caption
    assert "The dashed line joins" in whole and "Bars are" in whole and "A wedge" not in whole
    best = [one("d", faster=1e6), one("a"), one("b"), one("c")]
    bare = [replace(record, accuracy=replace(record.accuracy, interval=None)) for record in best]
    picture = named(evidence_of(*bare))["latency-accuracy"]
    assert "d-dense-eager-fp32-b1-8px-cpu beats all others in both" in picture.caption
    assert "dashed" not in picture.caption and "Bars" not in picture.caption
    assert "strokeDash" not in str(picture.specification) and "rule" not in str(picture.specification)


def test_a_batch_without_a_line_is_named() -> None:
    records = [one(model) for model in NETS] + [one("a", axes={"batch": 8}), one("b", axes={"batch": 8})]
    caption = named(evidence_of(*records))["macs-latency"].caption
    assert "No line in batch 8, of which there are too few dense nets" in caption
    assert "No line" not in named(evidence_of(*records[:4]))["macs-latency"].caption
