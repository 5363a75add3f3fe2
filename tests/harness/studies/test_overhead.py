"""The figures about the suite itself can be taken; what they are is for a quiet machine to say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline.harness import journal
from plumbline.harness.cli import main
from plumbline.harness.meters import Rail
from plumbline.harness.meters.power_csv import FILE, PowerCsv
from plumbline.harness.meters.running import Watch
from plumbline.harness.record import Record
from plumbline.harness.session import matrix
from plumbline.harness.studies import overhead
from tests.box import Clock
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
    watched = (0.02, 0.005, 0.03, ["cpu_time"])  # its interval is not above one per cent as a whole
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
    cost, difference, watched = 0.2, (-0.009, -0.011, -0.006), (0.02, 0.015, 0.03, ["cpu_time"])
    assert main() == 1
    told = capsys.readouterr()
    assert told.out.count("missed") == 4
    assert "over the limit: fixed cost of a cell" in told.err


@pytest.mark.parametrize(("stolen_s", "share"), [(0.0, 0.0), (0.001, 0.05)])
def test_what_meters_take_from_a_workload_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stolen_s: float, share: float
) -> None:
    """A meter is read at most each 20 ms, so a reading that stops a call of 5 ms by a fifth falls into each fourth."""
    clock, owed = Clock(), [0.0]

    def read(self: PowerCsv) -> float:
        owed[0] += stolen_s
        return 10.0

    def call() -> None:
        late_s, owed[0] = owed[0], 0.0
        clock.advance(overhead.WATCHED_S + late_s)

    monkeypatch.setattr(PowerCsv, "open", lambda self: Rail("box", "W", 0.02, 0.1))
    monkeypatch.setattr(PowerCsv, "read", read)
    watch = Watch(5.0, root=tmp_path, clock=clock, sleep=clock.advance, background=clock.background)
    owed[0] = 0.0
    difference, low, high, meters = overhead.beside_meters(call, watch, 6, clock)
    assert difference == pytest.approx(share, abs=0.01)
    assert low <= difference <= high
    assert meters == ["power_csv", "cpu_time"]


def test_the_file_of_a_meter_is_read_and_that_of_the_user_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FILE, "theirs")
    found = overhead._with_a_file(tmp_path / "power.csv").run(lambda: time.sleep(0.005), lambda: None)
    assert found["power_csv"].inferences and found["power_csv"].rail == "external meter"
    assert os.environ[FILE] == "theirs"


def test_what_is_asked_for_is_no_fixed_cost_of_a_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two windows of half a second on a machine with a meter, a minute on one that cools down."""
    asked: list[list[str]] = []

    def measure(run: Path, options: list[str]) -> tuple[float, list[Record]]:
        asked.append(options)
        return 1.0, [record_of(latency=latency_of()), record_of(latency=latency_of())]

    monkeypatch.setattr(overhead, "_measure", measure)
    overhead.fixed_cost(1, tmp_path / "cost")
    for options in asked:
        assert matrix.load(Path(options[1]))["default"].settings["energy_s"] == 0
        assert options[2:] == ["--calm", "0", "--cool", "0"]


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
