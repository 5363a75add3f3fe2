"""The things that are measured, and the face that a revision of them shows to a harness.

A file an architecture, an entry of its `MODELS` a model. What measures imports from here alone, so that another revision of this
package can be measured by the same harness: `FACE` is the version of these names, of what they take and what they give; whoever
changes one of them raises it. Importing this imports no torch: the names in `_LATER` are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plumbline import PlumblineError, UnknownName
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
from plumbline.models.compression.variants import DENSE, NotTrained, Unfit, Variant
from plumbline.models.compression.variants import find as variant
from plumbline.models.compression.variants import is_outside as is_outside_variant
from plumbline.models.data.datasets import DATASETS, DataSet, Images, NoData, ranks
from plumbline.models.layers import Layer
from plumbline.models.model import Floor, Model, Registry
from plumbline.models.sources import outside
from plumbline.models.sources.outside import describe, described, is_file, is_outside
from plumbline.models.training.recipes import Task
from plumbline.models.weights.weights import AmbiguousWeights, Weights, WrongWeights, locate, weighted
from plumbline.models.weights.weights import sources as code_digest

if TYPE_CHECKING:
    from plumbline.models.compression.making import compress
    from plumbline.models.compression.stored import load as load_compressed
    from plumbline.models.counting.counts import count
    from plumbline.models.fastpath import without_attention_fast_path
    from plumbline.models.onnx.graph import Graph
    from plumbline.models.onnx.graph import read as onnx_file
    from plumbline.models.sources.pretrained import NoWeights
    from plumbline.models.sources.pretrained import fetch as fetch_weights
    from plumbline.models.training.training import finished, train
    from plumbline.models.weights.seeding import changes_in_eval, pictures, seeded, spread

FACE = 1
__all__ = [
    "DATASETS",
    "DENSE",
    "FACE",
    "REGISTRY",
    "AmbiguousWeights",
    "DataSet",
    "Floor",
    "Graph",
    "Images",
    "Layer",
    "Model",
    "NoData",
    "NoWeights",
    "NotTrained",
    "Registry",
    "Task",
    "Unfit",
    "UnknownName",
    "Variant",
    "Weights",
    "WrongWeights",
    "changes_in_eval",
    "code_digest",
    "compress",
    "count",
    "describe",
    "described",
    "face_of",
    "fetch_weights",
    "find",
    "finished",
    "is_file",
    "is_outside",
    "is_outside_variant",
    "load_compressed",
    "locate",
    "onnx_file",
    "pictures",
    "ranks",
    "seeded",
    "spread",
    "train",
    "variant",
    "weighted",
    "without_attention_fast_path",
]
_LATER = {
    "Graph": "onnx.graph:Graph",
    "NoWeights": "sources.pretrained:NoWeights",
    "compress": "compression.making:compress",
    "count": "counting.counts:count",
    "fetch_weights": "sources.pretrained:fetch",
    "finished": "training.training:finished",
    "load_compressed": "compression.stored:load",
    "onnx_file": "onnx.graph:read",
    "pictures": "weights.seeding:pictures",
    "seeded": "weights.seeding:seeded",
    "changes_in_eval": "weights.seeding:changes_in_eval",
    "spread": "weights.seeding:spread",
    "train": "training.training:train",
    "without_attention_fast_path": "fastpath:without_attention_fast_path",
}

REGISTRY = Registry()
for architecture in (mlp, small_cnn, alexnet, vgg, resnet_cifar, resnet, squeezenet, mobilenet, mixer, vit_cifar, vit, detection):
    for entry in architecture.MODELS:
        REGISTRY.add(entry)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def find(reference: str) -> Model:
    """Return the model of a reference, with its options set. One from outside the registry imports torch.

    Raises `UnknownName`.
    """
    return outside.find(reference) if is_outside(reference) else REGISTRY.find(reference)


def face_of(package: Any) -> int:
    """Return the version of the face of a package of models, imported from some revision.

    Raises PlumblineError unless it is the one that this revision has.
    """
    version = getattr(package, "FACE", None)
    if version != FACE:
        got = "none (a revision from before the face)" if version is None else f"FACE {version}"
        raise PlumblineError(
            f"expected models with FACE {FACE}, got {got}; measure that revision with the harness of its own checkout"
        )
    return FACE
