"""Residual networks for ImageNet (He et al. 2015, "Deep Residual Learning for Image Recognition", table 1), torchvision's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from plumbline.models.data.datasets import Preparation
from plumbline.models.layers import Layer, conv2d, linear, norm, window
from plumbline.models.model import Floor, Model
from plumbline.models.sources.outside import torchvision_builder
from plumbline.models.training.recipes import Recipe


def layers(image_size: int, channels: int, classes: int, blocks: tuple[int, ...], bottleneck: bool) -> Iterator[Layer]:
    """Return the formula; `blocks` a stage, of two 3x3 convolutions or, as a bottleneck, of 1x1, 3x3 and 1x1.

    The stride sits on a block's first 3x3 convolution (torchvision's "v1.5"; the paper has it on the first 1x1).
    """
    size, inputs = window(image_size, 7, stride=2, padding=3), 64
    yield conv2d("conv1", channels, inputs, 7, size)
    yield norm("bn1", inputs)
    size = window(size, 3, stride=2, padding=1)
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        outputs = 4 * width if bottleneck else width
        convolutions = ((1, width), (3, width), (1, outputs)) if bottleneck else ((3, width), (3, outputs))
        for block in range(count):
            path, wide = f"layer{stage}.{block}", inputs
            stride = 2 if stage > 1 and block == 0 else 1
            for number, (kernel, narrow) in enumerate(convolutions, start=1):
                if kernel == 3:
                    size, stride = window(size, 3, stride=stride, padding=1), 1
                yield conv2d(f"{path}.conv{number}", wide, narrow, kernel, size)
                yield norm(f"{path}.bn{number}", narrow)
                wide = narrow
            if inputs != outputs:
                yield conv2d(f"{path}.downsample.0", inputs, outputs, 1, size)
                yield norm(f"{path}.downsample.1", outputs)
            inputs = outputs
    yield linear("fc", inputs, classes)


# torchvision's references/classification: batches of 256 at 0.1; its steps every 30 epochs are a cosine here.
RECIPE = Recipe(
    epochs=90,
    batch=256,
    optimiser="sgd",
    learning_rate=0.1,
    weight_decay=1e-4,
    warmup=0.05,
    augmentation=("flip",),
    least_area=0.08,
    minutes=100_000,
    source="torchvision, references/classification, with a cosine; not run here: 70 days on 2 cores",
)

MODELS = [
    Model(
        "resnet18",
        torchvision_builder("resnet18"),
        partial(layers, blocks=(2, 2, 2, 2), bottleneck=False),
        data=("imagenet",),
        sizes=range(32, 1025),
        recipes={"imagenet": [RECIPE]},
        floors={"imagenet": Floor(top1=0.69758, top5=0.89078, images=50_000, source="torchvision, IMAGENET1K_V1")},
        source="He et al. 2015, table 1; torchvision",
        pretrained="torchvision:resnet18",
    ),
    Model(
        "resnet50",
        torchvision_builder("resnet50"),
        partial(layers, blocks=(3, 4, 6, 3), bottleneck=True),
        data=("imagenet",),
        sizes=range(32, 1025),
        # edge-limits, table 2, rounds them to 0.8086 and 0.9543
        floors={"imagenet": Floor(top1=0.80858, top5=0.95434, images=50_000, source="torchvision, IMAGENET1K_V2")},
        source="He et al. 2015, table 1; torchvision",
        preparation=Preparation(crop=224 / 232),
        pretrained="torchvision:resnet50",
    ),
]
