"""Energy in a real cell, by a meter whose truth is known: a file to which this test writes."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from plumbline.harness import journal
from plumbline.harness.meters.power_csv import FILE
from plumbline.harness.session.client import PROBE, CellProbe, Connection
from plumbline.harness.settings import Settings
from tests.conftest import HOUR_S, command, where
from tests.records import cell_of, replace


class Plug:
    """A meter that writes `watts` into a file, twenty times a second."""

    def __init__(self, file: Path) -> None:
        self.file, self.watts = file, 10.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with self.file.open("w") as rows:
            while not self._ended.wait(0.05):
                rows.write(f"{time.time():.3f},{self.watts}\n")
                rows.flush()

    def __enter__(self) -> Plug:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def test_a_process_that_takes_turns_says_what_they_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings, python: str
) -> None:
    """At rest the meter shows 10 W, while it runs 30 W: an inference takes 20 W times its duration."""
    file = tmp_path / "watts.csv"
    monkeypatch.setenv(FILE, str(file))
    with Plug(file) as plug, (tmp_path / "probe.log").open("wb") as log:
        connection = Connection(log, command=[python, *PROBE[1:]])
        probe = CellProbe(connection, cell_of(), replace(settings, accuracy_images=0))
        probe.turn(1)
        plug.watts = 30.0
        found = probe.energy()["power_csv"]
        probe.close()
        connection.close()
    assert found.idle_w == pytest.approx(10.0)
    assert found.seconds is not None and found.inferences is not None and found.joules is not None
    assert found.joules == pytest.approx(20.0 * found.seconds / found.inferences, rel=0.1), "a value of before may be in it"


def test_a_meter_that_stops_half_way_leaves_a_cell_its_other_facts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings, python: str
) -> None:
    file = tmp_path / "watts.csv"
    monkeypatch.setenv(FILE, str(file))
    with (tmp_path / "probe.log").open("wb") as log:
        with Plug(file):
            connection = Connection(log, command=[python, *PROBE[1:]])
            probe = CellProbe(connection, cell_of(), replace(settings, accuracy_images=0))
            probe.turn(1)
        time.sleep(1)  # its last row is old then
        found = probe.energy()["power_csv"]
        weights = probe.memory()["weights"].value
        probe.close()
        connection.close()
    assert found.idle_w == pytest.approx(10.0)
    assert (found.joules, found.running_w) == (None, None)
    assert "readings failed: PLUMBLINE_POWER_CSV: the last row is" in (found.unavailable or "")
    assert weights


@pytest.mark.slow
def test_a_machine_whose_power_never_changes_has_no_energy_of_an_inference(tmp_path: Path, cache: Path, python: str) -> None:
    """And the cell keeps its other facts."""
    file = tmp_path / "watts.csv"
    session = where(tmp_path, cache)
    session["env"][FILE] = str(file)
    choice = ("--tier", "smoke", "--model", "mlp", "--precision", "fp32", "--runtime", "eager", "--batch", "1", "--target", "cpu")
    with Plug(file):
        done = subprocess.run(
            command(tmp_path / "run", *choice, python=python), capture_output=True, text=True, timeout=HOUR_S, **session
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = journal.read(tmp_path / "run")
    assert record.latency is not None
    assert set(record.latency.energy) == {"power_csv", "rails", "nvml", "rapl", "codecarbon"}
    assert set(record.latency.telemetry) == {"cpu_time"}, "energy has a place of its own"
    energy = record.latency.energy["power_csv"]
    assert energy.rail == "external meter"
    assert energy.running_w == pytest.approx(10.0)
    assert energy.idle_w == pytest.approx(10.0)
    assert len(energy.samples) >= 10
    assert (energy.inferences or 0) > 0
    assert energy.joules is None
    assert "an inference is lost in what the machine takes anyway" in (energy.unavailable or "")
    assert "lost in what the machine takes anyway" in done.stdout, "the table says why there is no figure"
