"""What a runtime's own profile says of its kernels: which layer each is, in which number format, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from plumbline.harness.precisions import Precision
from plumbline.models import Layer


@dataclass(frozen=True)
class Kernel:
    """One part of an inference. `seconds` are those of one inference; `number_format` is that of what it multiplies.

    `multiplies` says whether it is of the kind that has MACs; `outputs` counts the elements that it returns for one image,
    `macs` its MACs for one image, where the runtime shows them. `layer` is the model's layer that it is, where that is known.
    """

    name: str
    operator: str
    seconds: float
    multiplies: bool = False
    number_format: str | None = None
    outputs: int | None = None
    macs: int | None = None
    layer: str | None = None


def of_layers(kernels: Iterable[Kernel], layers: Iterable[Layer]) -> list[Kernel]:
    """Return the kernels, those that multiply with the layer that they are: what they say, or the next one with as many outputs.

    Runtimes rename and fuse what they execute, but neither reorder products of one shape nor change how many there are.
    """
    left = [layer for layer in layers if layer.macs]
    macs = {layer.name: layer.macs for layer in left}
    found = []
    for kernel in kernels:
        if kernel.layer is not None:
            kernel = replace(kernel, macs=macs.get(kernel.layer))
        for layer in left if kernel.multiplies and kernel.layer is None else ():
            if layer.macs == kernel.macs or (kernel.macs is None and layer.macs // layer.fan_in == kernel.outputs):
                left.remove(layer)
                kernel = replace(kernel, layer=layer.name, macs=layer.macs)
                break
        found.append(kernel)
    return found


def share_in(kernels: Iterable[Kernel], precision: Precision, layers: Sequence[Layer]) -> float:
    """Return the share of the layers' MACs that kernels execute in a precision."""
    return share(of_layers(kernels, layers), ["int8" if precision.integer else precision.dtype], layers)


def share(kernels: Iterable[Kernel], formats: Iterable[str], layers: Iterable[Layer] = ()) -> float:
    """Return the share of the layers' MACs that kernels of these number formats execute; of kernels, where one shows no MACs."""
    formats, products = set(formats), [kernel for kernel in kernels if kernel.multiplies]
    known = all(kernel.macs is not None for kernel in products)
    weights = [(kernel.macs or 0) if known else 1 for kernel in products]
    inside = sum(weight for weight, kernel in zip(weights, products) if kernel.number_format in formats)
    whole = max(sum(weights), sum(layer.macs for layer in layers) if known else 0)  # what no kernel shows is not in them
    return inside / max(1, whole)
