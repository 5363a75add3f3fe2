"""How long a run will take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cell import Cell
from harness.machine import cpu_flags, cpu_model
from harness.plan import Estimate, describe
from harness.precisions import PRECISIONS
from harness.settings import Settings
from models import find
from models.recipes import Task, duration
from models.weights import WEIGHTS, folder


def cell(model: str = "mlp", batch: int = 1, size: int = 8, precision: str = "fp32") -> Cell:
    return Cell(model, "dense", "eager", precision, batch, size, "cpu")


def of(one: Cell, tmp_path: Path, settings: Settings = Settings()) -> float:  # noqa: B008 - frozen
    return Estimate([one], [], settings, tmp_path).of(one)


def earlier(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "2026-01-01").mkdir()
    kept = {"cell": cell().as_json(), "outcome": "ok", "seconds": 12.5, "latency": {}, "settings": settings.without_paths()}
    kept["machine"] = {"cpu_model": cpu_model()}
    (tmp_path / "2026-01-01" / "records.jsonl").write_text(json.dumps(kept) + "\n")


def test_an_earlier_run_is_believed(tmp_path: Path) -> None:
    earlier(tmp_path, Settings())
    assert of(cell(), tmp_path) == 12.5
    assert "1 from an earlier run, 1 guessed" in describe("t", [cell(), cell(batch=2)], [], Settings(), tmp_path)


def test_an_earlier_run_with_other_settings_is_not(tmp_path: Path) -> None:
    earlier(tmp_path, Settings(sampling_s=9.0))
    assert of(cell(), tmp_path) != 12.5


def test_a_guess_grows_with_the_work_and_is_corrected_by_what_it_took(tmp_path: Path) -> None:
    small, large = cell("resnet20", size=32), cell("resnet50", batch=64, size=224)
    estimate = Estimate([large, small], [], Settings(), tmp_path)
    assert 0 < estimate.of(small) < estimate.of(large)
    assert estimate.left() == pytest.approx(estimate.of(small) + estimate.of(large))
    estimate.ran(large, 3 * estimate.of(large))
    assert estimate.left() == pytest.approx(3 * estimate.of(small))


def test_the_accuracy_is_paid_for_once(tmp_path: Path) -> None:
    (tmp_path / "cifar10_resnet20.safetensors").touch()
    settings = Settings(data=tmp_path, weights=tmp_path, accuracy_images=None)
    first, second = cell("resnet20", batch=1, size=32), cell("resnet20", batch=2, size=32)
    estimate = Estimate([first, second], [], settings, tmp_path)
    assert estimate.of(first) > estimate.of(second) + 5
    without = cell("resnet32", batch=1, size=32)  # and not at all by a model that has no weights
    assert of(without, tmp_path, settings) < estimate.of(first) - 5


def test_a_variant_costs_its_trainings_and_the_race_with_its_parent(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path)
    dense, pruned, tuned = (replace(cell(), variant=variant) for variant in ("dense", "prune50", "prune50+tune+share+tune"))
    costs = [Estimate([one], [], settings, tmp_path).of(one) for one in (dense, pruned, tuned)]
    training = 60 * find("mlp").recipe(8).minutes
    assert costs[0] + 3 < costs[1] < costs[2] - 0.3 * training
    both = Estimate([pruned, tuned], [], settings, tmp_path)
    assert both.of(tuned) == pytest.approx(costs[2] - training)  # that of the dense net is paid for once


def test_what_is_only_counted_takes_hardly_any_time(tmp_path: Path) -> None:
    large = cell("vit_l_16", size=224)
    estimate = Estimate([cell()], [large], Settings(), tmp_path)
    assert 0 < estimate.of(large) < 1 < of(large, tmp_path)
    text = describe("t", [cell()], [large], Settings(), tmp_path)
    assert "1 cells to measure" in text
    assert "vit_l_16 at 224 pixels" in text


def test_the_impossible_takes_no_time(tmp_path: Path) -> None:
    assert of(cell("resnet20", size=9), tmp_path) == 0


@pytest.mark.skipif(not PRECISIONS["fp16"].emulated("cpu", cpu_flags()), reason="this processor has fp16")
def test_emulated_arithmetic_is_not_sampled_for_long(tmp_path: Path) -> None:
    long = Settings(sampling_s=100.0, min_samples=1_000_000)
    assert of(cell(precision="fp16"), tmp_path, long) < of(cell(), tmp_path, long)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.25, "0.2 s"), (59.6, "60 s"), (61, "1 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_training_is_counted_once_and_not_where_it_was_done(tmp_path: Path) -> None:
    """The MNIST study's recipe takes half a minute for its net, and thirteen times as long for one with 13 times the MACs."""
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    settings = Settings(data=tmp_path / "data", cache=tmp_path / "cache", train_minutes=90)
    wide = "mlp+recipe=study+width=4096"
    with_training = Estimate([cell(wide, 8, 28), cell(wide, 1, 28)], [], settings, tmp_path)
    assert with_training.of(cell(wide, 8, 28)) > 60 * 6 > 60 > with_training.of(cell(wide, 1, 28))
    model = find(wide)
    place = folder(Task(model, 28, model.recipe(28)), tmp_path / "cache")
    place.mkdir(parents=True)
    (place / WEIGHTS).touch()
    assert of(cell(wide, 8, 28), tmp_path, settings) < 60
    assert of(cell(wide, 8, 28), tmp_path, replace(settings, cache=tmp_path, train_minutes=1)) < 60
