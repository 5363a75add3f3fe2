"""What a table says in its cells and below its rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from plumbline.harness.cli import main
from plumbline.harness.facts import Accuracy, Energy, Promise
from plumbline.harness.journal import Journal
from plumbline.harness.machine import Machine
from plumbline.harness.record import Record, schema
from plumbline.harness.settings import Settings
from plumbline.harness.views.table import matrix, notes
from tests.records import cell_of, latency_of, prepared_of, record_of, replace


def plumbline(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plumbline", *words])
        return main()


def record(reason: str | None, source: str = "x") -> Record:
    return record_of(accuracy=Accuracy(unavailable=reason), prepared=prepared_of(source=source))


def test_how_to_get_pictures_and_weights_is_said_in_one_line() -> None:
    """Whatever each of them lacks; a reason of another kind keeps its own line."""
    seeded = [f"no weights for {name} on cifar10: no --weights DIR was given" for name in ("resnet8", "resnet20", "resnet56")]
    lacking = [*(record(reason, reason) for reason in seeded), record("no data root was given; --data ROOT, where ...")]
    told = notes([*lacking, record("ssdlite does not name one class for a picture"), record(None)])
    lines = [line for line in told if line.startswith("no top-1")]
    assert len(lines) == 2
    assert lines[0].startswith("no top-1 in 4 of 6 rows: ")
    assert all(words in lines[0] for words in ("plumbline data ", "--data ROOT", "--weights DIR", "--weights pretrained"))
    assert lines[1] == "no top-1: ssdlite does not name one class for a picture"


def test_a_page_of_results_says_when_where_and_by_which_revision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = Machine(id="m", cpu_model="a processor", cpu_flags="avx2", cores_allowed=2, torch="2.15", memory_bytes=24 << 30)
    cells = [record_of(cell_of(batch=batch), machine=here, latency=latency_of(), seconds=30.0) for batch in (1, 8)]
    later = replace(cells[1], outcome="failed", reason="so", latency=None, started_at="2026-01-02T00:00:00+00:00")
    journal = Journal(tmp_path / "run")
    for each in (cells[0], replace(later, settings=Settings(seed=3))):
        journal.append(each)
    journal.close()
    out = tmp_path / "page.md"
    assert plumbline("results", str(tmp_path / "run"), "--title", "A run", "--out", str(out)) == 0
    page = out.read_text()
    for words in (
        "# A run", "- measured: 2026-01-01 to 2026-01-02", "- by revision: 5ca1ab1e",
        "a processor (AVX2), 2 cores, torch 2.15, 24 GiB",
        "- cells: 1 ok, 1 failed", "- which took: 1 min", "failed: so",
    ):  # fmt: skip
        assert words in page
    assert plumbline("table", str(tmp_path / "run")) == 0
    assert capsys.readouterr().out.strip() in page


def test_the_schema_can_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    assert plumbline("schema") == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_a_remark_is_seen_in_the_cell_and_below_the_table() -> None:
    latency, here = latency_of(0.002), Machine(cpu_model="X", cpu_flags="avx2", cores_allowed=2)
    record = record_of(cell_of("theirs:net"), machine=here, latency=latency)
    said = matrix([replace(record, latency=replace(latency, remarks=["1 of 2 threads work"]))])
    assert "2!" in said
    assert said.startswith("X (AVX2), 2 cores; variant dense; ")
    assert f"{record.id}: !: 1 of 2 threads work" in said
    assert "!" not in matrix([record]).partition("\nMACs of one")[0]


def test_the_matrix_has_a_table_of_its_own_for_what_is_compressed() -> None:
    promise = Promise(100, 100, 25, 100, 1000, 1000, 250, 400, 400, None, [{"epochs": 4, "seconds": 3.0}])
    dense = record_of(cell_of(batch=32), outcome="failed", reason="so")
    pruned = record_of(cell_of(variant="prune75", batch=32), outcome="failed", reason="so", prepared=prepared_of(promise))
    whole, _, below = matrix([dense, pruned]).partition("compressed: theoretical gain, and the gain realised in turns with")
    assert "prune75" in whole and "4.00x" not in whole
    row = below.splitlines()[4].split()
    assert row[:8] == ["mlp", "prune75", "8", "eager", "fp32", "b32", "0.0001", "25.0%"]
    assert row[8:] == ["100.0%", "25.0%", "0.4", "1.0x", "4.00x", "no", "smaller", "3.0", "s"]
    assert "no smaller: its zeros take as much on disk" in below
    assert "compressed" not in matrix([dense])


def test_energy_stands_in_the_table_where_there_is_some_and_says_whose_it_is() -> None:
    found = Energy("VDD_IN", joules=0.0625, interval=(0.05, 0.1))
    without = Energy(unavailable="no power monitor")
    latency = replace(latency_of(), energy={"nvml": replace(found, rail="GPU", joules=0.01), "rails": found, "rapl": without})
    other = replace(latency_of(), energy={"rapl": replace(found, joules=None, interval=None, rail="psys", unavailable="it hung")})
    bare = record_of(latency=latency_of())
    table = matrix([record_of(latency=latency), record_of(cell_of(batch=8), latency=other), bare])
    assert "62.5 (50-100)" in table
    assert "rails, VDD_IN" in table, "the whole board comes before its GPU"
    assert "no energy by rapl: it hung" in table
    assert "no power monitor" not in table, "a meter that is not there is no news"
    assert "16 (10-20)" in matrix([record_of(latency=latency)], per_joule=True)
    assert "mJ" not in matrix([record_of(latency=latency)], per_joule=True)
    assert "mJ" not in matrix([bare])


def test_an_estimate_of_energy_is_marked_and_comes_last() -> None:
    guess = Energy("a guess", estimate=True, joules=0.5, interval=(0.4, 0.6))
    told = Energy("psys", joules=0.25, interval=(0.2, 0.3))
    assert "≈500 (400-600)" in matrix([record_of(latency=replace(latency_of(), energy={"theirs": guess}))])
    assert " 250 (200-300)" in matrix([record_of(latency=replace(latency_of(), energy={"theirs": guess, "rapl": told}))])
