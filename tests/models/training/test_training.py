"""Training: the same weights whether it was interrupted or not, refusals by name, and what a variant may add."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from plumbline.harness.cell import Cell
from plumbline.harness.probe.training import context_of
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.models import find
from plumbline.models.addition import Addition
from plumbline.models.compression import variants
from plumbline.models.data import augmentation
from plumbline.models.data.datasets import DATASETS, BadData
from plumbline.models.registry import REGISTRY
from plumbline.models.training import checkpoint
from plumbline.models.training.checkpoint import BadCheckpoint
from plumbline.models.training.recipes import Diverged, Recipe, Task
from plumbline.models.training.training import CHECKPOINT, RECORD, Progress, train
from plumbline.models.weights.weights import WEIGHTS, WrongWeights, folder, load_weights
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


@pytest.mark.slow
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


# -- data -------------------------------------------------------------------------------------------------------


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
        before = set(psutil.Process().children())
        with pytest.raises(Interrupted) as kept:
            train(asked, tmp_path / "parts", tmp_path, watch=stop_at(3), checkpoint_s=0.0)
        assert set(psutil.Process().children()) == before, f"who decodes ahead has ended, though {kept} is still there"
        train(asked, tmp_path / "parts", tmp_path)
        assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
        whole_picture = (tmp_path / "imagenet" / "train" / "0" / "3.jpeg").read_bytes()
        for damaged in (b"no picture", b"", whole_picture[:-1]):
            (tmp_path / "imagenet" / "train" / "0" / "3.jpeg").write_bytes(damaged)
            with pytest.raises(BadData, match=r"0/3.jpeg is empty, cut off or no picture"):
                train(asked, tmp_path / "damaged", tmp_path)
        (tmp_path / "imagenet" / "train" / "0" / "3.jpeg").write_bytes(b"\xff\xd8 and what is no picture \xff\xd9")
        with pytest.raises(BadData, match=r"0/3.jpeg cannot be decoded") as refused:
            train(asked, tmp_path / "damaged", tmp_path)
        assert set(psutil.Process().children()) == before, refused
        patch.setitem(DATASETS, "imagenet", replace(data, validation=12))
        with pytest.raises(BadData, match=r"too few pictures: expected more than the 12 that are held out, got 12"):
            train(asked, tmp_path / "damaged", tmp_path)


def test_minutes_grow_with_the_macs() -> None:
    """Nobody wants a Mixer of 224 pixels to be trained by the way."""
    small, large = find("mixer_s16").recipe(32), find("mixer_s16+data=cifar10").recipe(224)
    assert large.minutes > 40 * small.minutes
    assert (replace(large, minutes=0), large.digest) == (replace(small, minutes=0), small.digest)
    assert find("mlp").recipe(28).minutes == find("mlp").recipes["mnist"][0].minutes
    assert find("mlp+width=4096").recipe(28).minutes > 10 * find("mlp").recipe(28).minutes


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """Its digest names them, in records and in the keys of what is built of them."""
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2)}
    files = []
    for number in range(20):
        checkpoint.save(tmp_path / str(number), tensors, {"task": "x", "top1": 0.5})
        files.append((tmp_path / str(number)).read_bytes())
    assert len(set(files)) == 1
