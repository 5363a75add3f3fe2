"""The largest batch that fits: what is tried is as little as a prediction allows, and right whatever it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.harness.studies.largest import Largest, Tried, find, table
from tests.conftest import where
from tests.records import cell_of

BATCHES = [1, 8, 16, 32, 64, 128]


def found(fits: int, predicted: int | None, outcome: str = "out_of_memory") -> Largest:
    """Search where batches up to one fit."""
    return find(cell_of(), BATCHES, lambda cell: Tried(cell.batch, "ok" if cell.batch <= fits else outcome, 1e9), predicted)


@given(fits=st.integers(0, 200), predicted=st.one_of(st.none(), st.integers(0, 2000)))
def test_it_is_the_largest_whatever_was_predicted(fits: int, predicted: int | None) -> None:
    one = found(fits, predicted)
    assert one.largest == max((batch for batch in BATCHES if batch <= fits), default=None)
    assert len({each.batch for each in one.tried}) == len(one.tried) <= 5


@pytest.mark.parametrize(
    ("fits", "predicted", "tried"), [(40, 40, [32, 64]), (31, 40, [32, 16]), (500, 1024, [128]), (0, 3, [1])]
)
def test_a_good_prediction_takes_two_trials(fits: int, predicted: int, tried: list[int]) -> None:
    assert [one.batch for one in found(fits, predicted).tried] == tried


@pytest.mark.parametrize(("fits", "predicted", "off"), [(40, 33, 0), (40, 20, 1), (0, 9, 2), (128, 4, 5), (40, None, None)])
def test_by_how_many_steps_a_prediction_was_off(fits: int, predicted: int | None, off: int | None) -> None:
    assert found(fits, predicted).steps_off == off


def test_a_batch_that_took_too_long_does_not_fit() -> None:
    assert found(16, None, "timed_out").largest == 16


def test_what_ends_otherwise_ends_the_search_and_is_said() -> None:
    one = find(cell_of(), BATCHES, lambda cell: Tried(cell.batch, "failed", reason="it is wrong"), 20)
    assert (one.largest, one.known, one.steps_off, [each.batch for each in one.tried]) == (None, False, None, [16])
    assert "none" not in table([one], "simple")
    assert "- mlp dense, batch 16: it is wrong" in table([one], "simple")


@pytest.mark.slow
def test_on_a_stand_in(tmp_path: Path, cache: Path, python: str) -> None:
    """Of a device with 900 MB a small CNN at 224 pixels fits with few pictures, and not with 512."""
    devices = tmp_path / "devices.toml"
    devices.write_text(
        '[device.tiny]\nname = "Tiny"\nkind = "cpu"\nmatches = "Tiny"\nusable_bytes = 9e8\nsource = "made up"\n'
        "[device.tiny.mode.usual]\nflop_per_s = { fp32 = 1e9 }\n"
    )
    how = where(tmp_path, cache)
    told = subprocess.run(
        [
            python, "-m", "plumbline.harness", "ceilings", "squeezenet1_1", "--device", "tiny", "--batch", "1,512", "--search",
        ],
        capture_output=True,
        text=True,
        **{**how, "env": {**how["env"], "PLUMBLINE_DEVICES": str(devices)}},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert re.search(
        r"^squeezenet1_1 +dense +fp32 +224 +1 +\d+ +[01] +1: \d+ MB, 512: out of memory$", told.stdout, re.MULTILINE
    ), told.stdout
