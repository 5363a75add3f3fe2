"""Multi-layer perceptron on flattened pixels (the study's: 784-1024-1024-1024-10, on MNIST)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from plumbline.models.layers import Layer, linear
from plumbline.models.model import Floor, Model
from plumbline.models.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn


def _widths(image_size: int, channels: int, classes: int, depth: int, width: int) -> list[int]:
    return [channels * image_size**2] + [width] * (depth + 1) + [classes]


def layers(image_size: int, channels: int, classes: int, depth: int, width: int) -> Iterator[Layer]:
    """Return the formula."""
    widths = _widths(image_size, channels, classes, depth, width)
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        yield linear(f"linear{number}", inputs, outputs)


def build(image_size: int, channels: int, classes: int, depth: int, width: int) -> nn.Module:
    """Build the net; `depth` is the number of hidden-to-hidden matrices: the study's has 2."""
    from torch import nn

    widths = _widths(image_size, channels, classes, depth, width)
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        if number:
            modules[f"relu{number}"] = nn.ReLU()
        modules[f"linear{number}"] = nn.Linear(inputs, outputs)
    return nn.Sequential(modules)


TWO_EPOCHS = Recipe(epochs=2, batch=128, learning_rate=2e-3, weight_decay=1e-2, warmup=0.2, minutes=0.2)
STUDY = Recipe(
    "study",
    epochs=2,
    batch=64,
    optimiser="adam",
    learning_rate=1e-3,
    weight_decay=0.0,
    schedule="constant",
    mixed=False,
    minutes=0.5,
    source="the MNIST study, figure 1: Adam at 1e-3, batches of 64, 2 epochs",
)

MODELS = [
    Model(
        "mlp",
        build,
        layers,
        data=("digits", "mnist", "fashion_mnist"),
        sizes=range(1, 225),
        options={"depth": 2, "width": 1024},
        floors={
            "digits": Floor(top1=0.95, images=500, source="this project's recipe; 500 held-out digits"),
            "mnist": Floor(top1=0.975, images=10_000, source="this project's recipe, 98.19 % here; the MNIST study reports 97 %"),
        },
        recipes={
            "digits": [Recipe(minutes=0.05)],
            "mnist": [TWO_EPOCHS, STUDY],
            "fashion_mnist": [replace(TWO_EPOCHS, epochs=8, minutes=0.5)],
        },
        source="the study's MNIST net, 784-1024-1024-1024-10",
    )
]
