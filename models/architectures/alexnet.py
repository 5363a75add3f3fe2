"""AlexNet (Krizhevsky et al. 2012) as cut to CIFAR-10 by the study on ResNet, AlexNet and ViT (slides, table of layers)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from plumbline.models.layers import Layer, conv2d, linear, window
from plumbline.models.model import Floor, Model
from plumbline.models.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (64, 192, 384, 256, 256)


def _sizes(image_size: int) -> tuple[int, int, int, int]:
    """Of the outputs of conv1, of conv2, of conv3 to conv5, and of the last pooling, in pixels."""
    first = window(image_size, 11)
    second = window(first, 3, stride=2)
    third = window(second, 2, stride=2)
    return first, second, third, window(third, 2, stride=2)


def layers(
    image_size: int, channels: int, classes: int, residual: bool = False, widths: tuple[int, ...] = WIDTHS, hidden: int = 4096
) -> Iterator[Layer]:
    """Return the formula; `widths` are the channels of the convolutions, `hidden` those of the two dense layers behind them."""
    first, second, size, last = _sizes(image_size)
    yield conv2d("conv1", channels, widths[0], 11, first, bias=True)
    yield conv2d("conv2", widths[0], widths[1], 5, second, bias=True)
    for number, (inputs, outputs) in enumerate(zip(widths[1:], widths[2:]), start=3):
        yield conv2d(f"conv{number}.branch" if residual else f"conv{number}", inputs, outputs, 3, size, bias=True)
        if residual and inputs != outputs:
            yield conv2d(f"conv{number}.shortcut", inputs, outputs, 1, size, bias=True)
    yield linear("dense1", widths[-1] * last * last, hidden)
    yield linear("dense2", hidden, hidden)
    yield linear("dense3", hidden, classes)


def build(
    image_size: int, channels: int, classes: int, residual: bool = False, widths: tuple[int, ...] = WIDTHS, hidden: int = 4096
) -> nn.Module:
    """Build the net; with `residual`, each 3x3 convolution has a shortcut, a 1x1 convolution where widths differ.

    The study reports such a net but not its layers, so this one is ours: the trunk as it is, and a shortcut around each of
    conv3 to conv5.
    """
    from torch import nn

    from plumbline.models.architectures.blocks import Residual

    def conv3x3(inputs: int, outputs: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        if not residual:
            return convolution
        return Residual(convolution, nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1))

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, widths[0], 11),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(3, stride=2),
            conv2=nn.Conv2d(widths[0], widths[1], 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=conv3x3(widths[1], widths[2]),
            relu3=nn.ReLU(),
            conv4=conv3x3(widths[2], widths[3]),
            relu4=nn.ReLU(),
            conv5=conv3x3(widths[3], widths[4]),
            relu5=nn.ReLU(),
            pool5=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense1=nn.Linear(widths[4] * _sizes(image_size)[-1] ** 2, hidden),
            relu6=nn.ReLU(),
            dense2=nn.Linear(hidden, hidden),
            relu7=nn.ReLU(),
            dense3=nn.Linear(hidden, classes),
        )
    )


# bfloat16 halves the time of a step here; a batch of 256 takes 1.4 times as long as one of 128.
RECIPE = Recipe(
    epochs=10, batch=256, learning_rate=7e-4, weight_decay=0.05, warmup=0.2, augmentation=("crop=4", "flip"), minutes=9
)

MODELS = [
    Model(
        "alexnet_cifar",
        build,
        layers,
        data=("cifar10", "cifar100"),
        sizes=range(19, 97),
        recipes={"cifar10": [RECIPE], "cifar100": [RECIPE]},
        floors={
            "cifar10": Floor(top1=0.735, images=10_000, source="this project's recipe, 74.83 % here; the study reports 53.86 %")
        },
        source="the CIFAR-10 study's AlexNet, slides, table of layers",
    ),
    Model(
        "alexnet_cifar_residual",
        partial(build, residual=True),
        partial(layers, residual=True),
        data=("cifar10", "cifar100"),
        sizes=range(19, 97),
        recipes={"cifar10": [RECIPE], "cifar100": [RECIPE]},
        floors={
            "cifar10": Floor(top1=0.745, images=10_000, source="this project's recipe, 76.00 % here; the study reports 54.78 %")
        },
        source="this project, after the CIFAR-10 study's AlexNet with residual connections, whose layers it does not give",
    ),
]
