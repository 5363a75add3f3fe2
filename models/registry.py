"""All models by name, with the file in architectures/ that has it in its `MODELS`. Imports no torch."""

from __future__ import annotations

from plumbline.models.model import Model, Registry
from plumbline.models.sources import outside

FILES = {
    "mlp": ("mlp",),
    "small_cnn": ("small_cnn",),
    "alexnet": ("alexnet_cifar", "alexnet_cifar_residual"),
    "vgg": ("vgg16",),
    "resnet_cifar": ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    "resnet": ("resnet18", "resnet50"),
    "squeezenet": ("squeezenet1_1",),
    "mobilenet": ("mobilenetv1_025", "mobilenet_v2", "mobilenet_v3_large"),
    "mixer": ("small_mixer", "mixer_s16", "mixer_m16", "mixer_b16"),
    "vit_cifar": ("vit_cifar",),
    "vit": ("vit_b_16", "vit_l_16", "vit_tiny", "vit_small"),
    "detection": ("ssdlite320_mobilenet_v3_large",),
}
REGISTRY = Registry("plumbline.models.architectures", FILES)


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
