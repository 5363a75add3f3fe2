"""The fastest correct way: only what is right takes part, and ratios are those of one round."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from plumbline.harness.cell import Cell
from plumbline.harness.messages import Contender
from plumbline.harness.studies import fastest
from tests.conftest import where


def candidate(runtime: str, **fields: object) -> fastest.Candidate:
    return fastest.Candidate(Cell("mlp", "dense", runtime, "fp32", 1, 8, "cpu"), **fields)  # type: ignore[arg-type]


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine is twice as slow in half of the rounds; the ratio does not notice."""
    baseline, ours = [2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 2.0], [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    raced = fastest._raced(candidate("onnxruntime"), Contender(turns_s=ours), baseline)
    assert (raced.speedup, raced.interval, raced.median_s) == (2.0, (2.0, 2.0), 1.0)
    refused = fastest._raced(candidate("onnxruntime"), Contender("wrong"), baseline)
    assert (refused.speedup, refused.reason) == (None, "failed: wrong")
    table = fastest.table([raced, refused]).splitlines()
    assert table[2].split() == ["onnxruntime", "fp32", "1e+03", "2.00x", "2.00-2.00"]
    assert table[-1] == "onnxruntime fp32: failed: wrong"


def test_what_is_raced_can_be_tried_here() -> None:
    cells = list(fastest.Question().candidates("mlp"))
    assert (cells[0].runtime, cells[0].precision) == ("eager", "fp32")
    assert len(cells) == len(set(cells)) > 8
    assert not {"tf32"} & {cell.precision for cell in cells}
    few = list(fastest.Question(runtimes=("onnxruntime",), precisions=("w8",)).candidates("mlp"))
    assert [(cell.runtime, cell.precision) for cell in few] == [("eager", "fp32"), ("onnxruntime", "w8")]


@pytest.mark.slow
def test_it_is_said_on_the_command_line(tmp_path: Path, cache: Path, python: str) -> None:
    asked = ["mlp", "small_cnn", "--runtime", "onnxruntime", "--runtime", "eager", "--precision", "fp32", "--seconds", "0.1"]
    told = subprocess.run(
        [python, "-m", "plumbline.harness", "fastest", *asked],
        capture_output=True,
        text=True,
        **where(tmp_path, cache),
    )
    assert told.returncode == 0, told.stderr
    assert re.search(
        r"^onnxruntime +fp32 +[\d.]+ +[\d.]+x +[\d.]+-[\d.]+ +\S+ +100% +9\d\.\d+% +\+0\.00$", told.stdout, re.MULTILINE
    )
    assert re.search(r"^eager +fp32 +[\d.]+ +1\.00x +1\.00-1\.00", told.stdout, re.MULTILINE)
    assert re.search(r"^mlp +\w+ +fp32", told.stdout, re.MULTILINE)  # the fastest of each at the end
    assert re.search(r"^small_cnn +\w+ +fp32", told.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("resnet2",), "no model 'resnet2' (did you mean"),
        (("mlp", "--data", "no/such/folder"), "--data: expected a folder, got 'no/such/folder'"),
    ],
)
def test_a_model_or_folder_that_does_not_exist(
    tmp_path: Path, cache: Path, python: str, asked: tuple[str, ...], words: str
) -> None:
    told = subprocess.run(
        [python, "-m", "plumbline.harness", "fastest", *asked], capture_output=True, text=True, **where(tmp_path, cache)
    )
    assert told.returncode == 2
    assert words in told.stderr
    assert "Traceback" not in told.stderr
