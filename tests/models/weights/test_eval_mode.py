"""Nets that make something else of themselves in eval mode: weights come before it, in whatever way they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from plumbline.harness.cell import Cell
from plumbline.harness.probe.reference import Reference, prepare, prepare_parent
from plumbline.harness.settings import Settings
from plumbline.models import find
from plumbline.models.training.recipes import Recipe, Task
from plumbline.models.training.training import train
from plumbline.models.weights.seeding import changes_in_eval, pictures, seed_weights
from plumbline.models.weights.weights import weighted
from plumbline.tensors import spread


class Folds(nn.Module):
    """Keeps a folded weight beside the trained ones, as merged LoRA layers do."""

    def __init__(self, channels: int, image_size: int, classes: int) -> None:
        super().__init__()
        self.base = nn.Linear(channels * image_size**2, classes)
        self.up, self.down = nn.Parameter(torch.randn(classes, 2)), nn.Parameter(torch.randn(2, channels * image_size**2))
        self.folded: Tensor | None = None

    def train(self, mode: bool = True) -> Folds:
        super().train(mode)
        self.folded = None if mode else self.base.weight + self.up @ self.down
        return self

    def forward(self, images: Tensor) -> Tensor:
        weight = self.base.weight + self.up @ self.down if self.folded is None else self.folded
        return functional.linear(images.flatten(1), weight, self.base.bias)


class Deploys(nn.Module):
    """Folds a convolution and its norm into another convolution, and has neither of them any more, as RepVGG does."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.last_norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, classes)

    def train(self, mode: bool = True) -> Deploys:
        if not mode and hasattr(self, "conv"):
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
            self.deployed = nn.Conv2d(self.conv.in_channels, 8, 3)
            self.deployed.weight.data = self.conv.weight.data * scale.view(-1, 1, 1, 1)
            self.deployed.bias = nn.Parameter(self.norm.bias - self.norm.running_mean * scale)
            del self.conv, self.norm
        super().train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images)) if hasattr(self, "conv") else self.deployed(images)
        outputs: Tensor = self.head(self.last_norm(x.relu().mean((2, 3))))
        return outputs


def unfolded(net: nn.Module, images: Tensor) -> Tensor:
    """What a net would give if its eval mode changed nothing but how its modules work."""
    for module in net.modules():
        module.training = False
    with torch.no_grad():
        outputs: Tensor = net(images)
    return outputs


@pytest.mark.parametrize("name", ["Folds", "Deploys"])
def test_weights_are_loaded_before_eval_mode_wherever_a_net_is_built(name: str, tmp_path: Path) -> None:
    model = find(f"tests.models.weights.test_eval_mode:{name}+data=digits")
    torch.manual_seed(1)
    net = model.instantiate(8)
    assert changes_in_eval(net)
    state = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in net.state_dict().items()}
    state = {key: value.abs() if "var" in key else value for key, value in state.items()}
    save_file(state, tmp_path / f"digits_tests.models.weights.test_eval_mode.{name}+data=digits.safetensors")
    net.load_state_dict(state)
    settings = Settings(weights=tmp_path, cache=tmp_path / "cache")
    cell = Cell(model.name, "dense", "eager", "fp32", 1, 8, "cpu")
    prepare(cell, settings, tmp_path, print)
    reference = Reference.load(tmp_path)
    expected = unfolded(net, reference.inputs)
    assert reference.weights["kind"] == "file"
    torch.testing.assert_close(reference.outputs.float(), expected, rtol=1e-4, atol=1e-4)
    assert reference.eager is not None
    torch.testing.assert_close(reference.eager, expected, rtol=1e-4, atol=1e-4)
    measured = reference.net(model, cell, settings)
    with torch.no_grad():
        torch.testing.assert_close(measured(reference.inputs), expected, rtol=1e-4, atol=1e-4)
    prepare_parent(cell, settings, tmp_path, print)
    correct = Reference.load(tmp_path).parent_correct
    assert correct is not None
    images = model.dataset(8).load(None, 8)
    mine = unfolded(net, images.batch(range(len(correct)))).argmax(1) == torch.tensor(images.labels[: len(correct)])
    assert sum(a == b for a, b in zip(correct, mine.tolist())) >= len(correct) - 2


@pytest.mark.parametrize("make", [lambda: Folds(1, 8, 10), lambda: Deploys(1, 10)])
def test_seeded_weights_are_those_of_the_net_that_is_measured(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    built = make()
    images = pictures(16, 1, 8, seed=0)
    names = built.state_dict().keys()
    net = seed_weights(built, images, again=make)
    assert built.state_dict().keys() == names
    assert not net.training
    with torch.no_grad():
        if isinstance(built, Deploys):
            assert spread(net(images)) == pytest.approx(1, rel=1e-3)
        torch.testing.assert_close(net(images), unfolded(built, images), rtol=1e-4, atol=1e-4)
    if isinstance(built, Deploys):  # the norm that is folded has the statistics of these images, too
        seen = built.conv(images)
        assert built.norm.running_mean is not None
        torch.testing.assert_close(built.norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_other_nets_are_seeded_in_place() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert not changes_in_eval(net)
    assert seed_weights(net, pictures(16, 1, 8, seed=0), again=pytest.fail) is net


@pytest.mark.parametrize("name", ["Folds", "Deploys"])
def test_such_nets_can_be_trained_and_their_weights_loaded(name: str, tmp_path: Path) -> None:
    """The accuracy in the record is that of the weights beside it, and these are the net's as it is built."""
    model = find(f"tests.models.weights.test_eval_mode:{name}+data=digits")
    names = model.instantiate(8).state_dict().keys()
    record = train(Task(model, 8, Recipe(epochs=1)), tmp_path)
    assert load_file(tmp_path / "weights.safetensors").keys() == names
    net = weighted(model, 8, tmp_path / "weights.safetensors")
    images = model.dataset(8).load(None, 8)
    with torch.no_grad():
        right = net(images.batch(range(500))).argmax(1) == torch.tensor(images.labels)
    assert float(right.double().mean()) == pytest.approx(record["top1"], abs=0.005)
