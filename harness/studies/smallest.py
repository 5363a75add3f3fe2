"""Smallest checkable model; its cell time is the fixed cost of every cell (`plumbline overhead`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plumbline.models import Model
from plumbline.models.layers import Layer, linear

if TYPE_CHECKING:
    from torch import nn


def layers(image_size: int, channels: int, classes: int) -> Iterator[Layer]:
    yield linear("1", channels * image_size**2, classes)


def build(image_size: int, channels: int, classes: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, classes))


SMALLEST = Model("smallest", build, layers, data=("mnist",), sizes=range(1, 225), source="harness/studies/smallest.py")
