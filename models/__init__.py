"""The things that are measured. A file an architecture, an entry of its `MODELS` a model; importing this imports no torch."""

from __future__ import annotations

from plumbline import UnknownName
from plumbline.models.architectures import (
    alexnet,
    detection,
    mixer,
    mlp,
    mobilenet,
    resnet,
    resnet_cifar,
    small_cnn,
    squeezenet,
    vgg,
    vit,
    vit_cifar,
)
from plumbline.models.data.datasets import DATASETS, DataSet
from plumbline.models.layers import Layer
from plumbline.models.model import Floor, Model, Registry
from plumbline.models.sources import outside
from plumbline.models.sources.outside import is_outside

__all__ = ["DATASETS", "REGISTRY", "DataSet", "Floor", "Layer", "Model", "Registry", "UnknownName", "find", "is_outside"]

REGISTRY = Registry()
for architecture in (mlp, small_cnn, alexnet, vgg, resnet_cifar, resnet, squeezenet, mobilenet, mixer, vit_cifar, vit, detection):
    for entry in architecture.MODELS:
        REGISTRY.add(entry)


def find(reference: str) -> Model:
    """The model of a reference, with its options set. Raises `UnknownName`. One from outside the registry imports torch."""
    return outside.find(reference) if is_outside(reference) else REGISTRY.find(reference)
