"""The largest batch that fits: what is tried is as little as a prediction allows, and right whatever it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.harness.cell import Cell
from plumbline.harness.studies.largest import Largest, Sought, Tried, find, line, table
from tests.conftest import where
from tests.records import cell_of

BATCHES = [1, 8, 16, 32, 64, 128]


def found(fits: int, predicted: int | None, outcome: str = "out_of_memory", begin: int | None = None) -> Largest:
    """Search where batches up to one fit."""

    def attempt(cell: Cell) -> Tried:
        return Tried(cell.batch, "ok", 1e9) if cell.batch <= fits else Tried(cell.batch, outcome)

    return find(Sought(cell_of(), predicted, begin), BATCHES, attempt)


ANY = st.one_of(st.none(), st.integers(0, 2000))


@given(fits=st.integers(0, 200), predicted=ANY, begin=ANY)
def test_it_is_the_largest_whatever_was_predicted(fits: int, predicted: int | None, begin: int | None) -> None:
    one = found(fits, predicted, begin=begin)
    assert one.largest == max((batch for batch in BATCHES if batch <= fits), default=None)
    assert len({each.batch for each in one.tried}) == len(one.tried) <= 5


@pytest.mark.parametrize(
    ("fits", "predicted", "tried"), [(40, 40, [32, 64]), (31, 40, [32, 16]), (500, 1024, [128]), (0, 3, [1])]
)
def test_a_good_prediction_takes_two_trials(fits: int, predicted: int, tried: list[int]) -> None:
    assert [one.batch for one in found(fits, predicted).tried] == tried


def test_without_a_prediction_it_begins_where_it_is_told() -> None:
    one = found(40, None, begin=40)
    assert ([each.batch for each in one.tried], one.predicted, one.steps_off) == ([32, 64], None, None)


def test_a_line_says_what_fits_and_what_was_tried() -> None:
    assert line(found(40, 40)) == "mlp dense fp32 at 8 pixels: largest batch 32; 32: 1000 MB, 64: out of memory"
    assert line(found(0, None)) == "mlp dense fp32 at 8 pixels: largest batch none; 1: out of memory"


@pytest.mark.parametrize(("fits", "predicted", "off"), [(40, 33, 0), (40, 20, 1), (0, 9, 2), (128, 4, 5), (40, None, None)])
def test_by_how_many_steps_a_prediction_was_off(fits: int, predicted: int | None, off: int | None) -> None:
    assert found(fits, predicted).steps_off == off


def test_a_batch_that_took_too_long_does_not_fit() -> None:
    assert found(16, None, "timed_out").largest == 16


def test_what_ends_otherwise_ends_the_search_and_is_said() -> None:
    one = find(Sought(cell_of(), 20), BATCHES, lambda cell: Tried(cell.batch, "failed", reason="it is wrong"))
    assert (one.largest, one.known, one.steps_off, [each.batch for each in one.tried]) == (None, False, None, [16])
    assert "none" not in table([one], "simple")
    assert "- mlp dense, batch 16: it is wrong" in table([one], "simple")


def test_where_nothing_fits_it_is_said_at_what() -> None:
    def text(fits: int) -> str:
        def attempt(cell: Cell) -> Tried:
            large = Tried(cell.batch, "out_of_memory", reason="killed for memory during preparing the reference")
            return Tried(cell.batch, "ok", 1e9) if cell.batch <= fits else large

        return table([find(Sought(cell_of()), BATCHES, attempt)], "simple")

    assert "- mlp dense, batch 1: killed for memory during preparing the reference" in text(0)
    assert "- mlp" not in text(8)


@pytest.mark.slow
def test_on_a_stand_in(tmp_path: Path, cache: Path, python: str) -> None:
    """Of a device with 900 MB a small CNN at 224 pixels fits with few pictures, and not with 512; each row is said as it ends."""
    devices = tmp_path / "devices.toml"
    devices.write_text(
        '[device.tiny]\nname = "Tiny"\nkind = "cpu"\nmatches = "Tiny"\nusable_bytes = 9e8\nsource = "made up"\n'
        "[device.tiny.mode.usual]\nflop_per_s = { fp32 = 1e9 }\n"
    )
    how = where(tmp_path, cache)
    told = subprocess.run(
        [
            python, "-m", "plumbline.harness", "ceilings", "squeezenet1_1", "--device", "tiny", "--batch", "1,512",
            "--image-size", "224,64", "--search",
        ],
        capture_output=True,
        text=True,
        **{**how, "env": {**how["env"], "PLUMBLINE_DEVICES": str(devices)}},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert re.search(
        r"^squeezenet1_1 +dense +fp32 +224 +1 +\d+ +[01] +1: \d+ MB, 512: out of memory$", told.stdout, re.MULTILINE
    ), told.stdout
    rows = [row for row in told.stderr.splitlines() if row.startswith("[")]
    assert re.fullmatch(r"\[1/2\] squeezenet1_1 dense fp32 at 224 pixels: .+ \(.+ so far, about .+ left\)", rows[0])
    assert re.fullmatch(r"\[2/2\] squeezenet1_1 dense fp32 at 64 pixels: .+ \(.+ so far\)", rows[1])
