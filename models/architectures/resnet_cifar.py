"""Residual networks for CIFAR-10: those of He et al. 2015, section 4.2, and MLPerf Tiny's.

They are written here, as nobody keeps the former with their parameter-free shortcuts (option A).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from plumbline.models.data.datasets import Preparation
from plumbline.models.layers import Layer, conv2d, linear, norm, window
from plumbline.models.model import Floor, Model
from plumbline.models.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn


def layers(image_size: int, channels: int, classes: int, blocks: int) -> Iterator[Layer]:
    """Return the formula, of `blocks` a stage and 6 x blocks + 2 weighted layers."""
    size, inputs = image_size, 16
    yield conv2d("conv1", channels, inputs, 3, size)
    yield norm("bn1", inputs)
    for stage, outputs in enumerate((16, 32, 64), start=1):
        for block in range(blocks):
            size = window(size, 3, stride=2 if stage > 1 and block == 0 else 1, padding=1)
            yield from _block(f"layer{stage}.{block}", inputs, outputs, size, bias=False)
            inputs = outputs
    yield linear("linear", inputs, classes)


def _block(path: str, inputs: int, outputs: int, size: int, *, bias: bool) -> Iterator[Layer]:
    yield conv2d(f"{path}.conv1", inputs, outputs, 3, size, bias=bias)
    yield norm(f"{path}.bn1", outputs)
    yield conv2d(f"{path}.conv2", outputs, outputs, 3, size, bias=bias)
    yield norm(f"{path}.bn2", outputs)


def build(image_size: int, channels: int, classes: int, blocks: int) -> nn.Module:
    """Build the net, of `blocks` a stage."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    def stage(inputs: int, outputs: int, stride: int) -> nn.Module:
        # option A: every second pixel, and zero channels on both sides; it has no parameters.
        # (ConstantPad3d takes the last three axes, so its outermost pair pads the channels.)
        padding = (outputs - inputs) // 2
        shortcut = nn.Sequential(nn.AvgPool2d(1, stride=2), nn.ConstantPad3d((0, 0, 0, 0, padding, padding), 0.0))
        first = BasicBlock(inputs, outputs, stride, downsample=shortcut if stride > 1 else None)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            layer1=stage(16, 16, 1),
            layer2=stage(16, 32, 2),
            layer3=stage(32, 64, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(64, classes),
        )
    )


def tiny_layers(image_size: int, channels: int, classes: int, width: int) -> Iterator[Layer]:
    """Return the formula: three stages of one block, of `width` in the first; the sizes are those of torch's padding 1."""
    size, inputs = image_size, width
    yield conv2d("conv1", channels, width, 3, size, bias=True)
    yield norm("bn1", width)
    for stage, stride in enumerate((1, 2, 2), start=1):
        outputs = width * 2 ** (stage - 1)
        size = window(size, 3, stride=stride, padding=1)
        yield from _block(f"layer{stage}", inputs, outputs, size, bias=True)
        if stride > 1:
            yield conv2d(f"layer{stage}.downsample", inputs, outputs, 1, size, bias=True)
        inputs = outputs
    yield linear("fc", inputs, classes)


def tiny_build(image_size: int, channels: int, classes: int, width: int) -> nn.Module:
    """Build the net: convolutions with biases, norms with Keras' epsilon, shortcuts without norm, TensorFlow's padding."""
    from timm.layers import create_conv2d
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    normalisation = partial(nn.BatchNorm2d, eps=1e-3)

    def stage(inputs: int, outputs: int, stride: int) -> nn.Module:
        shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else None
        block = BasicBlock(inputs, outputs, stride, downsample=shortcut, norm_layer=normalisation)
        # at stride 2 TensorFlow pads an even image at the bottom and on the right only; and BasicBlock's have no biases
        block.conv1 = create_conv2d(inputs, outputs, 3, stride=stride, padding="same", bias=True)
        block.conv2 = create_conv2d(outputs, outputs, 3, padding="same", bias=True)
        return block

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, width, 3, padding=1),
            bn1=normalisation(width),
            relu=nn.ReLU(),
            layer1=stage(width, width, 1),
            layer2=stage(width, 2 * width, 2),
            layer3=stage(2 * width, 4 * width, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * width, classes),
        )
    )


def _recipe(depth: int) -> Recipe:
    """An epoch of ResNet-56 takes 72 seconds; what is trained here is compressed nets, for a few epochs with smaller steps."""
    return Recipe(
        epochs=164,
        batch=128,
        optimiser="sgd",
        learning_rate=0.1,
        weight_decay=1e-4,
        warmup=0.05,
        augmentation=("crop=4", "flip"),
        minutes=round(164 * 1.2 * (depth - 2) / 54),
        source="He et al. 2015, section 4.2 (64,000 steps), with a cosine; not run here",
    )


MODELS = [
    Model(
        "resnet8",
        partial(tiny_build, width=16),
        partial(tiny_layers, width=16),
        data=("cifar10",),
        sizes=range(8, 225),
        # MLPerf Tiny asks for 0.85
        floors={"cifar10": Floor(top1=0.8719, images=10_000, source="mlcommons/tiny, pretrainedResnet.h5, measured here")},
        source="Banbury et al. 2021, MLPerf Tiny, table 1; mlcommons/tiny, keras_model.py",
        preparation=Preparation(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255)),  # its pixels go from 0 to 255
    ),
    *(
        Model(
            f"resnet{depth}",
            partial(build, blocks=(depth - 2) // 6),
            partial(layers, blocks=(depth - 2) // 6),
            data=("cifar10",),
            sizes=(32,),
            recipes={"cifar10": [_recipe(depth)]},
            floors={"cifar10": Floor(top1=top1, images=10_000, source="akamaster/pytorch_resnet_cifar10, README; those weights")},
            source="He et al. 2015, section 4.2",
        )
        for depth, top1 in [(20, 0.9173), (32, 0.9263), (44, 0.9310), (56, 0.9339), (110, 0.9368)]
    ),
]
