"""How long a run will take."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from plumbline.harness import messages
from plumbline.harness.cell import Cell
from plumbline.harness.machine import Machine, cpu_flags, cpu_model
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.session import matrix, plan
from plumbline.harness.session.plan import Estimate, describe, quickest_first
from plumbline.harness.settings import Settings
from plumbline.harness.speed import Speed, load, save
from plumbline.models import find
from plumbline.models.training.recipes import Task
from plumbline.models.weights.weights import WEIGHTS, folder
from plumbline.texts import duration
from tests.records import latency_of, prepared_of, record_of, replace


def cell(model: str = "mlp", batch: int = 1, size: int = 8, precision: str = "fp32") -> Cell:
    return Cell(model, "dense", "eager", precision, batch, size, "cpu")


def of(one: Cell, tmp_path: Path, settings: Settings = Settings()) -> float:  # noqa: B008 - frozen
    return Estimate([one], [], settings, tmp_path).of(one)


def earlier(tmp_path: Path, settings: Settings, one: Cell | None = None, **more: object) -> None:
    (tmp_path / "2026-01-01").mkdir(exist_ok=True)
    told = {"seconds": 12.5, "latency": latency_of(), "settings": settings.without_paths(), "prepared": prepared_of(), **more}
    kept = record_of(one or cell(), machine=Machine(cpu_model=cpu_model()), **told)
    with (tmp_path / "2026-01-01" / "records.jsonl").open("ab") as journal:
        journal.write(messages.encode(kept) + b"\n")


def test_an_earlier_run_is_believed(tmp_path: Path) -> None:
    earlier(tmp_path, Settings())
    assert of(cell(), tmp_path) == 12.5
    assert "1 from an earlier run, 1 guessed" in describe("t", [cell(), cell(batch=2)], [], Settings(), tmp_path)


def test_what_an_earlier_run_built_is_paid_for_where_it_is_gone(tmp_path: Path) -> None:
    one, settings = replace(cell("resnet20", size=32), runtime="onnxruntime"), Settings(cache=tmp_path / "cache")
    earlier(tmp_path, settings, one, prepared=prepared_of(artefact={"cached": False, "seconds": 10.0}))
    gone = of(one, tmp_path, settings)
    (tmp_path / "cache" / "artefacts" / "resnet20-32px-onnxruntime-fp32-0123456789ab").mkdir(parents=True)
    assert 2.5 < of(one, tmp_path, settings) < 3 < gone - 3


def test_a_net_is_exported_once_for_all_precisions(tmp_path: Path) -> None:
    first, second = (
        replace(cell("resnet50", size=224, precision=name), runtime="onnxruntime") for name in ("fp32", "int8-static")
    )
    settings = Settings(cache=tmp_path)
    alone = of(second, tmp_path, settings)
    assert Estimate([first, second], [], settings, tmp_path).of(second) < alone - 5


def test_an_earlier_run_is_not_soon_taken_for_wrong(tmp_path: Path) -> None:
    """The first cell of a second run finds what the first one had to make, and takes less: that says nothing of the others."""
    earlier(tmp_path, Settings(), cell())
    earlier(tmp_path, Settings(), cell(batch=2))
    estimate = Estimate([cell(), cell(batch=2)], [], Settings(), tmp_path)
    first = estimate.of(cell())
    estimate.ran(cell(), 0.0)
    assert estimate.left() > 0.6 * first


def test_an_earlier_run_with_other_settings_is_not(tmp_path: Path) -> None:
    earlier(tmp_path, Settings(sampling_s=9.0))
    assert of(cell(), tmp_path) != 12.5


def test_a_guess_grows_with_the_work_and_is_corrected_by_what_it_took(tmp_path: Path) -> None:
    small, large = cell("resnet20", size=32), cell("resnet50", batch=64, size=224)
    estimate = Estimate([large, small], [], Settings(), tmp_path)
    assert 0 < estimate.of(small) < estimate.of(large)
    assert estimate.left() == pytest.approx(estimate.of(small) + estimate.of(large))
    estimate.ran(large, 3 * estimate.of(large))
    assert 2 * estimate.of(small) < estimate.left() < 3 * estimate.of(small)  # a few cells say something, and not all


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
    assert costs[0] + 3 <= costs[1] < costs[2] - 0.3 * training
    both = Estimate([pruned, tuned], [], settings, tmp_path)
    assert costs[2] - training - 1 < both.of(tuned) <= costs[2] - training  # that of the dense net is paid for once


def test_what_is_only_counted_takes_hardly_any_time(tmp_path: Path) -> None:
    large = cell("vit_l_16", size=224)
    estimate = Estimate([cell()], [large], Settings(), tmp_path)
    assert 0 < estimate.of(large) < 1 < of(large, tmp_path)
    text = describe("t", [cell()], [large], Settings(), tmp_path)
    assert "1 cell to measure" in text
    assert "vit_l_16 at 224 pixels" in text


def test_the_impossible_takes_no_time(tmp_path: Path) -> None:
    assert of(cell("resnet20", size=9), tmp_path) == 0


@pytest.mark.skipif(not PRECISIONS["fp16"].emulated("cpu", cpu_flags()), reason="this processor has fp16")
def test_emulated_arithmetic_is_not_sampled_for_long(tmp_path: Path) -> None:
    long = Settings(sampling_s=100.0, min_samples=1_000_000)
    assert of(cell(precision="fp16"), tmp_path, long) < of(cell(), tmp_path, long)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.25, "0.2 s"),
        (59.6, "60 s"),
        (61, "1 min"),
        (206, "3 min 30 s"),
        (594, "9 min 50 s"),
        (596, "10 min"),
        (3600, "60 min"),
        (9000, "2.5 h"),
    ],
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


def test_a_kind_is_corrected_by_its_own_cells(tmp_path: Path) -> None:
    """Building takes four times as long as was guessed, and all else what was guessed: so do those that are still to come."""
    ways = [
        replace(cell(model, size=size), runtime="onnxruntime")
        for model, size in (("mlp", 8), ("resnet20", 32), ("resnet18", 224))
    ]
    eager = cell("resnet56", size=32)
    estimate = Estimate([*ways, eager], [], Settings(cache=tmp_path), tmp_path)
    for one in ways[:2]:
        parts = estimate._parts[one]
        building = sum(seconds for kind, seconds in parts.items() if kind[0] == "building")
        steps = {
            "counts": parts["counts", ""],
            "latency": parts["latency", "onnxruntime"],
            "agreement": parts["checks", "onnxruntime"],
        }
        steps["prepared"] = estimate.of(one) - sum(steps.values()) + 3 * building
        estimate.ran(one, sum(steps.values()), steps)
    third, last = estimate.of(ways[2]), estimate.of(eager)
    assert third + last < estimate.left() < 4 * third + 2 * last


def test_a_cell_that_failed_says_nothing_of_the_steps_it_did_not_come_to(tmp_path: Path) -> None:
    first, second = cell("resnet20", size=32), cell("resnet56", size=32)
    estimate = Estimate([first, second], [], Settings(), tmp_path)
    counts = estimate._parts[first]["counts", ""]
    estimate.ran(first, counts, {"counts": counts})
    assert estimate.left() == pytest.approx(estimate.of(second))


def test_a_faster_machine_takes_less(tmp_path: Path) -> None:
    one = replace(cell("resnet50", size=224), runtime="onnxruntime")
    slow = Speed({"fp32": 2e9}, layer_s=1e-3, python_s=12e-3)
    quick = Speed({"fp32": 200e9}, layer_s=20e-6, python_s=6e-3)
    slowly, quickly = (Estimate([one], [], Settings(cache=tmp_path), tmp_path, speed).of(one) for speed in (slow, quick))
    assert slowly > 1.8 * quickly


def test_what_was_built_before_is_not_paid_for(tmp_path: Path) -> None:
    one = replace(cell("resnet50", size=224), runtime="onnxruntime")
    anew = of(one, tmp_path, Settings(cache=tmp_path))
    (tmp_path / "artefacts" / "resnet50-224px-onnxruntime-fp32-0123456789ab").mkdir(parents=True)
    assert of(one, tmp_path, Settings(cache=tmp_path)) < anew - 5


def test_a_speed_is_kept_for_machines_of_its_kind(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    found = Speed({"fp32": 1e9, "bf16": 1e7}, 1e-4, 1e-2)
    save(found, tmp_path)
    assert load(tmp_path) == found
    (written,) = tmp_path.glob("speed-*.json")
    written.write_text("{}")
    assert load(tmp_path) is None


def test_the_quickest_with_a_top1_comes_first_and_models_stay_together(tmp_path: Path) -> None:
    """The digits are embedded, and the MLP is trained on them in seconds; resnet8 is quicker, and has no weights."""
    mlp, other = cell(batch=32), cell(batch=1)
    detector, small, large = cell("squeezenet1_1", size=224), cell("resnet8", size=32), cell("resnet50", size=224)
    cells = [large, mlp, detector, replace(large, batch=8), small, other]
    estimate = Estimate(cells, [], Settings(cache=tmp_path), tmp_path)
    assert estimate.has_top1(mlp) and not estimate.has_top1(small)
    assert quickest_first(cells, estimate) == [mlp, other, small, detector, large, replace(large, batch=8)]
    nothing = Estimate(cells, [], Settings(cache=tmp_path, accuracy_images=0), tmp_path)
    assert quickest_first(cells, nothing)[-1] == replace(large, batch=8)


# How many times as long as planned each kind takes on a machine that the guesses do not fit.
TRUE = {"building": 3.0, "reference": 0.6, "checks": 1.6, "latency": 1.3, "emulated": 0.4, "counts": 3.0, "fixed": 0.5}


def errors(estimate: Estimate, cells: list[Cell]) -> list[float]:
    """After each cell of a run on that machine, by how much what is said to be left is wrong, as a share of what is."""
    parts = {one: estimate._parts[one] for one in cells}
    noise = random.Random(0)
    steps: dict[Cell, dict[str, float]] = {}
    for one in cells:
        steps[one] = defaultdict(float)
        for (what, means), seconds in parts[one].items():
            took = seconds * TRUE.get("emulated" if means == "emulated" else what, 1.0) * noise.uniform(0.7, 1.4)
            steps[one]["prepared" if what in ("fixed", "reference", "building", "training") else what] += took
        steps[one]["agreement"] = steps[one].pop("checks", 0.0)
    left, found = sum(sum(each.values()) for each in steps.values()), []
    for one in cells:
        took = sum(steps[one].values())
        estimate.ran(one, took, steps[one])
        left -= took
        found.append(abs(estimate.left() - left) / left if left > 10 else 0.0)
    return found


def test_from_the_tenth_cell_on_what_is_left_is_known_to_a_quarter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = matrix.load(matrix.FILE)["default"]
    settings = tier.apply(Settings(cache=tmp_path))
    cells = matrix.expand(tier, {"target": ["cpu"], "precision": ["fp32", "int8-static", "int8-dynamic"]})
    estimate = Estimate(cells, [], settings, tmp_path)
    found = errors(estimate, quickest_first(cells, estimate))
    assert max(found[9:]) < 0.25
    monkeypatch.setattr(plan, "PRIOR_S", 1e9)  # a plan that learns nothing
    monkeypatch.setattr(plan, "PLANNED_S", 1e9)
    blind = Estimate(cells, [], settings, tmp_path)
    assert max(errors(blind, quickest_first(cells, blind))[9:]) > 0.25
