"""A small CNN for digits: two convolutions, one pooling, two linear layers; trains in seconds on a CPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from plumbline.models.layers import Layer, conv2d, linear
from plumbline.models.model import Floor, Model
from plumbline.models.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn


def layers(image_size: int, channels: int, classes: int, width: int) -> Iterator[Layer]:
    """Return the formula; `width` is the channels of the first convolution."""
    yield conv2d("conv1", channels, width, 3, image_size, bias=True)
    yield conv2d("conv2", width, 2 * width, 3, image_size, bias=True)
    yield linear("linear1", 2 * width * (image_size // 2) ** 2, 4 * width)
    yield linear("linear2", 4 * width, classes)


def build(image_size: int, channels: int, classes: int, width: int) -> nn.Module:
    """Build the net; `width` is the channels of the first convolution."""
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, width, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(2 * width * (image_size // 2) ** 2, 4 * width),
            relu3=nn.ReLU(),
            linear2=nn.Linear(4 * width, classes),
        )
    )


FEW_EPOCHS = Recipe(epochs=4, batch=128, learning_rate=3e-3, weight_decay=1e-2, warmup=0.2, minutes=1.0)

MODELS = [
    Model(
        "small_cnn",
        build,
        layers,
        data=("digits", "mnist", "fashion_mnist"),
        sizes=range(2, 225),
        options={"width": 16},
        floors={"digits": Floor(top1=0.96, images=500, source="this project's recipe; 500 held-out digits")},
        recipes={"digits": [Recipe(minutes=0.05)], "mnist": [FEW_EPOCHS], "fashion_mnist": [FEW_EPOCHS]},
        source="this project",
    )
]
