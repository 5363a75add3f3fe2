"""Nets are seeded whatever their norms are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from plumbline.models.weights.seeding import pictures, seed_weights
from plumbline.tensors import spread

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "instance, with weights": partial(nn.InstanceNorm2d, affine=True),
    "instance, with statistics": partial(nn.InstanceNorm2d, track_running_stats=True),
    "batch, without weights": partial(nn.BatchNorm2d, affine=False),
    "batch, without statistics": partial(nn.BatchNorm2d, track_running_stats=False),
    "batch, without either": partial(nn.BatchNorm2d, affine=False, track_running_stats=False),
    "frozen": FrozenBatchNorm2d,
    "groups": partial(nn.GroupNorm, 8),
    "groups, without weights": lambda channels: nn.GroupNorm(8, channels, affine=False),
    "local response": lambda channels: nn.LocalResponseNorm(2),
    "none": lambda channels: nn.Identity(),
}


class Block(nn.Module):
    """Residual, in the words of torchvision and timm; of two or three norms."""

    def __init__(self, norm: Callable[[int], nn.Module], norms: int) -> None:
        super().__init__()
        self.downsample = None
        for index in range(1, norms + 1):
            self.add_module(f"conv{index}", nn.Conv2d(16, 16, 3, padding=1, bias=False))
            self.add_module(f"bn{index}", norm(16))
        self.norms = norms

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index in range(1, self.norms + 1):
            y = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(y.relu()))
        return x + y


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("norms", [2, 3])
def test_residual_nets_of_any_norm_are_seeded(name: str, norms: int) -> None:
    torch.manual_seed(0)
    blocks = [Block(NORMS[name], norms) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    seed_weights(net, pictures(8, 3, 16, seed=0))
    with torch.no_grad():
        outputs = net(pictures(8, 3, 16, seed=1))
    assert outputs.isfinite().all()
    assert 0.1 < spread(outputs) < 10


@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
def test_a_head_with_weight_norm_is_scaled(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    images = pictures(16, 1, 8, seed=0)
    net = seed_weights(nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 10))), images)
    with torch.no_grad():
        assert spread(net(images)) == pytest.approx(1, rel=1e-3)
