"""The figures about the suite itself can be taken; what they are is for a quiet machine to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline.harness import journal
from plumbline.harness.cli import main
from plumbline.harness.studies import overhead
from tests.conftest import where
from tests.records import latency_of, prepared_of, record_of, replace


@pytest.mark.slow
def test_every_figure_is_printed(tmp_path: Path, cache: Path, python: str) -> None:
    process = subprocess.run(
        [python, "-m", "plumbline.harness", "overhead", "--quick"], capture_output=True, text=True, **where(tmp_path, cache)
    )
    assert process.returncode == 0, process.stderr
    for figure in (
        "fixed cost of a cell",
        "timed iteration",
        "1 ms against",
        "30 ms against",
        "collecting 1,000 cells",
        "all meters on against all off",
        "counted samples",
    ):
        assert figure in process.stdout


def test_a_missed_limit_is_named_and_no_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["plumbline", "overhead", "--run", "run"])
    watched = (0.02, 0.005, 0.03)  # its interval is not above one per cent as a whole
    cost, difference = 0.04, (0.006, 0.004, 0.008)  # its interval does not lie beyond half a per cent
    monkeypatch.setattr(overhead, "fixed_cost", lambda *_: cost)
    monkeypatch.setattr(overhead, "iteration_cost", lambda *_: 1e-7)
    monkeypatch.setattr(overhead, "collection", lambda cells: (1.0, 10**8))
    monkeypatch.setattr(overhead, "against_timer", lambda *_: difference)
    monkeypatch.setattr(overhead, "watched", lambda *_: watched)
    monkeypatch.setattr(overhead, "lock_machine", lambda wait, who: SimpleNamespace(release=lambda: None))
    monkeypatch.setattr(journal, "read", lambda run: [])
    monkeypatch.setattr(overhead, "shares", lambda *_: {})
    assert main() == 0
    cost, difference, watched = 0.2, (-0.009, -0.011, -0.006), (0.02, 0.015, 0.03)
    assert main() == 1
    told = capsys.readouterr()
    assert told.out.count("missed") == 4
    assert "over the limit: fixed cost of a cell" in told.err


def test_shares_add_up_to_the_whole() -> None:
    record = record_of(
        seconds=10.0,
        latency=latency_of(1.0, samples=2, warmup_s=0.5),
        steps_s={"agreement": 1.0, "prepared": 2.0},
        prepared=prepared_of(seconds=0.5),
    )
    found = overhead.shares([record, replace(record, latency=None, seconds=2.0)])
    assert sum(found.values()) == pytest.approx(1)
    assert found["counted samples"] == pytest.approx(4 / 12)
    assert found["warm-up"] == pytest.approx(1 / 12)
    assert found["checks"] == pytest.approx(2 / 12)


def test_the_table_of_a_run_that_is_not_there(tmp_path: Path, python: str) -> None:
    process = subprocess.run([python, "-m", "plumbline.harness", "table", str(tmp_path)], capture_output=True, text=True)
    assert process.returncode == 2
    assert "holds no run" in process.stderr
