"""Seeded weights and pictures: such that outputs differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.models import find
from plumbline.models.weights.seeding import pictures, seed_weights
from plumbline.tensors import spread


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "resnet20", "resnet56", "resnet50", "squeezenet1_1", "mixer_s16"])
def test_seeded_weights_spread_the_outputs(name: str) -> None:
    """Different inputs give different outputs, and the same seed the same weights."""
    model = find(name)
    size = min(model.image_size, 64) if name != "mixer_s16" else 32
    channels = model.dataset(size).channels
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        net = model.instantiate(size)
        seed_weights(net, pictures(16, channels, size, seed=0))
        with torch.no_grad():
            outputs.append(net(pictures(8, channels, size, seed=1)))
    assert torch.equal(*outputs)
    assert 0.1 < spread(outputs[0]) < 5  # SqueezeNet's are means over what its head returns, after a ReLU


def test_a_plain_initialisation_would_not_do() -> None:
    """What the seeding is for: ResNet-50 as it comes answers one class to everything."""
    torch.manual_seed(0)
    net = find("resnet50").instantiate(64).eval()
    with torch.no_grad():
        answers = net(pictures(8, 3, 64, seed=1)).argmax(dim=1)
    assert len(set(answers.tolist())) == 1


def test_outputs_that_never_differ_cannot_be_spread() -> None:
    with pytest.raises(ValueError, match="the same for every input"):
        seed_weights(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.Threshold(1e9, 0)), torch.rand(4, 4))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(0, 99))
def test_pictures_differ_from_each_other(channels: int, size: int, seed: int) -> None:
    made = pictures(4, channels, size, seed)
    assert made.shape == (4, channels, size, size)
    assert torch.equal(made, pictures(4, channels, size, seed))
    assert spread(made.flatten(1)) > 0.1
