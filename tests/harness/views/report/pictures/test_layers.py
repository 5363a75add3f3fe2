"""Where the time goes, drawn."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.harness.facts import Layers, Part
from plumbline.harness.record import Record
from plumbline.harness.views.layers import compared
from tests.harness.views.report.pictures.drawings import check, data_of, drawn, evidence_of, links
from tests.records import cell_of, latency_of, record_of

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from plumbline.harness.views.report.pictures import layers


def record(parts: dict[str, float], latency_s: float = 10e-3, **axes: Any) -> Record:
    """Make a record whose layers take that long, beside an addition of a millisecond."""
    told = [Part(f"node_{name}", "Conv", seconds, "float32", name, 10**6) for name, seconds in parts.items()]
    told.append(Part("add", "Add", 1e-3))
    found = Layers(None, told, 20, sum(parts.values()) + 1e-3, latency_s)
    return record_of(cell_of(**axes), layers=found, latency=latency_of(latency_s))


def test_the_bars_are_what_the_record_says() -> None:
    evidence = evidence_of(record({"a": 2e-3, "b": 3e-3}, batch=2), record({"a": 1e-3}, 20e-3, batch=2))
    (picture,) = layers.pictures(evidence)
    check(picture)
    assert picture.name == "layers-c0", "the fastest of its model"
    found = data_of(picture, "layers_c0")
    assert [(row["layer"], row["seconds"], row["macs"]) for row in found] == [
        ("a", 2e-3, 10**6), ("b", 3e-3, 10**6), ("(Add)", 1e-3, None),
    ]  # fmt: skip
    assert sum(row["share"] for row in found) == pytest.approx(1)
    assert found[0]["macs_per_s"] == pytest.approx(2 * 10**6 / 2e-3), "of a batch of two"
    assert "Sum 6.000 ms of 10.000 ms" in picture.caption
    assert "plumbline layers prints 1 more." in picture.caption
    assert links(drawn(picture, evidence)) == {"#c0"}


def test_a_layer_in_two_parts_has_its_macs_once() -> None:
    told = [Part("one", "Conv", 1e-3, None, "a", 500), Part("two", "Relu", 2e-3, None, "a", 500)]
    whole = record_of(layers=Layers(None, told, 9, 3e-3, 3e-3), latency=latency_of())
    (row,) = data_of(layers.pictures(evidence_of(whole))[0], "layers_c0")
    assert (row["seconds"], row["macs"], row["parts"]) == (3e-3, 500, 2)


def test_what_belongs_to_no_layer_or_to_the_model_itself_is_in_the_sum() -> None:
    told = [Part("one", "Conv", 1e-3, None, "a", 500), Part("all", "Sequential", 2e-3, None, ""), Part("x", "Relu", 3e-3)]
    whole = record_of(layers=Layers(None, told, 9, 6e-3, 6e-3), latency=latency_of())
    rows = data_of(layers.pictures(evidence_of(whole))[0], "layers_c0")
    assert [(row["layer"], row["seconds"]) for row in rows] == [("a", 1e-3), ("(Sequential)", 2e-3), ("(Relu)", 3e-3)]


def test_many_layers_are_cut_to_those_that_take_most() -> None:
    evidence = evidence_of(record({f"layer{number}": 1e-3 * (1 + number % 50) for number in range(200)}))
    (picture,) = layers.pictures(evidence)
    found = data_of(picture, "layers_c0")
    assert len(found) == layers.ROWS
    assert min(row["seconds"] for row in found) == pytest.approx(43e-3)
    assert "171 more layers take" in picture.caption


def test_the_difference_to_the_parent_is_that_of_the_table() -> None:
    dense = record({"a": 4e-3, "b": 3e-3, "gone": 1e-3})
    pruned = record({"a": 2e-3, "b": 3e-3}, variant="filter50")
    elsewhere = record({"a": 9e-3}, variant="filter50", runtime="compiled")
    evidence = evidence_of(dense, pruned, elsewhere)
    found = {picture.name: picture for picture in layers.pictures(evidence)}
    assert "layers-c2-and-parent" not in found, "its parent was not looked into"
    picture = found["layers-c1-and-parent"]
    check(picture)
    *expected, whole = compared(pruned, dense)
    assert [(row["layer"], row["seconds"], row["against"]) for row in data_of(picture, "difference_c1")] == expected
    assert "The sum is 6 ms, and 9 ms of the parent" in picture.caption
    assert list(whole[1:]) == pytest.approx([6e-3, 9e-3])
    assert "#c1" in links(drawn(picture, evidence))


def test_what_is_not_known_is_said_and_not_drawn() -> None:
    assert layers.pictures(evidence_of(record_of(), record_of(layers=Layers("no profile")))) == []
    (picture,) = layers.pictures(evidence_of(record({"a": 1e-3}), record_of(layers=Layers("no profile"))))
    assert "Of 1 cell it is not known: no profile (1)." in picture.caption
