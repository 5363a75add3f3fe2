"""Training: the same weights whether it was interrupted or not, refusals by name, and what a variant may add."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from plumbline import UnknownName
from plumbline.harness.cell import Cell
from plumbline.harness.cli import main
from plumbline.harness.probe.training import context_of
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.studies import train as command
from plumbline.models import context, find
from plumbline.models.addition import Addition
from plumbline.models.compression import variants
from plumbline.models.data import augmentation
from plumbline.models.data.datasets import DATASETS, BadData, NoData, held_out
from plumbline.models.registry import REGISTRY
from plumbline.models.training import checkpoint
from plumbline.models.training.checkpoint import BadCheckpoint
from plumbline.models.training.recipes import Diverged, Recipe, Task
from plumbline.models.training.training import CHECKPOINT, RECORD, Progress, train
from plumbline.models.weights.weights import WEIGHTS, WrongWeights, folder, load_weights, locate
from tests.conftest import HOUR_S
from tests.records import replace

QUICK = Recipe(epochs=3, batch=64, learning_rate=3e-3, augmentation=("crop=1", "flip", "cutmix"))
NET = "small_cnn+width=4"


def task(recipe: Recipe = QUICK, model: str = NET) -> Task:
    return Task(find(model), 8, recipe)


def tensors(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(folder / WEIGHTS)[0]


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These nets are too small for more, and then threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Interrupted(Exception):
    pass


def stop_at(step: int) -> Callable[[Progress], None]:
    def watch(now: Progress) -> None:
        if now.step == step:
            raise Interrupted

    return watch


class Remembering(Addition):
    """A penalty, and a schedule that needs what it saw before: it zeroes the smallest weights of a running mean."""

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self.mean = torch.zeros_like(net.get_parameter("linear1.weight"))

    def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
        return loss + 1e-4 * sum(parameter.abs().sum() for parameter in net.parameters())

    def stepped(self, net: nn.Module, done: float) -> None:
        weight = net.get_parameter("linear1.weight")
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * weight.abs()
            weight[self.mean < self.mean.flatten().kthvalue(1 + int(done * 0.5 * self.mean.numel())).values] = 0.0

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean = state["mean"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(task(), folder)
    return folder


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
def test_an_interrupted_training_ends_in_the_same_weights(tmp_path: Path, optimiser: str) -> None:
    """Whatever step it was stopped at, however often: also with an addition that remembers."""
    asked, last = replace(task(replace(QUICK, optimiser=optimiser)), bfloat16=optimiser == "sgd"), 54
    train(asked, tmp_path / "whole", addition=Remembering())
    for step in (1, 20, 21, 47):
        with pytest.raises(Interrupted):
            train(asked, tmp_path / "parts", watch=stop_at(step), addition=Remembering(), checkpoint_s=0.0)
    record = train(asked, tmp_path / "parts", addition=Remembering())
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    assert record["sessions"] == 5
    alone = json.loads((tmp_path / "whole" / RECORD).read_text())
    assert [point["loss"] for point in record["curves"]] == [point["loss"] for point in alone["curves"]]
    assert record["top1"] == alone["top1"]
    assert last == record["split"]["train"] // 64 * 3
    assert record["made_by"]["bfloat16"] is (optimiser == "sgd")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["prune80+share+bits=3+tune", "gradual80", "l1", "serene", "distill+teacher=small_cnn"])
def test_an_interrupted_variant_ends_in_the_same_weights(cache: Path, tmp_path: Path, variant: str) -> None:
    context = context_of(find("small_cnn"), 8, Settings(cache=cache), lambda words: None)
    asked = context.task(variants.find(f"{variant}+epochs=3"))
    train(asked, tmp_path / "whole", context=context)
    for step in (2, 21, 40):
        with pytest.raises(Interrupted):
            train(asked, tmp_path / "parts", watch=stop_at(step), checkpoint_s=0.0, context=context)
    assert train(asked, tmp_path / "parts", context=context)["sessions"] == 4
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))


def test_an_addition_that_forgets_ends_in_other_weights(tmp_path: Path) -> None:
    """So the test above can fail."""

    class Forgetting(Remembering):
        def restore(self, state: Mapping[str, Tensor]) -> None:
            pass

    train(task(), tmp_path / "whole", addition=Forgetting())
    with pytest.raises(Interrupted):
        train(task(), tmp_path / "parts", watch=stop_at(30), addition=Forgetting(), checkpoint_s=0.0)
    train(task(), tmp_path / "parts", addition=Forgetting())
    assert not same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))


def test_a_batch_may_be_larger_than_the_data(tmp_path: Path) -> None:
    record = train(task(replace(QUICK, batch=5000, epochs=2)), tmp_path)
    assert len(record["curves"]) == 2
    assert record["images_per_s"] == pytest.approx(2 * 1200 / sum(point["seconds"] for point in record["curves"]))


def test_killed_between_record_and_weights_it_writes_both(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = checkpoint.save

    def killed(path: Path, *what: Any) -> None:
        if path.name == WEIGHTS:
            raise Interrupted
        save(path, *what)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Interrupted):
        train(task(), tmp_path)
    assert (tmp_path / RECORD).exists()
    monkeypatch.undo()
    train(task(), tmp_path)
    assert same(tensors(tmp_path), tensors(whole))
    assert json.loads((tmp_path / RECORD).read_text())["sessions"] == 2


def test_another_seed_gives_other_weights(tmp_path: Path, whole: Path) -> None:
    train(task(replace(QUICK, seed=1)), tmp_path)
    assert not same(tensors(tmp_path), tensors(whole))


MANY_STEPS = replace(QUICK, epochs=6)


def train_until_killed(folder: Path, step: Any, steps_long: float, threads: int) -> None:
    """What each of the processes of the next test does, with as many threads as the test."""
    torch.set_num_threads(threads)
    begun: list[float] = []

    def watch(now: Progress) -> None:
        begun.append(time.process_time())
        if len(begun) == 3:
            a_step = (begun[2] - begun[0]) / 2
            signal.setitimer(signal.ITIMER_PROF, max(steps_long * a_step, 1e-6))
        step.value = now.step

    train(task(MANY_STEPS), folder, watch=watch, checkpoint_s=0.0)


def test_killed_at_ten_random_moments_it_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Each time at some point of the third step it takes, or of the next ones: by an alarm on its own processor time.

    From a fork server, as a process in which torch has trained before cannot fork another that does.
    """
    context, chance = multiprocessing.get_context("forkserver"), random.Random()
    context.set_forkserver_preload([__name__, "sklearn.datasets", "torch._dynamo", "torchvision"])  # what training imports
    killed = signal.SIGPROF  # what ITIMER_PROF sends; nobody handles it
    train(task(MANY_STEPS), tmp_path / "whole")
    steps = [0]
    for _ in range(10):
        step = context.Value("i", 0, lock=False)  # who is killed with a lock in hand never gives it back
        process = context.Process(
            target=train_until_killed, args=(tmp_path / "parts", step, chance.uniform(0, 2), torch.get_num_threads())
        )
        process.start()
        process.join()
        assert process.exitcode == -killed
        steps.append(int(step.value))
    assert steps == sorted(set(steps)), "each time some steps were taken"
    record = train(task(MANY_STEPS), tmp_path / "parts", checkpoint_s=0.0)
    assert record["sessions"] == 11
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))


def test_the_record_says_how_it_went(whole: Path) -> None:
    record = json.loads((whole / RECORD).read_text())
    assert (record["split"]["train"], record["split"]["validation"]) == (1200, 97)
    assert [point["epoch"] for point in record["curves"]] == [1, 2, 3]
    assert all(point["seconds"] > 0 and point["images_per_s"] > 0 for point in record["curves"])
    assert record["recipe"]["augmentation"] == ["crop=1", "flip", "cutmix"]
    assert record["seconds"] >= sum(point["seconds"] for point in record["curves"])
    assert 0 < record["waiting_share"] < 1
    assert sorted(path.name for path in whole.iterdir()) == [RECORD, WEIGHTS]


def test_the_accuracy_of_the_record_is_that_of_the_weights(whole: Path) -> None:
    net = find(NET).instantiate(8).eval()
    load_weights(net, whole / WEIGHTS)
    images = DATASETS["digits"].load(None, 8)
    with torch.no_grad():
        right = net(images.batch(range(500))).argmax(dim=1) == torch.tensor(images.labels)
    assert float(right.double().mean()) == json.loads((whole / RECORD).read_text())["top1"]


def test_a_trained_model_knows_its_digits(tmp_path: Path) -> None:
    record = train(task(Recipe(epochs=8), "small_cnn"), tmp_path)
    assert record["top1"] > 0.93 > train(task(Recipe(epochs=1, learning_rate=1e-6), "small_cnn"), tmp_path / "not")["top1"]


# -- a loss that is no number -----------------------------------------------------------------------------------


class Breaking(Addition):
    def __init__(self, at: float) -> None:
        self.at = at

    def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
        return loss * float("nan") if done >= self.at else loss


def test_a_loss_that_is_no_number_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"the loss of step 1 of 54 is nan; there is no checkpoint yet"):
        train(task(), tmp_path, addition=Breaking(0.0))
    with pytest.raises(Diverged, match=r"the loss of step 28 of 54 is nan; the last good checkpoint is .*, of step 18"):
        train(task(), tmp_path, addition=Breaking(0.5))
    assert checkpoint.load(tmp_path / CHECKPOINT)[1]["state"]["step"] == 18


def test_weights_that_are_no_numbers_do_not_take_the_place_of_good_ones(tmp_path: Path) -> None:
    class Poison(Addition):
        def stepped(self, net: nn.Module, done: float) -> None:
            if done > 0.6:
                with torch.no_grad():
                    net.get_parameter("linear2.bias").fill_(float("inf"))

    with pytest.raises(Diverged, match=r"the last good checkpoint is .*, of step 32"):
        train(task(), tmp_path, addition=Poison(), checkpoint_s=0.0)
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.load(tmp_path / CHECKPOINT)[0].values())


# -- what a variant adds ----------------------------------------------------------------------------------------


def test_a_teacher_is_followed(tmp_path: Path) -> None:
    """A teacher that calls every picture a 7 leaves its mark."""

    class Sevens(Addition):
        def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
            return functional.cross_entropy(outputs, torch.full((len(inputs),), 7))

    train(task(), tmp_path, addition=Sevens())
    net = find(NET).instantiate(8).eval()
    load_weights(net, tmp_path / WEIGHTS)
    with torch.no_grad():
        assert (net(DATASETS["digits"].load(None, 8).batch(range(100))).argmax(dim=1) == 7).all()


def test_a_schedule_of_its_own_changes_the_weights(tmp_path: Path) -> None:
    train(task(), tmp_path, addition=Remembering())
    assert float((tensors(tmp_path)["linear1.weight"] == 0).double().mean()) == pytest.approx(0.5, abs=0.02)


# -- files that do not fit --------------------------------------------------------------------------------------


def interrupted(folder: Path) -> Path:
    with pytest.raises(Interrupted):
        train(task(), folder, watch=stop_at(25), checkpoint_s=0.0)
    return folder / CHECKPOINT


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = interrupted(tmp_path)
    good = path.read_bytes()
    place = len(good) - 100
    for damaged, words in (
        (good[:place], "is no whole safetensors file"),
        (good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], "was changed after it was written"),
        (b"\x80\x04K\x01.", "is no whole safetensors file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadCheckpoint, match=words):
            train(task(), tmp_path)
    path.write_bytes(good)
    train(task(), tmp_path)


def test_a_checkpoint_of_other_facts_is_refused(tmp_path: Path) -> None:
    """The step is part of the checksum, and so is what it was made by."""
    path = interrupted(tmp_path)
    kept, facts = checkpoint.load(path)
    changed = re.sub(rb'(step\\+": )25', rb"\g<1>24", path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(BadCheckpoint, match="was changed after it was written"):
        train(task(), tmp_path)
    checkpoint.save(path, kept, {**facts, "made_by": {**facts["made_by"], "threads": 99}})
    with pytest.raises(BadCheckpoint, match=r"threads: 99 then, \d+ now.*--anew"):
        train(task(), tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """Even where its name and formula are the same."""
    interrupted(tmp_path)
    other = replace(find(NET), build=lambda **_: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(BadCheckpoint, match="is of another architecture or number of classes: 10 tensors do not fit"):
        train(replace(task(), model=other), tmp_path)


def test_weights_that_were_changed_are_refused(tmp_path: Path, whole: Path) -> None:
    good = (whole / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(WrongWeights, match="was changed after it was written"):
        load_weights(find(NET).instantiate(8), tmp_path / WEIGHTS)


def test_a_benchmark_begins_anew_where_a_checkpoint_cannot_be_continued(tmp_path: Path, server: Connection) -> None:
    """By other code, say: nobody wants every session to fail until a file is deleted by hand."""
    asked = Task(find("small_cnn"), 8, find("small_cnn").recipe(8))
    place = folder(asked, tmp_path)
    with pytest.raises(Interrupted):
        train(asked, place, watch=stop_at(25), checkpoint_s=0.0)
    kept, facts = checkpoint.load(place / CHECKPOINT)
    checkpoint.save(place / CHECKPOINT, kept, {**facts, "made_by": {**facts["made_by"], "code": "another"}})
    cell = Cell("small_cnn", "dense", "eager", "fp32", 1, 8, "cpu")
    probe = CellProbe(
        server, cell, Settings(seed=7, cache=tmp_path, accuracy_images=100, time_limit_s=HOUR_S)
    )  # the server knows 0
    assert (probe.prepared().weights.training or {})["sessions"] == 1
    probe.close()
    assert sorted(path.name for path in place.iterdir()) == [RECORD, WEIGHTS]


def test_weights_of_another_number_of_classes_are_no_start(tmp_path: Path, whole: Path) -> None:
    kept = tensors(whole)
    kept["linear2.weight"], kept["linear2.bias"] = torch.zeros(100, 16), torch.zeros(100)
    checkpoint.save(tmp_path / "hundred.safetensors", kept, {})
    with pytest.raises(WrongWeights, match=r"linear2.weight \(file \[100, 16\], model \[10, 16\]\)"):
        train(replace(task(), start=tmp_path / "hundred.safetensors"), tmp_path / "run")


def test_with_a_new_head_other_classes_are_learnt(tmp_path: Path, whole: Path) -> None:
    """All but the last layer is that of the file, whose own last layer may be of any shape."""
    kept = tensors(whole)
    kept["linear2.weight"], kept["linear2.bias"] = torch.zeros(100, 16), torch.zeros(100)
    checkpoint.save(tmp_path / "hundred.safetensors", kept, {})
    still = task(replace(QUICK, epochs=1, learning_rate=1e-12, weight_decay=0.0))
    train(replace(still, start=tmp_path / "hundred.safetensors", new_head=True), tmp_path / "run")
    came = tensors(tmp_path / "run")
    assert all(torch.allclose(came[name], kept[name], atol=1e-6) for name in came if not name.startswith("linear2"))
    assert came["linear2.weight"].shape == (10, 16)
    assert float(came["linear2.weight"].abs().sum()) > 0


def test_training_goes_on_from_given_weights(tmp_path: Path, whole: Path) -> None:
    still = replace(QUICK, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    train(replace(task(still), start=whole / WEIGHTS), tmp_path)
    assert all(torch.allclose(tensor, tensors(whole)[name], atol=1e-6) for name, tensor in tensors(tmp_path).items())


@settings(deadline=None, max_examples=30)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
    facts=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], kind: torch.dtype, facts: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "file.safetensors"
    kept = {f"t{number}": torch.ones(shape).to(kind) for number, shape in enumerate(shapes)}
    checkpoint.save(path, kept, facts)
    came, told = checkpoint.load(path)
    assert told == facts
    assert same(came, kept)
    assert all(came[name].dtype == kind for name in came)


def test_a_file_of_somebody_else_has_no_checksum(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "theirs.safetensors")
    with pytest.raises(BadCheckpoint, match="was not written by this project"):
        checkpoint.load(tmp_path / "theirs.safetensors")


# -- recipes ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.floats(0, 0.9), st.sampled_from(["one-cycle", "constant"]))
def test_a_schedule_reaches_its_rate_and_never_exceeds_it(steps: int, warmup: float, schedule: str) -> None:
    recipe = Recipe(warmup=warmup, schedule=schedule, learning_rate=0.1)
    rates = [recipe.rate(step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps > 20:
        assert max(rates) > 0.09


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimiser", "lion", "optimiser: expected adamw, adam, sgd, got 'lion'"),
        ("schedule", "steps", "schedule: expected one-cycle, constant, got 'steps'"),
        ("epochs", 0, "epochs: expected 1 or more, got 0"),
        ("batch", 0, "batch: expected 1 or more, got 0"),
        ("warmup", 1.0, "warmup: expected a share"),
        ("learning_rate", 0.0, "learning rate: expected more than 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(Recipe(), **{field: value})


def test_every_recipe_is_known_to_all_its_parts() -> None:
    """Its data are the model's, its changes exist, and no two of one model bear one name."""
    for name in REGISTRY.names():
        model = find(name)
        assert set(model.recipes) <= set(model.data)
        for data, recipes in model.recipes.items():
            assert [recipe.name for recipe in recipes].count("usual") == 1
            assert len({recipe.name for recipe in recipes}) == len(recipes)
            for recipe in recipes:
                assert all(augmentation.find(text, DATASETS[data].classes) for text in recipe.augmentation)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 9), st.integers(0, 99))
def test_a_crop_moves_each_picture_as_a_whole(count: int, pad: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.arange(1, count * size * size + 1, dtype=torch.float32).reshape(count, 1, size, size)
    came, labels = augmentation.find(f"crop={pad}", 10)(images, torch.arange(count))
    assert labels.tolist() == list(range(count))
    for image, moved in zip(images, came, strict=True):
        wide = functional.pad(image, (pad, pad, pad, pad))
        places = [(y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(wide[:, y : y + size, x : x + size], moved) for y, x in places)


def test_a_flip_mirrors_about_half() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 3, 4, 4)
    came, _ = augmentation.find("flip", 10)(images, torch.zeros(400))
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(images, came, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, came, strict=True)]
    assert all(one or other for one, other in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("warp=3", "augmentation: expected some of crop, flip, mixup, cutmix, got 'warp'"),
        ("crop=x", "augmentation 'crop': expected a whole number of pixels from 1, got 'x'"),
        ("crop=1.5", "augmentation 'crop': expected a whole number of pixels from 1, got '1.5'"),
        ("crop=-1", "got '-1'"),
        ("cutmix=0", "augmentation 'cutmix': expected a number above 0, got '0'"),
        ("mixup=nan", "got 'nan'"),
        ("flip=3", "augmentation 'flip': expected no value, got '3'"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused_with_its_recipe(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(augmentation=(text,))


@given(st.integers(2, 300), st.floats(0, 1), st.integers(0, 5))
def test_what_is_held_out_is_not_trained_on(count: int, share: float, seed: int) -> None:
    validation = int(share * (count - 1))
    chosen, held = held_out(count, validation, seed)
    assert sorted([*chosen.tolist(), *held.tolist()]) == list(range(count))
    assert len(held) == validation
    assert torch.equal(held, held_out(count, validation, seed)[1])


# -- data -------------------------------------------------------------------------------------------------------


def idx_files(root: Path, name: str = "MNIST", folder: str = "mnist") -> Path:
    """MNIST without pictures: files of the right length, full of ones."""
    raw = root / folder / name / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        for kind, header, size in (
            ("images-idx3", struct.pack(">4I", 2051, count, 28, 28), count * 784),
            ("labels-idx1", struct.pack(">2I", 2049, count), count),
        ):
            content = bytes(range(10)) * (size // 10) if size == count else bytes([1]) * size
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + content)
    return raw


def test_damaged_files_of_mnist_are_named(tmp_path: Path) -> None:
    raw = idx_files(tmp_path)
    assert len(DATASETS["mnist"].load(tmp_path, 28)) == 10_000
    images = raw / "train-images-idx3-ubyte"
    whole = images.stat().st_size
    os.truncate(images, whole - 1)
    with pytest.raises(
        BadData, match=f"MNIST/raw/train-images-idx3-ubyte is incomplete.*expected {whole} bytes.*got {whole - 1}"
    ):
        DATASETS["mnist"].load(tmp_path, 28)
    os.truncate(images, whole - 784 * 5)
    os.truncate(images, whole)  # a copy that was broken off, of which the rest is zeros
    with pytest.raises(BadData, match="5 pictures of the train split are blank"):
        DATASETS["mnist"].load(tmp_path, 28, "train")
    labels = raw / "t10k-labels-idx1-ubyte"
    good = labels.read_bytes()
    labels.write_bytes(good[:8] + bytes(10_000))
    with pytest.raises(BadData, match=r"labels of \[0\], expected 0 to 9"):
        DATASETS["mnist"].load(tmp_path, 28)
    images.unlink()
    with pytest.raises(BadData, match="MNIST/raw/train-images-idx3-ubyte is missing"):
        DATASETS["mnist"].load(tmp_path, 28)


def test_fashion_mnist_has_the_same_format(tmp_path: Path) -> None:
    idx_files(tmp_path, "FashionMNIST", "fashion_mnist")
    images = DATASETS["fashion_mnist"].load(tmp_path, 28, "train")
    assert (len(images), images.batch([0]).shape) == (60_000, (1, 1, 28, 28))


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_batches_of_cifar_are_not_unpickled_before_their_checksum_fits(tmp_path: Path, name: str, folder: str) -> None:
    place = tmp_path / name / folder
    place.mkdir(parents=True)
    with pytest.raises(BadData, match=f"{name}/{folder}/.* is missing"):
        DATASETS[name].load(tmp_path, 32)
    for file in ("data_batch_1", "train"):
        (place / file).write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    with pytest.raises(BadData, match=r"is incomplete or corrupted: its MD5 is not"):
        DATASETS[name].load(tmp_path, 32)
    assert not (tmp_path / "run").exists()


def test_data_that_are_missing_can_be_had() -> None:
    with pytest.raises(NoData, match=r"--data ROOT.*cifar-100-python.*Online: plumbline data cifar100.*Offline: copy"):
        DATASETS["cifar100"].load(None, 32)


def test_a_treatment_brings_pictures_to_a_size(tmp_path: Path) -> None:
    whole = DATASETS["digits"].load(None, 8).batch([3])
    cropped = find("mlp+treatment=crop")
    came = DATASETS["digits"].load(None, 4, preparation=cropped.preparation).batch([3])
    assert torch.equal(came, whole[:, :, 2:6, 2:6])
    resized = DATASETS["digits"].load(None, 4, preparation=find("mlp").preparation).batch([3])
    assert resized.shape == came.shape
    assert not torch.equal(resized, came)
    with pytest.raises(UnknownName, match="option 'treatment': expected resize, crop, got 'squeeze'"):
        find("mlp+treatment=squeeze")


def test_pictures_in_folders_are_trained_on_and_interrupted(tmp_path: Path) -> None:
    """An ImageNet folder, decoded ahead by other processes; a picture that cannot be decoded is named."""
    from PIL import Image

    for split, number, count in (("train", 0, 6), ("train", 1, 6), ("val", 0, 2), ("val", 1, 2)):
        folder = tmp_path / "imagenet" / split / f"{number}"
        folder.mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (40 + index, 50), (200 * number, 20 * index, 90)).save(folder / f"{index}.jpeg")
    data = replace(DATASETS["imagenet"], validation=2)
    recipe = Recipe(epochs=2, batch=5, learning_rate=1e-3, augmentation=("flip",))
    net = replace(find("squeezenet1_1"), sizes=(32,), home=32, name="squeezenet_small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "imagenet", data)
        asked = Task(net, 32, recipe)
        train(asked, tmp_path / "whole", tmp_path)
        with pytest.raises(Interrupted):
            train(asked, tmp_path / "parts", tmp_path, watch=stop_at(3), checkpoint_s=0.0)
        train(asked, tmp_path / "parts", tmp_path)
        assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
        whole_picture = (tmp_path / "imagenet" / "train" / "0" / "3.jpeg").read_bytes()
        for damaged in (b"no picture", b"", whole_picture[:-1]):
            (tmp_path / "imagenet" / "train" / "0" / "3.jpeg").write_bytes(damaged)
            with pytest.raises(BadData, match=r"0/3.jpeg is empty, cut off or no picture"):
                train(asked, tmp_path / "damaged", tmp_path)
        (tmp_path / "imagenet" / "train" / "0" / "3.jpeg").write_bytes(b"\xff\xd8 and what is no picture \xff\xd9")
        with pytest.raises(BadData, match=r"0/3.jpeg cannot be decoded"):
            train(asked, tmp_path / "damaged", tmp_path)
        patch.setitem(DATASETS, "imagenet", replace(data, validation=12))
        with pytest.raises(BadData, match=r"too few pictures: expected more than the 12 that are held out, got 12"):
            train(asked, tmp_path / "damaged", tmp_path)


# -- where benchmarks find the weights --------------------------------------------------------------------------


def test_trained_weights_are_found_and_others_trained_only_if_that_is_quick(tmp_path: Path) -> None:
    root = tmp_path / "root"
    idx_files(root)
    find_weights = {"directory": None, "cache": tmp_path, "root": root}
    assert locate(find("mlp"), 28, **find_weights).kind == "trained"  # type: ignore[arg-type]
    slow = locate(find("mlp"), 28, **find_weights, train_minutes=0.01)  # type: ignore[arg-type]
    assert slow.kind == "seeded"
    assert "plumbline train mlp --image-size 28" in slow.reason
    path = locate(find("mlp"), 28, **find_weights).path  # type: ignore[arg-type]
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert locate(find("mlp"), 28, **find_weights, train_minutes=0.01).path == path  # type: ignore[arg-type]
    assert locate(find("mlp+recipe=study"), 28, **find_weights).path != path  # type: ignore[arg-type]
    assert locate(find("mlp"), 28, directory=None, cache=tmp_path).kind == "trained"  # needs no data any more
    assert locate(find("mlp+width=4096"), 8, directory=None, cache=tmp_path).kind == "trained"  # on digits, always
    assert locate(find("mlp+recipe=study"), 8, directory=None, cache=tmp_path).kind == "seeded"  # not of digits


def test_minutes_grow_with_the_macs() -> None:
    """Nobody wants a Mixer of 224 pixels to be trained by the way."""
    small, large = find("mixer_s16").recipe(32), find("mixer_s16+data=cifar10").recipe(224)
    assert large.minutes > 40 * small.minutes
    assert (replace(large, minutes=0), large.digest) == (replace(small, minutes=0), small.digest)
    assert find("mlp").recipe(28).minutes == find("mlp").recipes["mnist"][0].minutes
    assert find("mlp+width=4096").recipe(28).minutes > 10 * find("mlp").recipe(28).minutes


# -- the command ------------------------------------------------------------------------------------------------


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """Its digest names them, in records and in the keys of what is built of them."""
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2)}
    files = []
    for number in range(20):
        checkpoint.save(tmp_path / str(number), tensors, {"task": "x", "top1": 0.5})
        files.append((tmp_path / str(number)).read_bytes())
    assert len(set(files)) == 1


@pytest.fixture
def plumbline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: None) -> Callable[..., int]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    monkeypatch.delenv("PLUMBLINE_DATA", raising=False)

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["plumbline", *words])
        return main()

    return run


def test_the_command_trains_and_benchmarks_find_it(
    plumbline: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plumbline("train", "small_cnn", "--out", str(tmp_path / "weights")) == 0
    said = capsys.readouterr().out
    assert "epoch 20 of 20" in said
    assert "on the 500 test images of digits" in said
    kept = locate(find("small_cnn"), 8, None, tmp_path / "cache" / "plumbline").path
    assert kept is not None
    assert f"weights: {kept}" in said
    assert kept.exists()
    found = locate(find("small_cnn"), 8, tmp_path / "weights", tmp_path / "cache")
    assert (found.kind, found.reason) == ("file", "digits_small_cnn.safetensors")
    assert plumbline("train", "small_cnn") == 0
    assert "was trained before; --anew trains it again" in capsys.readouterr().out


def test_ctrl_c_says_how_to_go_on(
    plumbline: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command._Bar, "watch", interrupted)
    assert plumbline("train", "small_cnn") == 130
    assert "interrupted; the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(
    plumbline: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert plumbline("train", "small_cnn") == 2
    told = capsys.readouterr().err
    assert "cannot be written to" in told
    assert "set $XDG_CACHE_HOME to a folder that can be written" in told


def test_the_command_says_when_a_floor_is_missed(plumbline: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert plumbline("train", "small_cnn", "--epochs", "1", "--learning-rate", "1e-6") == 1
    told = capsys.readouterr()
    assert "1 epoch of batches of 64" in told.out
    assert "0.1 s on 2 cores" in told.out  # a twentieth of the recipe's
    assert "less than the floor of 96.00%" in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mlpp"], "no model 'mlpp' (did you mean mlp?)"),
        (["train", "resnet50"], "model 'resnet50' has no recipe for imagenet"),
        (["train", "mlp", "--recipe", "mine"], "model 'mlp' has no recipe 'mine'; known: usual, study"),
        (["train", "mlp", "--recipe", "study"], "has no recipe 'study' for digits; known: usual"),
        (["train", "mlp", "--device", "cuda"], "--device cuda: "),
        (["train", "mlp", "--epochs", "0"], "epochs: expected 1 or more, got 0"),
        (["train", "mlp+data=mnist"], "no data root was given"),
        (["train", "mlp", "--data", "nowhere"], "--data: expected a folder, got 'nowhere'"),
        (["train", "mlp", "--from", "nothing.safetensors"], "--from: expected a safetensors file, got 'nothing.safetensors'"),
        (["train", "mlp", "--new-head"], "--new-head: expected with --from FILE"),
        (["train", "mlp", "--variant", "thin"], "no variant 'thin'"),
        (["train", "mlp", "--image-size", "300"], "mlp takes images of 1 to 224 pixels, got 300"),
        (["data", "imagenet", "--data", "."], "no data set 'imagenet' that can be fetched; known: mnist"),
    ],
)
def test_mistakes_are_named(
    plumbline: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert plumbline(*words) == 2
    assert message in capsys.readouterr().err


def test_data_that_cannot_be_fetched_can_be_copied(
    plumbline: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(root: Path) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], fetch=offline))
    assert plumbline("data", "mnist", "--data", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "mnist could not be fetched: Network is unreachable. Offline: ROOT/mnist holds torchvision's MNIST" in said


def test_progress_is_told_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = [100.0]
    monkeypatch.setattr(context, "time", SimpleNamespace(monotonic=lambda: now[0]))
    watch = context.every_second(lines.append)
    for step in range(50):
        watch(Progress(1, 2, step + 1, 100, 0.5, None, 9.0))
        now[0] += 0.015
    assert lines == ["training, epoch 1 of 2, loss 0.500, 9.0 s left"]
    now[0] = 101.0
    watch(Progress(2, 2, 51, 100, 0.25, None, 8.0))
    assert lines[1:] == ["training, epoch 2 of 2, loss 0.250, 8.0 s left"]
