"""`plumbline compare` on runs and on files of pytest-benchmark, as a person calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.cli import main
from plumbline.harness.journal import Journal
from plumbline.harness.record import Record
from plumbline.harness.studies import stored
from tests.harness.verdicts.test_comparison import row
from tests.records import cell_of


def plumbline(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plumbline", *map(str, words)])
        return main()


def run_of(folder: Path, *records: Record) -> Path:
    journal = Journal(folder)
    for record in records:
        journal.append(record)
    journal.close()
    return folder


def benchmark_json(path: Path, median: float, **changes: Any) -> Path:
    """As pytest-benchmark 5.3 writes it, less what is not read."""
    stats = {"median": median, "iqr": 0.02 * median, "rounds": 100, "min": 1, "iterations": 1, **changes.pop("stats", {})}
    benchmark = {"fullname": "test_x.py::test_a[1]", "stats": stats, "options": {"disable_gc": False}, "extra_info": {}}
    whole = {
        "machine_info": {"node": path.name, "python_version": "3.11.7", "cpu": {"brand_raw": "X", "hz_actual": path.name}},
        "commit_info": {"id": "abc", "dirty": False, "branch": "main"},
        "benchmarks": [benchmark],
        "datetime": "2026-11-27T10:00:00+00:00",
        "version": "5.3.1",
        **changes,
    }
    path.write_text(json.dumps(whole))
    return path


def test_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = run_of(tmp_path / "a", row(), row(cell=cell_of("small_cnn")), row(cell=cell_of("resnet20")))
    b = run_of(
        tmp_path / "b", row(2e-3), row(cell=cell_of("small_cnn"), outcome="failed", reason="so"), row(cell=cell_of(batch=8))
    )
    assert plumbline("compare", a, b) == 0
    told = capsys.readouterr().out
    told = told.replace("\n", " ")
    for words in (
        "1 slower, 1 incomparable", "2.000", "incomparable: B: failed: so (1)", "only in A (1): - resnet20",
        "only in B (1): - mlp", "22% was measured", "two revisions with `plumbline gate`",
    ):  # fmt: skip
        assert words in told


def test_where_nothing_can_be_compared(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", row()), run_of(tmp_path / "b", row(cell=cell_of("small_cnn")))
    assert plumbline("compare", a, b) == 3
    assert plumbline("compare", a, b, "--ignore", "model", "--markdown") == 0


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, file = run_of(tmp_path / "a", row()), benchmark_json(tmp_path / "x.json", 1.0)
    broken = tmp_path / "broken.json"
    broken.write_text('{"benchmarks": 3}')
    for words, says in (
        ((a, tmp_path / "none"), "holds no run"),
        ((a, broken), "expected the JSON of pytest --benchmark-json"),
        ((a, file), "got one of each"),
        ((file, file, "--ignore", "runtime"), "have no axes"),
        ((a, a, "--ignore", "batch"), "expected some of runtime"),
    ):
        assert plumbline("compare", *words) == 2
        assert says in capsys.readouterr().err


def test_files_of_pytest_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of the host and the clock of the moment are not the machine's; the weaker guarantee is stated."""
    a, b = benchmark_json(tmp_path / "a.json", 1.0), benchmark_json(tmp_path / "b.json", 1.1)
    assert plumbline("compare", a, b) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "1 slower" in told and "know nothing of weights" in told and "normal distribution" in told
    other = benchmark_json(tmp_path / "c.json", 1.1, machine_info={"python_version": "3.12.0", "cpu": {"brand_raw": "X"}})
    assert plumbline("compare", a, other) == 3
    assert "python_version 3.11.7 -> 3.12.0" in capsys.readouterr().out


def test_the_interval_of_a_file_is_that_of_its_samples_where_it_has_them(tmp_path: Path) -> None:
    """Of 1 to 99 the 40th and the 60th; without, 1.82 iqr / sqrt(n) to either side, and none of fewer than six rounds."""
    samples = benchmark_json(tmp_path / "a.json", 50.0, stats={"data": list(range(1, 100))})
    assert stored.read(samples).rows[0].interval_s == (40, 60)
    assert stored.read(benchmark_json(tmp_path / "b.json", 1.0)).rows[0].interval_s == pytest.approx((0.99636, 1.00364), abs=1e-5)
    assert stored.read(benchmark_json(tmp_path / "c.json", 1.0, stats={"rounds": 5})).rows[0].interval_s is None


def sessions(folder: Path, *medians: float) -> Path:
    """A folder of runs, of two cells; the first has these medians, the second is steady, and missing from the last run."""
    for number, median in enumerate(medians):
        fields: dict[str, Any] = {
            "session": str(number),
            "started_at": f"2026-01-{number + 1:02}T00:00:00+00:00",
            "revision": f"r{number}",
        }
        rows = [row(median, **fields), row(1e-3 * (1 + number % 3 / 500), cell=cell_of("small_cnn"), **fields)]
        run_of(folder / str(number), *rows[: 2 - (number == len(medians) - 1)])
    return folder


def test_history_names_the_revision_and_writes_what_otava_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = [1.001, 0.999, 1.002, 1.0, 0.998, 1.001, 1.0, 0.999, 1.002, 1.001, 1.0, 0.998]
    folder = sessions(tmp_path / "runs", *(1e-3 * each * (1.1 if number >= 6 else 1) for number, each in enumerate(noise)))
    assert plumbline("history", folder, "--csv", tmp_path / "medians.csv") == 0
    told = capsys.readouterr()
    assert "r5 -> r6" in told.out and "+10.0%" in told.out and "2026-01-07" in told.out and "6 -> 6" in told.out
    assert "no change found (1):\n- small_cnn" in told.out
    assert "without small_cnn-dense-eager-fp32-b1-8px-cpu, which some of its sessions lack" in told.err
    lines = (tmp_path / "medians.csv").read_text().splitlines()
    assert lines[0] == "time,commit,session,mlp-dense-eager-fp32-b1-8px-cpu"
    assert lines[1].startswith("2026-01-01T00:00:00+00:00,r0,0,0.001001") and len(lines) == 13


def test_history_of_what_was_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plumbline("history", run_of(tmp_path / "a", row(outcome="failed", latency=None))) == 0
    assert "no cell of these runs was timed" in capsys.readouterr().out


def test_history_of_what_is_short_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plumbline("history", sessions(tmp_path / "runs", 1e-3, 2e-3)) == 0
    assert "too short (2)" in capsys.readouterr().out
    assert plumbline("history", tmp_path) == 2
    assert "expected a run, or a folder of runs" in capsys.readouterr().err
    assert plumbline("history", tmp_path / "runs", "--false-points", "2") == 2
