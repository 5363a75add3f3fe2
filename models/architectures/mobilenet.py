"""MobileNets (Howard et al. 2017, Sandler et al. 2018, Howard et al. 2019); V1 is timm's, V2 and V3 are torchvision's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from plumbline.models.data.datasets import Preparation
from plumbline.models.layers import Layer, conv2d, linear, norm, window
from plumbline.models.model import Floor, Model
from plumbline.models.sources.outside import torchvision_builder

if TYPE_CHECKING:
    from torch import nn

# V1, table 1: stages of (number of blocks, output channels as a multiple of the stem's); each but the first halves the image
V1 = ((1, 2), (2, 4), (2, 8), (6, 16), (2, 32))

# V2, table 2: expansion factor t, output channels c, number of blocks n, stride s of the first
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Bottleneck(NamedTuple):
    """A row of V3's table 1: kernel, `exp size`, `#out`, SE and s."""

    kernel: int
    expanded: int
    outputs: int
    excite: bool
    stride: int

    def output_size(self, size: int) -> int:
        """Return its output's height and width, in pixels, from those of its input."""
        return window(size, self.kernel, stride=self.stride, padding=self.kernel // 2)


V3_LARGE = (
    Bottleneck(3, 16, 16, False, 1),
    Bottleneck(3, 64, 24, False, 2),
    Bottleneck(3, 72, 24, False, 1),
    Bottleneck(5, 72, 40, True, 2),
    Bottleneck(5, 120, 40, True, 1),
    Bottleneck(5, 120, 40, True, 1),
    Bottleneck(3, 240, 80, False, 2),
    Bottleneck(3, 200, 80, False, 1),
    Bottleneck(3, 184, 80, False, 1),
    Bottleneck(3, 184, 80, False, 1),
    Bottleneck(3, 480, 112, True, 1),
    Bottleneck(3, 672, 112, True, 1),
    Bottleneck(5, 672, 160, True, 2),
    Bottleneck(5, 960, 160, True, 1),
    Bottleneck(5, 960, 160, True, 1),
)


def v1_layers(image_size: int, channels: int, classes: int, width: int) -> Iterator[Layer]:
    """Return the formula under timm's names; `width` is that of the stem: 32 times the paper's multiplier."""
    size, inputs = window(image_size, 3, stride=2, padding=1), width
    yield conv2d("conv_stem", channels, width, 3, size)
    yield norm("bn1", width)
    for stage, (blocks, multiple) in enumerate(V1):
        for block in range(blocks):
            path = f"blocks.{stage}.{block}"
            size = window(size, 3, stride=2 if stage and not block else 1, padding=1)
            yield conv2d(f"{path}.conv_dw", inputs, inputs, 3, size, groups=inputs)
            yield norm(f"{path}.bn1", inputs)
            yield conv2d(f"{path}.conv_pw", inputs, multiple * width, 1, size)
            yield norm(f"{path}.bn2", multiple * width)
            inputs = multiple * width
    yield linear("classifier", inputs, classes)


def v1_build(image_size: int, channels: int, classes: int, width: int) -> nn.Module:
    """Build V1 with TensorFlow's padding, as the published weights are TensorFlow's."""
    # timm's public entry points fix the multiplier at 1 or more; this is what they all call
    from timm.models.efficientnet import _gen_mobilenet_v1

    return _gen_mobilenet_v1(
        "mobilenetv1_100", channel_multiplier=width / 32, pad_type="same", in_chans=channels, num_classes=classes
    )


def v2_layers(image_size: int, channels: int, classes: int, table: Sequence[tuple[int, int, int, int]] = V2) -> Iterator[Layer]:
    """Return the formula of V2 (Sandler et al. 2018, table 2)."""
    rows, inputs = [], 32
    for factor, outputs, blocks, stride in table:
        for block in range(blocks):
            rows.append(Bottleneck(3, factor * inputs, outputs, False, 1 if block else stride))
            inputs = outputs
    yield from _features(image_size, channels, 32, rows, 1280, v2=True)
    yield linear("classifier.1", 1280, classes)


def v3_layers(image_size: int, channels: int, classes: int, rows: Sequence[Bottleneck], hidden: int) -> Iterator[Layer]:
    """Return the formula; `hidden` is the width between the two layers of the classifier."""
    last = 6 * rows[-1].outputs
    yield from _features(image_size, channels, 16, rows, last, v2=False)
    yield linear("classifier.0", last, hidden)
    yield linear("classifier.3", hidden, classes)


def _features(image_size: int, channels: int, stem: int, rows: Sequence[Bottleneck], last: int, *, v2: bool) -> Iterator[Layer]:
    size, inputs = window(image_size, 3, stride=2, padding=1), stem
    yield from conv_norm("features.0", channels, stem, 3, size)
    for number, row in enumerate(rows, start=1):
        yield from inverted_residual(f"features.{number}.{'conv' if v2 else 'block'}", inputs, row, size, v2=v2)
        size, inputs = row.output_size(size), row.outputs
    yield from conv_norm(f"features.{len(rows) + 1}", inputs, last, 1, size)


def inverted_residual(path: str, inputs: int, row: Bottleneck, size: int, *, v2: bool) -> Iterator[Layer]:
    """Widen, filter each channel alone, excite where asked, narrow (V2, figure 3; V3, figure 4).

    `size` is that of its input. Where nothing is to be widened there is no such layer. In torchvision's V2 the last
    convolution and its norm are no pair of their own.
    """
    steps = (f"{path}.{number}" for number in count())
    if row.expanded != inputs:
        yield from conv_norm(next(steps), inputs, row.expanded, 1, size)
    size = row.output_size(size)
    yield from conv_norm(next(steps), row.expanded, row.expanded, row.kernel, size, groups=row.expanded)
    if row.excite:
        yield from excitation(next(steps), row.expanded, divisible(row.expanded // 4))
    if v2:
        yield conv2d(next(steps), row.expanded, row.outputs, 1, size)
        yield norm(next(steps), row.outputs)
    else:
        yield from conv_norm(next(steps), row.expanded, row.outputs, 1, size)


def conv_norm(path: str, inputs: int, outputs: int, kernel: int, size: int, groups: int = 1) -> Iterator[Layer]:
    """Return the formula of torchvision's `Conv2dNormActivation`."""
    yield conv2d(f"{path}.0", inputs, outputs, kernel, size, groups=groups)
    yield norm(f"{path}.1", outputs)


def excitation(path: str, channels: int, squeezed: int) -> Iterator[Layer]:
    """Return the formula of torchvision's `SqueezeExcitation` (Hu et al. 2018): two 1x1 convolutions on channel means."""
    yield conv2d(f"{path}.fc1", channels, squeezed, 1, 1, bias=True)
    yield conv2d(f"{path}.fc2", squeezed, channels, 1, 1, bias=True)


def divisible(width: int) -> int:
    """Return the nearest multiple of 8, but never less than nine tenths (the authors' `_make_divisible`)."""
    near = max(8, (width + 4) // 8 * 8)
    return near if 10 * near >= 9 * width else near + 8


HALF = Preparation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
WIDER = Preparation(crop=224 / 232)  # of torchvision's second weights

MODELS = [
    Model(
        "mobilenetv1_025",
        partial(v1_build, width=8),
        partial(v1_layers, width=8),
        data=("imagenet",),
        sizes=range(32, 1025),
        source="Howard et al. 2017, table 1, multiplier 0.25; timm, padded as TensorFlow does",
        home=128,
        preparation=HALF,
    ),
    Model(
        "mobilenet_v2",
        torchvision_builder("mobilenet_v2"),
        v2_layers,
        data=("imagenet",),
        sizes=range(32, 1025),
        floors={"imagenet": Floor(top1=0.72154, top5=0.90822, images=50_000, source="torchvision, IMAGENET1K_V2")},
        source="Sandler et al. 2018, table 2; torchvision",
        preparation=WIDER,
        pretrained="torchvision:mobilenet_v2",
    ),
    Model(
        "mobilenet_v3_large",
        torchvision_builder("mobilenet_v3_large"),
        partial(v3_layers, rows=V3_LARGE, hidden=1280),
        data=("imagenet",),
        sizes=range(32, 1025),
        # edge-limits, table 2, rounds them to 0.7527 and 0.9257
        floors={"imagenet": Floor(top1=0.75274, top5=0.92566, images=50_000, source="torchvision, IMAGENET1K_V2")},
        source="Howard et al. 2019, table 1; torchvision",
        preparation=WIDER,
        pretrained="torchvision:mobilenet_v3_large",
    ),
]
