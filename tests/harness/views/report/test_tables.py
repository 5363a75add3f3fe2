"""A report as CSV, Parquet and Markdown: nothing is lost in the first two, the third is never too long nor markup."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import Any, get_type_hints

import polars
import pytest

from plumbline.harness import journal
from plumbline.harness.facts import Latency
from plumbline.harness.record import Record
from plumbline.harness.rows import Row, row_of
from plumbline.harness.studies.report import Evidence, gather
from plumbline.harness.verdicts.realised import verdict
from plumbline.harness.views.report import tables
from tests import synthetic_runs
from tests.harness.studies.test_report import a_gate
from tests.records import accuracy_of, cell_of, latency_of, record_of, replace

MARKUP = "<img src=x onerror=alert(1)>|`[a](http://b) @someone #1 \\"


def evidence_of(*records: Record, **fields: Any) -> Evidence:
    found = {f"c{number}": record for number, record in enumerate(records, 1)}
    return Evidence([row_of(record, key, verdict(record)) for key, record in found.items()], found, **fields)


def synthetic(count: int) -> Evidence:
    return evidence_of(*synthetic_runs.records(synthetic_runs.cells(count), samples=16))


def disturbed() -> Latency:
    return replace(latency_of(2e-3), remarks=["the runtime used one thread"])


def test_parquet_has_each_row_and_type_as_it_is() -> None:
    rows = [row_of(record_of(cell_of(MARKUP), outcome="failed", reason="a\nb"), "c0"), *synthetic(60).rows]
    frame = polars.read_parquet(io.BytesIO(tables.parquet(rows)))
    assert frame.columns == list(Row.__struct_fields__) == list(get_type_hints(Row))
    assert frame.to_dicts() == [{name: getattr(row, name) for name in Row.__struct_fields__} for row in rows]
    kinds = {
        "key": polars.String,
        "batch": polars.Int64,
        "macs": polars.Int64,
        "latency_s": polars.Float64,
        "steady": polars.Boolean,
    }
    assert {name: frame.schema[name] for name in kinds} == kinds
    assert polars.Null not in frame.schema.values()


def test_a_variant_has_its_verdict(tmp_path: Path) -> None:
    """Which no record says itself."""
    run = synthetic_runs.run(tmp_path / "run", 60)
    known = {record.id: verdict(record) for record in journal.read(run)}
    assert {"passed", "under-delivers", None} <= set(known.values())
    found = csv.DictReader(io.StringIO(tables.csv(gather([run]).rows).decode()))
    assert {told["id"]: told["verdict"] or None for told in found} == known


def test_a_column_in_which_nothing_was_measured_keeps_its_type() -> None:
    frame = polars.read_parquet(io.BytesIO(tables.parquet([row_of(record_of(outcome="failed"), "c1")])))
    assert frame.schema["joules"] == polars.Float64 and frame["joules"].to_list() == [None]
    assert polars.read_parquet(io.BytesIO(tables.parquet([]))).schema == frame.schema


def test_csv_has_the_same_in_base_units() -> None:
    rows = [row_of(record_of(cell_of(MARKUP + '"\n'), outcome="failed", reason="so"), "c0"), *synthetic(60).rows]
    found = list(csv.DictReader(io.StringIO(tables.csv(rows).decode())))
    assert list(found[0]) == list(Row.__struct_fields__)
    assert found[0]["model"] == rows[0].model and found[0]["latency_s"] == ""
    for told, row in zip(found, rows, strict=True):
        assert told["id"] == row.id
        if row.latency_s is not None:
            assert float(told["latency_s"]) == row.latency_s, "every digit"
            assert told["steady"] == "true"


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "  =", "\n="])
def test_nothing_in_csv_is_a_formula_and_numbers_are_numbers(begins: str) -> None:
    name = f"{begins}HYPERLINK(1)"
    latency = replace(latency_of(1e-3), remarks=[name])
    rows = [row_of(record_of(cell_of(name), latency=latency, accuracy=accuracy_of(0.9, loss=-0.25)), "c1")]
    (told,) = csv.DictReader(io.StringIO(tables.csv(rows).decode(), newline=""))
    assert (told["model"], told["remarks"], told["id"][:2]) == (f"'{name}", f"'{name}", f"'{begins[0]}")
    assert (told["runtime"], told["accuracy_loss"]) == ("eager", "-0.25"), "what is no formula stays"
    assert polars.read_parquet(io.BytesIO(tables.parquet(rows)))["model"].to_list() == [name], "no spreadsheet reads that"


def test_a_summary_says_what_passed_failed_and_what_it_leaves_out() -> None:
    failed = [
        record_of(cell_of(batch=n), outcome="failed", reason="RMS error 1", started_at="2026-01-03T00:00:00+00:00")
        for n in (2, 3)
    ]
    skipped = record_of(cell_of("vit"), outcome="unsupported", reason="no kernel")
    good = record_of(accuracy=accuracy_of(0.985), latency=disturbed())
    text = tables.markdown(evidence_of(good, skipped, *failed, problems=["run: line 3: not a record"]), "Nightly")
    for words in (
        "## Nightly", "**1 of 4 cells passed all checks and were timed; 2 failed; 1 unsupported.**",
        "measured 2026-01-01 to 2026-01-03", "revision `5ca1ab1e`",
        "on `a processor (no known vectors), 2 cores`", "- `run: line 3: not a record`", "batch `1`",
    ):  # fmt: skip
        assert words in text, text
    reasons = [line for line in text.splitlines() if "RMS error 1" in line or "no kernel" in line]
    assert re.match(r"\| +2 \| failed +\| `RMS error 1` +\| `mlp-dense-eager-fp32-b2-8px-cpu` +\|", reasons[0])
    assert "unsupported" in reasons[1], "failures first"
    (row,) = (line for line in text.splitlines() if line.startswith("| `mlp`"))
    assert [each.strip() for each in row.split("|")[1:-1]] == ["`mlp`", "2!", "98.50"], "in ms, with a mark, and in percent"


def test_a_summary_of_nothing_and_of_a_gate(tmp_path: Path) -> None:
    assert "**Nothing was measured: these runs hold no record.**" in tables.markdown(Evidence([], {}), "t")
    a_gate(tmp_path / "gate", base="v1 `x`")
    text = tables.markdown(gather([tmp_path / "gate"]), "t")
    assert "**Gate** `5ca1ab1e` against <code>v1&#32;&#96;x&#96;</code>: regressed: 1 regressed, in 1.0 s" in text


@pytest.mark.parametrize("count", [39, 2000])
def test_a_summary_has_some_forty_rows_at_most(count: int) -> None:
    text = tables.markdown(synthetic(count), "t")
    cells = [line for line in text.partition("### Cells")[2].splitlines() if line.startswith("| `")]
    assert len(cells) == min(count, 40)
    assert (" rows: those that no other beats in two quantities at once, and every n-th" in text) == (count > 40)


def test_a_summary_is_never_longer_than_github_takes() -> None:
    """Each line is as long as can be, and there are many of them."""
    long = "x`" * 200
    cells = [replace(cell_of(f"{number}{long}", variant=long, runtime=long, target=long + str(number))) for number in range(90)]
    records = [record_of(cell, latency=latency_of()) for cell in cells[:45]]
    records += [record_of(cell, outcome="failed", reason=f"{number}{long}") for number, cell in enumerate(cells[45:])]
    whole = evidence_of(*records, problems=[f"{number}{long}" for number in range(500)])
    text = tables.markdown(whole, "t")
    assert len(text) <= tables.LIMIT
    assert "**45 of 90 cells passed all checks and were timed; 45 failed.**" in text
    assert "- and 490 more" in text, "ten of each fit"
    assert "1 of 45 rows" not in text and "10 of 45 rows" in text


def test_nothing_in_a_summary_is_markup() -> None:
    """What stands outside of code is letters of ours; a bar in a name starts no column."""
    records = [record_of(cell_of(MARKUP, variant="@someone", batch=batch), latency=latency_of()) for batch in (1, 2)]
    records.append(record_of(cell_of(MARKUP, runtime="eager", batch=3), outcome="failed", reason=MARKUP))
    text = tables.markdown(evidence_of(*records, problems=[MARKUP]), MARKUP)
    bare = re.sub(r"`[^`\n]*`", "", text)
    for letters in ("<img", "@", "](", "#1", "`", "\\"):
        assert letters not in bare.replace("&#1", ""), letters
    widths = {line.count("|") for line in text.partition("### Cells")[2].splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert math.isclose(text.count("<code>"), text.count("</code>"))
