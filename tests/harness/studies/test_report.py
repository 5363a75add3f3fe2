"""What a report is made of: everything that can be read, and in words what cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness import messages
from plumbline.harness.journal import NAME
from plumbline.harness.machine import Machine
from plumbline.harness.record import SCHEMA, Record
from plumbline.harness.studies import gate, report
from plumbline.harness.studies.report import gather
from plumbline.harness.studies.stored import NotStored
from plumbline.harness.verdicts.regression import REGRESSED, Judgement
from tests import synthetic_runs
from tests.harness.studies.test_stored import run_of
from tests.harness.verdicts.test_comparison import row
from tests.records import cell_of, latency_of, record_of, replace

A, B = (record_of(cell_of(name), latency=latency_of(samples=3)) for name in ("mlp", "small_cnn"))


def add(run: Path, *lines: object) -> Path:
    """Add lines to a journal: text as it is, and all else as JSON, with an end."""
    with (run / NAME).open("a") as file:
        file.writelines(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return run


def a_gate(folder: Path, **fields: Any) -> gate.Report:
    usual: dict[str, Any] = {
        "base": "main",
        "head": "5ca1ab1e",
        "machine": "a processor",
        "controls": [],
        "skipped": {},
        "distrust": [],
    }
    rows = [gate.Row("mlp-dense-eager-fp32-b1-8px-cpu", Judgement(REGRESSED, effect=0.1))]
    found = gate.Report(**{**usual, "rows": rows, "seconds": 1.0, "planned_s": 1.0, **fields})
    folder.mkdir(parents=True)
    (folder / gate.REPORT).write_bytes(messages.encode(found))
    return found


def test_rows_have_keys_in_order_and_whole_records(tmp_path: Path) -> None:
    """The last record of a cell counts, in the place of its first; records keep their samples."""
    again = replace(A, seconds=2.0)
    evidence = gather([run_of(tmp_path / "run", A, B, again)])
    assert [(each.key, each.model, each.seconds) for each in evidence.rows] == [("c1", "mlp", 2.0), ("c2", "small_cnn", 1.0)]
    assert evidence.records == {"c1": again, "c2": B}
    assert evidence.shown == evidence.rows
    assert (evidence.problems, evidence.history, evidence.gates) == ([], [], [])


def test_runs_and_folders_of_runs_and_gates_are_read_once(tmp_path: Path) -> None:
    """A folder beside its own run, and a journal by its name: the records are the same."""
    run_of(tmp_path / "runs" / "1", A)
    run_of(tmp_path / "runs" / "2", replace(B, session="two"))
    found = a_gate(tmp_path / "runs" / "gate-1")
    one = tmp_path / "runs" / "1"
    evidence = gather(
        [tmp_path / "runs", one, one / NAME, tmp_path / "runs" / "gate-1", tmp_path / "runs" / "gate-1" / gate.REPORT]
    )
    assert [each.key for each in evidence.rows] == ["c1", "c2"]
    assert (evidence.gates, evidence.problems) == ([found], [])


def test_a_file_of_a_gate_may_have_another_name(tmp_path: Path) -> None:
    found = a_gate(tmp_path / "gate")
    (tmp_path / "gate" / gate.REPORT).rename(tmp_path / "monday.json")
    assert gather([tmp_path / "monday.json"]).gates == [found]


def test_what_is_damaged_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    """One line a kind of damage, with counts; the last line, without an end, may be whole."""
    run = add(
        run_of(tmp_path / "run", A),
        "{broken\n",
        {"schema": SCHEMA, "id": "a"},
        {"schema": 9, "anything": 1},
        {"schema": 9},
        {"schema": 1},
    )
    add(run, messages.encode(B).decode() + "\n", '{"schema":2,"id":"half a li')
    evidence = gather([run])
    assert [each.model for each in evidence.rows] == ["mlp", "small_cnn"]
    torn, damaged, newer, older = evidence.problems
    assert torn.startswith("run: line 8 has no end")
    assert damaged.startswith("run: line 2 and 1 more line like it (3): not a record (")
    assert newer.startswith(f"run: line 4 and 1 more line like it (5): expected a record of schema {SCHEMA}, got 9; read it with")
    assert older.startswith(f"run: line 6: expected a record of schema {SCHEMA}, got 1")


def test_many_damaged_lines_are_one_problem(tmp_path: Path) -> None:
    (problem,) = gather([add(run_of(tmp_path / "run", A), *["{\n"] * 1000)]).problems
    assert problem.startswith("run: line 2 and 999 more lines like it (3, 4, 5, 6, 7, 8, 9, 10, ...): not a record")


def test_damaged_samples_are_found_in_the_second_pass(tmp_path: Path) -> None:
    """They are not looked at where rows are made; what cannot be shown whole is no row."""
    odd = messages.plain(B)
    odd["latency"]["model"]["samples_s"][1] = "fast"
    evidence = gather([add(run_of(tmp_path / "run", A), odd)])
    assert [each.key for each in evidence.rows] == list(evidence.records) == ["c1"]
    (problem,) = evidence.problems
    assert problem.startswith("run: line 2: not a record (Expected `float`, got `str`")


def test_what_cannot_be_opened_or_is_empty_or_unfinished_is_said(tmp_path: Path) -> None:
    run_of(tmp_path / "a", A)
    run_of(tmp_path / "empty")
    (tmp_path / "folder" / NAME).mkdir(parents=True)
    a_gate(tmp_path / "gate-broken")
    (tmp_path / "gate-broken" / gate.REPORT).write_text("{}")
    (tmp_path / "gate-going-on").mkdir()
    (tmp_path / "gate-going-on" / gate.JOURNAL).write_text("")
    evidence = gather([tmp_path])
    assert [each.key for each in evidence.rows] == ["c1"]
    assert evidence.problems[:2] == ["empty: holds no record; its session measured nothing", f"folder: {NAME}: Is a directory"]
    assert evidence.problems[2].startswith("gate-broken: gate.json: not the report of a gate (")
    assert evidence.problems[3] == "gate-going-on: gate.json: the gate has not ended"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_journal_that_must_not_be_read_is_said(tmp_path: Path) -> None:
    (run_of(tmp_path / "run", A) / NAME).chmod(0)
    assert gather([tmp_path / "run"]).problems == [f"run: {NAME}: Permission denied"]


@pytest.mark.parametrize(
    ("name", "got"), [("none", "got nothing, as it is not there"), ("", f"got no {NAME} and no gate.json in it")]
)
def test_a_path_that_holds_nothing_is_refused(tmp_path: Path, name: str, got: str) -> None:
    with pytest.raises(NotStored, match=f"expected a run, a folder of runs, or what a gate has written, {got}"):
        gather([tmp_path / name])


def test_problems_tell_nothing_of_where_a_run_was(tmp_path: Path) -> None:
    evidence = gather([add(run_of(tmp_path / "run", A), "{\n", "{")])
    assert len(evidence.problems) == 2
    assert not [problem for problem in evidence.problems if str(tmp_path) in problem]


def test_a_run_that_was_copied_counts_once(tmp_path: Path) -> None:
    run_of(tmp_path / "a", A, B)
    run_of(tmp_path / "b", replace(A, seconds=3.0))
    evidence = gather([tmp_path / "a", tmp_path / "b"])
    assert [(each.key, each.seconds) for each in evidence.rows] == [("c1", 3.0), ("c2", 1.0)]
    assert evidence.problems == ["b: 1 record of another run stand here again, and count as they are here"]


def test_runs_of_different_machines_are_told_apart(tmp_path: Path) -> None:
    board = Machine(id="b", cpu_model="Cortex-A78AE", cores_allowed=6)
    run_of(tmp_path / "a", A)
    run_of(tmp_path / "b", replace(A, machine=board, session="two"))
    evidence = gather([tmp_path])
    assert [each.machine_id for each in evidence.rows] == ["m", "b"]
    assert evidence.history == [], "one session on each machine has no history"


def test_a_cell_without_samples_or_without_a_latency_is_a_row(tmp_path: Path) -> None:
    none = record_of(cell_of("small_cnn"), latency=latency_of())
    failed = record_of(cell_of("resnet20"), outcome="failed", reason="RMS error 1")
    evidence = gather([run_of(tmp_path / "run", none, failed)])
    assert [(each.measured, each.reason) for each in evidence.rows] == [(True, None), (False, "RMS error 1")]
    assert evidence.problems == []


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    name = "<script>alert('x')</script>|`&\n\"é"
    evidence = gather([run_of(tmp_path / "run", record_of(cell_of(name)))])
    assert evidence.rows[0].model == evidence.records["c1"].cell.model == name


def sessions(folder: Path, cells: int, count: int) -> Path:
    """Runs of so many cells, in so many sessions; the first cell is twice as slow from the sixth session on."""
    for number in range(count):
        at = f"2026-01-{number + 1:02}T00:00:00+00:00"
        medians = [1e-3 * (1 + number % 3 / 500) * (2 if cell == 0 and number >= 5 else 1) for cell in range(cells)]
        found = [row(median, cell=cell_of(batch=1 + n), session=str(number), started_at=at) for n, median in enumerate(medians)]
        run_of(folder / f"{number:02}", *found)
    return folder


def test_history_is_of_cells_with_several_sessions(tmp_path: Path) -> None:
    folder = sessions(tmp_path / "runs", cells=2, count=12)
    run_of(folder / "99", row(cell=cell_of("resnet20"), session="99"))
    evidence = gather([folder])
    assert [(series.cell.split("-")[4], len(series.sessions)) for series, _ in evidence.history] == [("b1", 12), ("b2", 12)]
    assert [[change.first for change in found.changes] for _, found in evidence.history] == [[5], []]
    assert len(evidence.rows) == 25


def test_of_many_series_those_that_may_have_changed_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SERIES", 1)
    evidence = gather([sessions(tmp_path / "runs", cells=3, count=12)])
    assert [series.cell.split("-")[4] for series, _ in evidence.history] == ["b1"]
    (problem,) = evidence.problems
    assert problem.startswith("history: 3 cells were measured by several sessions, and changes are looked for in 1 of them")


def test_of_too_many_rows_some_are_shown_and_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST", 50)
    run = synthetic_runs.write(tmp_path / "run", synthetic_runs.records(synthetic_runs.cells(300), samples=8))
    evidence, again = gather([run]), gather([run])
    assert (len(evidence.rows), len(evidence.records), len(evidence.shown)) == (300, 50, 50)
    assert list(evidence.records) == [each.key for each in evidence.shown] == list(again.records)
    assert all(record.id == each.id for record, each in zip(evidence.records.values(), evidence.shown))
    failed = {each.key for each in evidence.rows if each.outcome != "ok"}
    assert failed and failed <= set(evidence.records)


def test_ten_thousand_variants_of_one_model(tmp_path: Path) -> None:
    found: list[Record] = list(synthetic_runs.records(synthetic_runs.variants_of_one_model(10_000), samples=16))
    evidence = gather([synthetic_runs.write(tmp_path / "run", found)])
    assert len(evidence.rows) == len({each.id for each in evidence.rows}) == 10_000
    assert len(evidence.shown) == report.MOST
    assert "c1" in evidence.records, "the parent of those that are best"
    fastest = min((each for each in evidence.rows if each.measured), key=lambda each: each.image_s or 0.0)
    assert fastest.key in evidence.records
