"""Energy in a real cell, by a meter whose truth is known: a file to which this test writes."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from plumbline.harness import journal
from plumbline.harness.meters.power_csv import FILE
from tests.conftest import HOUR_S, command, where


@pytest.mark.slow
def test_a_machine_whose_power_never_changes_has_no_energy_of_an_inference(tmp_path: Path, cache: Path, python: str) -> None:
    """And the cell keeps its other facts."""
    file, ended = tmp_path / "watts.csv", threading.Event()

    def plug() -> None:
        with file.open("w") as rows:
            while not ended.wait(0.05):
                rows.write(f"{time.time():.3f},10.0\n")
                rows.flush()

    thread = threading.Thread(target=plug)
    thread.start()
    session = where(tmp_path, cache)
    session["env"][FILE] = str(file)
    choice = ("--tier", "smoke", "--model", "mlp", "--precision", "fp32", "--runtime", "eager", "--batch", "1", "--target", "cpu")
    try:
        done = subprocess.run(
            command(tmp_path / "run", *choice, python=python), capture_output=True, text=True, timeout=HOUR_S, **session
        )
    finally:
        ended.set()
        thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = journal.read(tmp_path / "run")
    assert record.latency is not None
    assert set(record.latency.energy) == {"power_csv", "rails", "nvml", "rapl"}
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
