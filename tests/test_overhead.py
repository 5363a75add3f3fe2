"""The figures about the suite itself can be taken; what they are is for a quiet machine to say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import overhead
from tests.conftest import where


@pytest.mark.slow
def test_every_figure_is_printed(tmp_path: Path, cache: Path, python: str) -> None:
    process = subprocess.run(
        [python, "-m", "harness", "overhead", "--quick"], capture_output=True, text=True, **where(tmp_path, cache)
    )
    assert process.returncode == 0, process.stderr
    for figure in (
        "fixed cost of a cell",
        "timed iteration",
        "1 ms against",
        "30 ms against",
        "collecting 1,000 cells",
        "counted samples",
    ):
        assert figure in process.stdout


def test_shares_add_up_to_the_whole() -> None:
    timing = {"samples_s": [1.0, 1.0], "warmup_s": 0.5}
    record = {
        "seconds": 10.0,
        "latency": {"model": timing, "with_transfer": timing},
        "steps_s": {"agreement": 1.0, "prepared": 2.0},
    }
    record["building_s"] = 0.5
    found = overhead.shares([record, {**record, "latency": None, "seconds": 2.0}])
    assert sum(found.values()) == pytest.approx(1)
    assert found["counted samples"] == pytest.approx(4 / 12)
    assert found["warm-up"] == pytest.approx(1 / 12)
    assert found["checks"] == pytest.approx(2 / 12)


def test_the_table_of_a_run_that_is_not_there(tmp_path: Path, python: str) -> None:
    process = subprocess.run([python, "-m", "harness", "table", str(tmp_path)], capture_output=True, text=True)
    assert process.returncode == 2
    assert "holds no run" in process.stderr
