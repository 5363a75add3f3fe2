"""All models by name: a file an architecture, an entry of its `MODELS` a model. Imports no torch."""

from __future__ import annotations

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
from plumbline.models.model import Model, Registry
from plumbline.models.sources import outside

REGISTRY = Registry()
for architecture in (mlp, small_cnn, alexnet, vgg, resnet_cifar, resnet, squeezenet, mobilenet, mixer, vit_cifar, vit, detection):
    for entry in architecture.MODELS:
        REGISTRY.add(entry)


def kind_of(reference: str) -> str:
    """Tell `registered`, `file` (an ONNX file) or `outside` (another package's) by the form of a reference."""
    if outside.is_file(reference):
        return "file"
    return "outside" if outside.is_outside(reference) else "registered"


def find(reference: str) -> Model:
    """Return the model of a reference, with its options set. One from outside the registry imports torch.

    Raises `UnknownName`.
    """
    return REGISTRY.find(reference) if kind_of(reference) == "registered" else outside.find(reference)
