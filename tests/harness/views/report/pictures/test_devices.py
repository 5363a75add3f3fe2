"""Devices beside each other, drawn."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.harness.machine import Machine
from plumbline.harness.record import Record
from plumbline.harness.verdicts.comparison import ratio_of_medians
from plumbline.harness.views.report.picture import COLOURS
from tests.harness.views.report.pictures.drawings import check, data_of, drawn, evidence_of, links
from tests.records import cell_of, latency_of, record_of, replace

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from plumbline.harness.views.report.pictures import devices

A, B = (Machine(id=name, cpu_model=f"processor {name}", cores_allowed=4, architecture="aarch64") for name in "ab")


def record(machine: Machine, median_s: float, at: int = 1, **axes: Any) -> Record:
    latency = latency_of(median_s)
    latency = replace(latency, model=replace(latency.model, interval_s=(median_s * 0.9, median_s * 1.2)))
    return record_of(
        cell_of(**axes), machine=machine, latency=latency, session=f"{machine.id}{at}", started_at=f"2026-01-0{at}T00:00:00+00:00"
    )


def test_ratios_are_of_one_precision_and_one_batch() -> None:
    evidence = evidence_of(
        record(A, 1e-3), record(A, 4e-3, batch=8), record(A, 3e-3, precision="bf16"), record(B, 2e-3), record(B, 12e-3, batch=8),
        record(B, 7e-3, precision="fp16"), record(A, 5e-4, target="cuda"),
    )  # fmt: skip
    (picture,) = devices.pictures(evidence)
    check(picture)
    found = {row["key"]: row for row in data_of(picture, "devices")}
    assert {key: row["ratio"] for key, row in found.items()} == {
        "c0": 1.0, "c3": pytest.approx(2), "c1": 1.0, "c4": pytest.approx(3), "c6": pytest.approx(0.5),
    }  # fmt: skip
    _, (low, high) = ratio_of_medians(1e-3, (0.9e-3, 1.2e-3), 2e-3, (1.8e-3, 2.4e-3))
    assert (found["c3"]["low"], found["c3"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["c0"]["low"] is None
    assert "the first device is processor a, aarch64, 4 cores: cpu" in picture.caption
    assert "processor b, aarch64, 4 cores: cpu: 2.5 times, in the median of 2 cells" in picture.caption
    assert "2 cells of one device alone left out" in picture.caption
    assert links(drawn(picture, evidence)) == {"#c0", "#c1", "#c3", "#c4", "#c6"}


def test_of_a_device_the_last_session_counts_whatever_its_software() -> None:
    newer = replace(A, id="a with another torch", torch="9.9")
    evidence = evidence_of(record(A, 1e-3), record(newer, 2e-3, at=2), record(B, 4e-3))
    (picture,) = devices.pictures(evidence)
    assert {row["key"]: row["ratio"] for row in data_of(picture, "devices")} == {"c1": 1.0, "c2": pytest.approx(2)}


def test_nothing_where_one_device_measured() -> None:
    emulated = replace(B, emulator="qemu-aarch64-static")
    for others in ([], [record(emulated, 1.0)], [record(B, 1.0, batch=2)], [record_of(machine=B, outcome="failed")]):
        assert devices.pictures(evidence_of(record(A, 1e-3), *others)) == []
    assert devices.pictures(evidence_of()) == []


def test_many_cells_and_many_devices() -> None:
    machines = [replace(A, id=str(number), cpu_model=f"processor {number}") for number in range(12)]
    records = [
        record(machine, 1e-3 * (1 + place * batch), batch=batch)
        for place, machine in enumerate(machines)
        for batch in range(1, 100)
    ]
    (picture,) = devices.pictures(evidence_of(*records))
    check(picture)
    found = data_of(picture, "devices")
    assert len({row["label"] for row in found}) == devices.SHOWN
    assert len({row["device"] for row in found}) == len(COLOURS)
    assert "59 more cells" in picture.caption
