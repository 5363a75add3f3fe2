"""Sums without products in torch nets: how long they are. What rounding may make of them is in onnx/test_sums.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from plumbline.models import Model
from plumbline.models.counting.counts import count


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("what", "terms"),
    [
        (nn.LayerNorm([16, 4, 4]), 256),
        (nn.GroupNorm(4, 16), 64),
        (nn.InstanceNorm2d(16, affine=True), 16),
        (nn.BatchNorm2d(16, track_running_stats=False), 16),
        (nn.BatchNorm2d(16), 0),
        (nn.AvgPool2d(2), 4),
        (nn.AvgPool2d((2, 3)), 6),
        (nn.AdaptiveAvgPool2d(1), 16),
        (nn.AdaptiveAvgPool2d(2), 4),
        (nn.MaxPool2d(2), 0),
        (nn.Softmax(1), 16),
        (nn.ReLU(), 0),
        (Calls(lambda x: x.mean((2, 3))), 16),
        (Calls(lambda x: x.sum((1, 2, 3))), 256),
        (Calls(lambda x: F.normalize(x.flatten(1))), 256),
        (Calls(lambda x: F.rms_norm(x, [4, 4])), 16),
        (Calls(lambda x: F.log_softmax(x.flatten(1), 1)), 256),
        (Calls(lambda x: F.avg_pool1d(x.flatten(2), 4)), 4),
        (Calls(lambda x: x * 2), 0),
    ],
    ids=str,
)
def test_how_many_are_added_up(what: nn.Module, terms: int) -> None:
    """Without these terms the verdict on a net of few products hangs on the pictures."""

    def build(image_size: int, channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 16, 1), what)

    model = Model("adds_up", build, None, data=("cifar10",), sizes=(32,), source="here")
    found = {layer["name"]: (layer["fan_in"], layer["macs"]) for layer in count(model, 32)["layers"]}
    assert found["0"] == (64, 0)
    assert found["1"] == (3, 3 * 16 * 16)
    assert found.get("2", (0, 0)) == (terms, 0)


def test_what_a_net_adds_up_itself_is_its_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.mean((2, 3)))

    model = Model("adds_up", lambda image_size, channels, classes: Net(), None, data=("cifar10",), sizes=(32,), source="here")
    assert {layer["name"]: layer["fan_in"] for layer in count(model, 32)["layers"]} == {"": 1024, "head": 3}
