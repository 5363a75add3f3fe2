"""Searches for a setting: the grid, what is known of bounds, what a stand-in cannot claim, and one on the command line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.cell import Cell
from plumbline.harness.facts import Bound, Work
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.record import Record
from plumbline.harness.session.matrix import MatrixError
from plumbline.harness.studies import fit
from plumbline.harness.verdicts.recommendation import Question
from tests.conftest import where
from tests.records import cell_of, record_of

AXES: dict[str, list[Any]] = {axis: [] for axis in ("model", "variant", "runtime", "precision", "batch", "image_size", "target")}


def grid(**axes: list[Any]) -> fit.Grid:
    return fit.grid({**AXES, "model": ["mlp"], **axes})


def test_a_grid_is_a_product_that_begins_with_the_plainest() -> None:
    found = grid(runtime=["onnxruntime", "eager"], precision=["fp32"], batch=[1, 8], image_size=[8])
    assert [(cell.runtime, cell.batch) for cell in found.cells] == [
        ("eager", 1),
        ("eager", 8),
        ("onnxruntime", 1),
        ("onnxruntime", 8),
    ]


def test_what_an_axis_does_not_name_is_all_that_runs_here() -> None:
    cells = grid().cells
    assert {cell.batch for cell in cells} == {1}
    assert {"eager", "onnxruntime"} <= {cell.runtime for cell in cells}
    assert "int8-dynamic" in {cell.precision for cell in cells}
    assert "tf32" not in {cell.precision for cell in cells}


def test_what_cannot_be_is_counted_with_its_reason() -> None:
    found = grid(variant=["dense", "prune90+sparse"], runtime=["eager", "onnxruntime"], precision=["fp32"])
    assert len(found.cells) == 3
    assert found.impossible == {"unsupported: sparse layers are run by eager, got onnxruntime": 1}


@pytest.mark.parametrize(
    ("axes", "error", "words"),
    [
        ({"runtime": ["onnxrun"]}, MatrixError, "no runtime 'onnxrun'"),
        ({"batch": [0]}, MatrixError, "expected a whole number from 1, got 0"),
        ({"model": ["resnet2"]}, MatrixError, "no model 'resnet2'"),
        ({"target": ["like:nano"]}, MatrixError, "no device 'nano'"),
        (
            {"runtime": ["onnxruntime"], "variant": ["prune90+sparse"]},
            fit.NoSpace,
            "got none: unsupported: sparse layers are run",
        ),
        ({"target": ["cpu", "like:jetson-nano"]}, fit.NoSpace, "expected one target"),
        (
            {"runtime": ["eager"], "precision": ["int8-static"]},
            fit.NoSpace,
            "no runtime that is there knows one of the precisions",
        ),
    ],
)
def test_a_grid_in_which_nothing_can_be_tried(axes: dict[str, list[Any]], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        grid(**axes)


def test_a_stand_in_decides_memory_and_accuracy_and_no_speed() -> None:
    asked = fit.Asked(AXES, {"p99": 33e-3, "memory": 2e9, "energy": 1e-3})
    question, unclaimed = fit.question_of(asked, "like:jetson-nano")
    assert (question.limits, question.by, unclaimed) == ({"memory": 2e9}, ("memory",), ["p99", "energy"])
    accurate, _ = fit.question_of(fit.Asked(AXES, {"accuracy": 0.7}), "like:jetson-nano")
    assert accurate.by == ("accuracy", "memory")
    assert "disturbed" in question.allowed  # its latencies say that they are of another device
    with pytest.raises(fit.NoSpace, match="like:jetson-nano claims no speed and no energy; expected --by accuracy or memory"):
        fit.question_of(fit.Asked(AXES, {"p99": 33e-3}, by=["throughput"]), "like:jetson-nano")
    assert fit.question_of(asked, "cpu") == (Question(dict(asked.limits), ("throughput",), ()), [])


def measured(bound: Bound, **axes: Any) -> tuple[Cell, Record]:
    cell = cell_of("mlp", image_size=8, **axes)
    return cell, record_of(cell, bound=bound)


def test_samples_of_p99_come_on_top_of_the_time_and_on_no_stand_in() -> None:
    asked = fit.Asked(AXES, {"p99": 0.5}, time_limit_s=100.0)
    there = asked.settings(fit.question_of(asked, "cpu")[0].limits, [])
    assert (there.p99_within_s, there.time_limit_s) == (0.5, 100.0 + 2 * 662 * 0.5)
    stood_in = asked.settings(fit.question_of(asked, "like:jetson-nano")[0].limits, [])
    assert (stood_in.p99_within_s, stood_in.time_limit_s) == (None, 100.0)


def test_what_is_emulated_is_tried_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(PRECISIONS["bf16"]), "emulated", lambda self, *_: self.name == "bf16")
    asked = {"runtime": ["eager"], "precision": ["fp32", "bf16"]}
    assert {cell.precision for cell in grid(**asked).cells} == {"fp32"}
    allowed = fit.grid({**AXES, "model": ["mlp"], **asked}, ["emulated"])
    assert {cell.precision for cell in allowed.cells} == {"fp32", "bf16"}


def test_bounds_follow_from_a_cell_that_was_measured() -> None:
    """1e9 MACs a second: of 2 pictures 2e6 MACs took 2 ms, so 8 take 8; and a dense net at 28 pixels what its formula says."""
    bounds = fit.Bounds()
    assert bounds.least_s(cell_of("mlp", batch=8, image_size=8)) is None
    work = Work("fp32", 2_000_000, 2e6, 400)
    bounds.learn(*measured(Bound(2e-3, work=work, macs_per_s=1e9, bytes_per_s=1e9, cache_bytes=1000), batch=2))
    assert bounds.least_s(cell_of("mlp", batch=8, image_size=8)) == pytest.approx(8e-3)
    assert bounds.least_s(cell_of("mlp", runtime="onnxruntime", batch=8, image_size=8)) == pytest.approx(8e-3)
    assert bounds.least_s(cell_of("mlp", precision="bf16", batch=8, image_size=8)) is None  # its rate is not known
    assert bounds.least_s(cell_of("mlp", variant="filter50", batch=8, image_size=8)) is None  # nor what is left of it
    larger = bounds.least_s(cell_of("mlp", batch=1, image_size=28))
    assert larger == pytest.approx(max(2_910_208 / 1e9, (4 * 2_913_290 - 1000) / 1e9), rel=0.01)


def test_bounds_of_a_stand_in_are_those_of_its_device() -> None:
    """VGG-16 at batch 64 takes 1.7 s at least on a Jetson Nano: 15.5 GMAC a picture, 118 GMAC/s, and Winograd's algorithm."""
    least = fit.Bounds().least_s(cell_of("vgg16", batch=64, image_size=224, target="like:jetson-nano"))
    assert least is not None
    assert 1.0 < least < 64 * 15.5 / 118


def test_what_is_said_of_a_search() -> None:
    found = fit.Found(
        None,
        Question(),
        fit.Grid([cell_of("mlp", batch=batch) for batch in range(1, 11)], {"unsupported: it cannot": 2}),
        {"ok": 3, "out_of_memory": 1},
        {"an inference takes too long": 4},
        {"p99": (4, 0.04)},
        2,
        90.0,
        ["p99", "energy"],
    )
    assert list(fit.summary(found)) == [
        "4 of 10 settings tried in 1 min 30 s, 1 out of memory; 6 did not have to be:",
        "- 4 ruled out: an inference takes too long",
        "- 2 not near the best: in more than one axis, by more than two steps, or in a value that was far worse",
        "- 2 more cannot be: unsupported: it cannot",
        "- p99: the device decides it, no stand-in; what cannot keep it at the device's peak rates is ruled out",
        "- energy: the device decides it, no stand-in; nothing here says it",
    ]


def fitted(tmp_path: Path, cache: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "plumbline.harness", "fit", *arguments], capture_output=True, text=True, **where(tmp_path, cache)
    )


@pytest.mark.slow
def test_it_is_said_on_the_command_line_and_goes_on_where_it_was(tmp_path: Path, cache: Path, python: str) -> None:
    run = str(tmp_path / "run")
    asked = ["mlp", "--runtime", "eager", "--precision", "fp32", "--batch", "1,2,4", "--image-size", "8", "--seconds", "0.1"]
    told = fitted(tmp_path, cache, python, *asked, "--max-latency-ms", "1000", "--min-top1", "0.5", "--run-dir", run)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^3 of 3 settings tried in ", told.stdout, re.MULTILINE)
    assert re.search(r"^recommended: mlp-dense-eager-fp32-b\d-8px$", told.stdout, re.MULTILINE)
    assert "<- the best so far" in told.stdout
    again = fitted(tmp_path, cache, python, *asked, "--max-latency-ms", "1000", "--min-top1", "0.5", "--resume", run)
    assert again.returncode == 0, again.stderr
    assert "[4]" not in again.stdout
    assert f"kept in {run}; plumbline report" in told.stdout
    nothing = fitted(tmp_path, cache, python, *asked, "--max-size-mb", "0.001", "--run-dir", str(tmp_path / "other"))
    assert nothing.returncode == 1, nothing.stderr
    assert re.search(r"^1 of 3 settings tried", nothing.stdout, re.MULTILINE)
    assert "- 2 ruled out: at another batch it missed the limit of size" in nothing.stdout
    assert re.search(r"^- size kept 2 settings out without a trial; at least \d", nothing.stdout, re.MULTILINE)
    assert "nothing fits" in nothing.stdout
    assert re.search(r"^size ≤ 0\.001 MB +[\d.]+ MB", nothing.stdout, re.MULTILINE)  # relaxed to


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mlp",), "expected --budget NAME, or a limit as --max-p99-ms 33, got none"),
        (("mlp", "--budget", "camera"), "no budget 'camera' (did you mean"),
        (("mlp", "--max-p99-ms", "1", "--resume", "no/such/run"), "holds no run"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, cache: Path, python: str, arguments: tuple[str, ...], words: str) -> None:
    told = fitted(tmp_path, cache, python, *arguments)
    assert told.returncode == 2
    assert words in told.stderr
    assert "Traceback" not in told.stderr
