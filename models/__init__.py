"""The things that are measured, and the face that a revision of them shows to a harness.

What measures (harness/probe, harness/runtimes) imports from here alone, so that another revision of this package can be measured
by the same harness. `FACE` is the version of these names, of what they take and what they give: whoever changes one of them
raises it, and harness/faces.py says which one it expects. Importing this imports no torch: the names in `_LATER` are imported
when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plumbline.models.compression.variants import DENSE, Variant
from plumbline.models.compression.variants import find as variant
from plumbline.models.layers import Layer
from plumbline.models.model import Floor, Model
from plumbline.models.registry import find, kind_of

if TYPE_CHECKING:
    from plumbline.models.compression.sparse import settle, settled
    from plumbline.models.context import Context
    from plumbline.models.onnx.graph import read as onnx_file
    from plumbline.models.training.training import train

FACE = 2
__all__ = [
    "DENSE",
    "FACE",
    "Context",
    "Floor",
    "Layer",
    "Model",
    "Variant",
    "find",
    "kind_of",
    "onnx_file",
    "settle",
    "settled",
    "train",
    "variant",
]
_LATER = {
    "Context": "context:Context",
    "onnx_file": "onnx.graph:read",
    "settle": "compression.sparse:settle",
    "settled": "compression.sparse:settled",
    "train": "training.training:train",
}


if not TYPE_CHECKING:  # to a type checker such a function would say that every name is there

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _LATER[name].partition(":")
        return getattr(import_module(f"{__name__}.{module}"), attribute)
