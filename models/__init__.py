"""The things that are measured. One entry a model; importing this package imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from models import mixer, mlp, resnet, small_cnn, squeezenet
from models.datasets import DATASETS, DataSet
from models.layers import Layer
from models.model import Floor, Model, Registry, UnknownName

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DATASETS", "REGISTRY", "DataSet", "Floor", "Layer", "Model", "Registry", "UnknownName", "find"]

REGISTRY = Registry()
find = REGISTRY.find


def _torchvision(name: str) -> Callable[..., nn.Module]:
    def build(image_size: int, channels: int, classes: int) -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=classes)

    return build


REGISTRY.add(
    Model(
        "mlp",
        mlp.build,
        mlp.layers,
        data=("digits", "mnist"),
        sizes=range(1, 225),
        options={"depth": 2, "width": 1024},
        floors={"digits": Floor(0.95, 500, "this project's recipe, models/training.py; 500 held-out digits")},
        source="the study's MNIST net, 784-1024-1024-1024-10",
    )
)
REGISTRY.add(
    Model(
        "small_cnn",
        small_cnn.build,
        small_cnn.layers,
        data=("digits", "mnist"),
        sizes=range(2, 225),
        options={"width": 16},
        floors={"digits": Floor(0.96, 500, "this project's recipe, models/training.py; 500 held-out digits")},
        source="this project",
    )
)
for depth, top1 in {20: 0.9173, 56: 0.9339}.items():
    blocks = (depth - 2) // 6
    REGISTRY.add(
        Model(
            f"resnet{depth}",
            partial(resnet.cifar_build, blocks=blocks),
            partial(resnet.cifar_layers, blocks=blocks),
            data=("cifar10",),
            sizes=(32,),
            floors={"cifar10": Floor(top1, 10_000, "akamaster/pytorch_resnet_cifar10, README; the weights of that name")},
            source="He et al. 2015, section 4.2",
        )
    )
REGISTRY.add(
    Model(
        "resnet50",
        _torchvision("resnet50"),
        partial(resnet.bottleneck_layers, blocks=(3, 4, 6, 3)),
        data=("imagenet",),
        sizes=range(32, 1025),
        floors={"imagenet": Floor(0.7613, 50_000, "torchvision, IMAGENET1K_V1")},
        source="He et al. 2015, table 1; torchvision",
    )
)
REGISTRY.add(
    Model(
        "squeezenet1_1",
        _torchvision("squeezenet1_1"),
        squeezenet.layers,
        data=("imagenet",),
        sizes=range(32, 1025),
        floors={"imagenet": Floor(0.5818, 50_000, "torchvision, IMAGENET1K_V1")},
        source="Iandola et al. 2016, release 1.1; torchvision",
    )
)
REGISTRY.add(
    Model(
        "mixer_s16",
        partial(mixer.build, patch=16, blocks=8, width=512),
        partial(mixer.layers, patch=16, blocks=8, width=512),
        data=("cifar10", "imagenet"),
        sizes=(32, 224),
        source="Tolstikhin et al. 2021, table 1; timm",
    )
)
