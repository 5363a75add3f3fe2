"""SqueezeNet 1.1 (Iandola et al. 2016, and the authors' release 1.1), torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

from plumbline.models.layers import Layer, conv2d, window
from plumbline.models.model import Floor, Model
from plumbline.models.sources.outside import torchvision_builder

# index in torchvision's `features`: the fire module's squeeze width; each expand branch is four times as wide
FIRES = {3: 16, 4: 16, 6: 32, 7: 32, 9: 48, 10: 48, 11: 64, 12: 64}
POOLS = (2, 5, 8)


def layers(image_size: int, channels: int, classes: int) -> Iterator[Layer]:
    """Return the formula, under torchvision's names."""
    size, inputs = window(image_size, 3, stride=2), 64
    yield conv2d("features.0", channels, inputs, 3, size, bias=True)
    for index in range(2, 13):
        if index in POOLS:
            size = window(size, 3, stride=2, ceil=True)
            continue
        squeeze = FIRES[index]
        expand = 4 * squeeze
        yield conv2d(f"features.{index}.squeeze", inputs, squeeze, 1, size, bias=True)
        yield conv2d(f"features.{index}.expand1x1", squeeze, expand, 1, size, bias=True)
        yield conv2d(f"features.{index}.expand3x3", squeeze, expand, 3, size, bias=True)
        inputs = 2 * expand
    yield conv2d("classifier.1", inputs, classes, 1, size, bias=True)


MODELS = [
    Model(
        "squeezenet1_1",
        torchvision_builder("squeezenet1_1"),
        layers,
        data=("imagenet",),
        sizes=range(32, 1025),
        floors={"imagenet": Floor(top1=0.58178, top5=0.80624, images=50_000, source="torchvision, IMAGENET1K_V1")},
        source="Iandola et al. 2016, release 1.1; torchvision",
        pretrained="torchvision:squeezenet1_1",
    )
]
