"""torchvision's detectors: they take a list of pictures and return boxes, as many as they find.

`inputs` and `outputs` are what such a model names so that it fits in like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from plumbline.models.model import Model
from plumbline.models.sources.outside import torchvision_builder

if TYPE_CHECKING:
    from torch import Tensor

CATEGORIES = 91  # of COCO, as torchvision numbers them
PIXELS = 320.0  # the unit of length, so that places weigh as much as scores


def inputs(images: Tensor) -> tuple[list[Tensor]]:
    """Return a list of pictures, each of shape (channels, height, width)."""
    return (list(images),)


def outputs(found: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """Return the detections of each picture as a tensor, shape (batch, CATEGORIES, 5).

    For each category: the sum of the scores, and the sums of the boxes' four coordinates weighted by the scores.
    The order of boxes does not matter, and one that is dropped or doubled by a rounding error weighs as much as its score:
    comparing boxes one by one would call such a net wrong.
    """
    import torch

    rows = []
    for picture in found:
        scores = picture["scores"]
        what = torch.cat([scores.unsqueeze(1), scores.unsqueeze(1) * picture["boxes"] / PIXELS], dim=1)
        rows.append(what.new_zeros(CATEGORIES, 5).index_add_(0, picture["labels"], what))
    return torch.stack(rows)


MODELS = [
    Model(
        "ssdlite320_mobilenet_v3_large",
        torchvision_builder("ssdlite320_mobilenet_v3_large", "detection"),
        None,
        data=("imagenet",),
        sizes=(320,),
        home=320,
        source="Sandler et al. 2018, section 6.2 (SSDLite); torchvision; COCO's 91 categories",
        pretrained="torchvision:ssdlite320_mobilenet_v3_large",
        inputs=inputs,
        outputs=outputs,
    )
]
