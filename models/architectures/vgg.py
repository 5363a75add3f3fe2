"""VGG (Simonyan and Zisserman 2014, "Very Deep Convolutional Networks", table 1), torchvision's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from plumbline.models.layers import Layer, conv2d, linear
from plumbline.models.model import Floor, Model
from plumbline.models.sources.outside import torchvision_builder

# configuration D: channels and number of the 3x3 convolutions of each stage; a stage ends with pooling
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def layers(image_size: int, channels: int, classes: int, stages: tuple[tuple[int, int], ...]) -> Iterator[Layer]:
    """Return the formula; of each stage `stages` names channels and number of convolutions."""
    size, inputs, index = image_size, channels, 0
    for outputs, count in stages:
        for _ in range(count):
            yield conv2d(f"features.{index}", inputs, outputs, 3, size, bias=True)
            inputs = outputs
            index += 2  # a ReLU follows
        size //= 2
        index += 1
    # torchvision pools to 7 x 7 whatever comes, so that the image size does not show here
    yield linear("classifier.0", inputs * 7 * 7, 4096)
    yield linear("classifier.3", 4096, 4096)
    yield linear("classifier.6", 4096, classes)


MODELS = [
    Model(
        "vgg16",
        torchvision_builder("vgg16"),
        partial(layers, stages=VGG16),
        data=("imagenet",),
        sizes=range(32, 1025),
        # edge-limits, table 2, rounds them to 0.7159 and 0.9038
        floors={"imagenet": Floor(top1=0.71592, top5=0.90382, images=50_000, source="torchvision, IMAGENET1K_V1")},
        source="Simonyan and Zisserman 2014, table 1, D; torchvision",
        pretrained="torchvision:vgg16",
    )
]
