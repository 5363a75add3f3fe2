"""What a page holds for its scripts: records with quantiles for samples, and numbers with no more digits than are read."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from plumbline.harness.facts import Energy
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.rows import row_of
from plumbline.harness.views.report import matrix, payload, summary
from tests.harness.views.report.test_tables import evidence_of
from tests.records import cell_of, latency_of, record_of, replace

SAMPLES = [float(f"{1e-3 * (1 + number / 1e4):.9g}") for number in range(1000)]


def record(samples: list[float]) -> Record:
    latency = latency_of()
    readings = replace(read("W", "machine", 1.0), values=[float(number) for number in range(500)])
    latency = replace(
        latency,
        model=replace(latency.model, samples_s=samples[::-1]),
        with_transfer=replace(latency.with_transfer, samples_s=samples),
        telemetry={"power": readings},
        energy={"rails": Energy(samples=[1.0] * 500)},
    )
    return record_of(cell_of("0.123456789012"), latency=latency)


def test_samples_become_quantiles_with_both_ends() -> None:
    latency = payload.brief(record(SAMPLES)).latency
    assert latency is not None
    found = latency.model.samples_s
    assert (len(found), len(latency.with_transfer.samples_s)) == (payload.QUANTILES, payload.FEWER)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1e-3, 1.1e-3)
    assert found[32] == pytest.approx(SAMPLES[507], rel=1e-3)
    assert len(latency.telemetry["power"].values) == len(latency.energy["rails"].samples) == payload.LONGEST
    assert latency.telemetry["power"].values[-1] == 499
    assert latency.model.median_s == 1e-3, "all else is as it was"


def test_few_samples_stay_and_a_record_without_a_latency_is_as_it_is() -> None:
    latency = payload.brief(record([3e-3, 1e-3])).latency
    assert latency is not None and latency.model.samples_s == [1e-3, 3e-3]
    failed = record_of(outcome="failed", reason="so")
    assert payload.brief(failed) == failed


def packed(*records: Record) -> dict[str, Any]:
    evidence = evidence_of(*records)
    text = payload.packed(evidence, [], matrix.Matrix(evidence), summary.doubts(evidence.rows))
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
    return found


def test_numbers_have_the_digits_that_are_read() -> None:
    """Six digits behind the point and its zeros; powers of ten and whole numbers stay."""
    kept = replace(record(SAMPLES), seconds=123.45678901234567, steps_s={"small": 1.2345678901234e-9, "whole": 1e9})
    data = packed(kept)
    told = data["records"]["c1"]
    assert told["seconds"] == 123.456789
    assert told["steps_s"] == {"small": pytest.approx(1.2345678901234e-9, rel=1e-7), "whole": 1e9}
    assert len(told["latency"]["model"]["quantiles_s"]) == payload.QUANTILES and "samples_s" not in told["latency"]["model"]
    assert data["cells"][0]["seconds"] == 123.457
    assert data["cells"][0]["link"] == "#c1"


def test_a_disturbed_latency_without_an_interval_is_marked() -> None:
    latency = replace(latency_of(2e-3), remarks=["one thread"])
    assert latency.model.interval_s is None
    assert matrix.shown(row_of(record_of(latency=latency), "c1"), "latency_s").text == "2!"
    assert matrix.shown(row_of(record_of(latency=latency_of(2e-3)), "c1"), "latency_s").text == "2"
