"""How a net scales: like with like, and what did not fit is drawn as such."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.harness.record import Record
from plumbline.harness.views.report.pictures import scaling
from tests.harness.views.report.pictures.drawings import check, data_of, evidence_of
from tests.records import accuracy_of, cell_of, latency_of, record_of, replace


def one(model: str = "net", seconds: float = 1e-3, **axes: Any) -> Record:
    return record_of(cell_of(model, **axes), latency=replace(latency_of(seconds, 8), first_s=3 * seconds))


def named(*records: Record) -> dict[str, Any]:
    found = {picture.name: picture for picture in scaling.pictures(evidence_of(*records))}
    for picture in found.values():
        check(picture)
    return found


def test_batches_are_lines_and_what_did_not_fit_a_cross() -> None:
    records = [one(batch=batch, seconds=batch * 1e-3) for batch in (1, 8, 32)]
    lost = record_of(cell_of("net", batch=64), outcome="out_of_memory", reason="killed")
    picture = named(*records, lost, one("alone"))["batches"]
    points = data_of(picture, "batches_latency_s")
    assert [(point["x"], point["latency_s"]) for point in points] == [(1, 1), (8, 8), (32, 32)]
    assert {point["series"] for point in points} == {"net"}
    crosses = data_of(picture, "batches_latency_s_unfit")
    assert [(cross["key"], cross["x"], cross["outcome"]) for cross in crosses] == [("c3", 64, "out_of_memory")]
    assert "1 of them" in picture.caption


def test_sizes_of_pictures_are_an_axis_too_and_machines_are_lines_of_their_own() -> None:
    def elsewhere(size: int) -> Record:
        record = one(image_size=size, seconds=2e-3)
        return replace(record, machine=replace(record.machine, id="other", cpu_model="another"))

    picture = named(*(one(image_size=size) for size in (112, 224)), *map(elsewhere, (112, 224)))["picture-sizes"]
    points = data_of(picture, "picture-sizes_latency_s")
    lines = {point["series"]: {other["latency_s"] for other in points if other["series"] == point["series"]} for point in points}
    assert len(lines) == 2
    assert sorted(lines.values(), key=min) == [{1}, {2}]
    assert any("another" in name for name in lines), sorted(lines)


def test_an_option_of_a_model_is_swept_on_one_set_of_pictures() -> None:
    def deep(depth: int, data: str, **axes: Any) -> Record:
        return replace(one(f"mlp+depth={depth}+width=64", depth * 1e-3, **axes), accuracy=accuracy_of(0.9, data=data))

    records = [deep(depth, "digits") for depth in (2, 4, 8)] + [deep(depth, "mnist", image_size=28) for depth in (2, 4)]
    picture = named(*records)["mlp-depth"]
    points = data_of(picture, "mlp_depth_latency_s")
    assert {point["x"]: point["latency_s"] for point in points} == pytest.approx({2: 2, 4: 4, 8: 8})
    assert {point["rest"] for point in points} == {"width=64"}
    first = data_of(picture, "mlp_depth_first_s")
    assert {point["x"]: point["first_s"] for point in first} == pytest.approx({2: 6, 4: 12, 8: 24})
    assert "Accuracy on digits." in picture.caption
    assert "2 more cells" in picture.caption


def test_of_several_images_the_time_of_one_is_swept_too() -> None:
    swept = {batch: named(*(one(f"mlp+depth={depth}", depth * 1e-3, batch=batch) for depth in (2, 4, 8))) for batch in (1, 8)}
    points = data_of(swept[8]["mlp-depth"], "mlp_depth_image_s")
    assert {point["x"]: point["image_s"] for point in points} == pytest.approx({2: 0.25, 4: 0.5, 8: 1})
    with pytest.raises(AssertionError, match="no data"):
        data_of(swept[1]["mlp-depth"], "mlp_depth_image_s")


def test_first_inferences_are_those_of_the_records_on_each_machine() -> None:
    records = [one(f"net{number}", number * 1e-3) for number in (1, 2, 3)]
    picture = named(*records)["first-inference"]
    assert {row["key"]: row["run_by"] for row in data_of(picture, "first_points")} == dict.fromkeys(("c0", "c1", "c2"), "eager")
    moved = replace(records[2], machine=replace(records[2].machine, id="other", cpu_model="another"))
    names = {row["run_by"] for row in data_of(named(*records[:2], moved)["first-inference"], "first_points")}
    assert len(names) == 2


def test_emulated_cells_are_left_out_and_said() -> None:
    records = [one(f"net{number}", number * 1e-3) for number in (1, 2, 3)]
    fourth = one("net4")
    assert fourth.latency is not None
    picture = named(*records, replace(fourth, latency=replace(fourth.latency, emulated=True)))["first-inference"]
    assert "1 cell whose arithmetic the processor lacks" in picture.caption
    assert len(data_of(picture, "first_points")) == 3


def test_of_nothing_there_is_no_picture() -> None:
    assert named() == {}
    assert named(one(), record_of(outcome="failed")) == {}
