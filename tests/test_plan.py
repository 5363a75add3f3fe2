"""How long a run will take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cell import Cell
from harness.machine import cpu_flags
from harness.plan import Clock, describe, duration
from harness.precisions import PRECISIONS
from harness.settings import Settings


def cell(model: str = "mlp", batch: int = 1, size: int = 8, precision: str = "fp32") -> Cell:
    return Cell(model, "dense", "eager", precision, batch, size, "cpu")


def test_an_earlier_run_is_believed(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01").mkdir()
    record = {"cell": cell().as_json(), "outcome": "ok", "seconds": 12.5}
    (tmp_path / "2026-01-01" / "records.jsonl").write_text(json.dumps(record) + "\n")
    clock = Clock(Settings(), tmp_path)
    assert clock.estimate(cell()) == 12.5
    assert "1 from an earlier run, 1 guessed" in describe("t", [cell(), cell(batch=2)], clock)


def test_a_guess_grows_with_the_work_and_is_corrected_by_what_it_took(tmp_path: Path) -> None:
    clock = Clock(Settings(), tmp_path)
    small, large = clock.estimate(cell()), clock.estimate(cell("resnet50", batch=64, size=224))
    assert 0 < small < large
    clock.ran(cell("resnet50", batch=64, size=224), 3 * large)
    assert clock.left([cell()]) == pytest.approx(3 * small)


def test_the_impossible_takes_no_time(tmp_path: Path) -> None:
    assert Clock(Settings(), tmp_path).estimate(cell("resnet20", size=9)) == 0


@pytest.mark.skipif(not PRECISIONS["fp16"].emulated("cpu", cpu_flags()), reason="this processor has fp16")
def test_emulated_arithmetic_is_not_sampled_for_long(tmp_path: Path) -> None:
    clock = Clock(Settings(sampling_s=100.0), tmp_path)
    assert clock.estimate(cell(precision="fp16")) < clock.estimate(cell())


@pytest.mark.parametrize(("seconds", "shown"), [(0.25, "0.2 s"), (59.6, "60 s"), (61, "1 min"), (3600, "60 min"), (9000, "2.5 h")])
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
