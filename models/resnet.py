"""Residual networks (He et al. 2015, "Deep Residual Learning for Image Recognition").

Section 4.2's CIFAR form, three stages of n blocks, is written here, as nobody keeps it with its
parameter-free shortcuts (option A); the ImageNet form of table 1 is torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.layers import Layer, conv2d, linear, norm, window

if TYPE_CHECKING:
    from torch import nn


def cifar_layers(image_size: int, channels: int, classes: int, blocks: int) -> Iterator[Layer]:
    """`blocks` a stage; 6 x blocks + 2 weighted layers."""
    size, inputs = image_size, 16
    yield conv2d("conv1", channels, inputs, 3, size)
    yield norm("bn1", inputs)
    for stage, outputs in enumerate((16, 32, 64), start=1):
        for block in range(blocks):
            path = f"layer{stage}.{block}"
            size = window(size, 3, stride=2 if stage > 1 and block == 0 else 1, padding=1)
            yield conv2d(f"{path}.conv1", inputs, outputs, 3, size)
            yield norm(f"{path}.bn1", outputs)
            yield conv2d(f"{path}.conv2", outputs, outputs, 3, size)
            yield norm(f"{path}.bn2", outputs)
            inputs = outputs
    yield linear("linear", inputs, classes)


def cifar_build(image_size: int, channels: int, classes: int, blocks: int) -> nn.Module:
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


def bottleneck_layers(image_size: int, channels: int, classes: int, blocks: tuple[int, ...]) -> Iterator[Layer]:
    """Table 1's bottleneck form as torchvision builds it: the stride sits on the 3x3 convolution ("v1.5")."""
    size, inputs = window(image_size, 7, stride=2, padding=3), 64
    yield conv2d("conv1", channels, inputs, 7, size)
    yield norm("bn1", inputs)
    size = window(size, 3, stride=2, padding=1)
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        outputs = 4 * width
        for block in range(count):
            path = f"layer{stage}.{block}"
            yield conv2d(f"{path}.conv1", inputs, width, 1, size)
            yield norm(f"{path}.bn1", width)
            size = window(size, 3, stride=2 if stage > 1 and block == 0 else 1, padding=1)
            yield conv2d(f"{path}.conv2", width, width, 3, size)
            yield norm(f"{path}.bn2", width)
            yield conv2d(f"{path}.conv3", width, outputs, 1, size)
            yield norm(f"{path}.bn3", outputs)
            if block == 0:
                yield conv2d(f"{path}.downsample.0", inputs, outputs, 1, size)
                yield norm(f"{path}.downsample.1", outputs)
            inputs = outputs
    yield linear("fc", inputs, classes)
