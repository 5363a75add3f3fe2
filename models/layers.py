"""Closed formulas of the layers that hold parameters or multiply, in integers.

The counting convention of this project (docs/counting.md): one MAC is one multiplication of a
convolution or a matrix product together with its addition. Biases, normalisations, activations,
pooling, softmax and element-wise sums hold parameters at most; their arithmetic is not counted.
FLOPs are twice the MACs, and only ever appear under that name. Figures are for one image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer of a formula.

    `name` is the module's path in the torch model, so that a counter's figure for the same layer
    can be put beside it. `fan_in` is the length of the sum behind one output element: rounding
    errors grow with it.
    """

    name: str
    parameters: int
    macs: int = 0
    fan_in: int = 0


def conv2d(name: str, inputs: int, outputs: int, kernel: int, size: int, *, groups: int = 1, bias: bool = False) -> Layer:
    """Square 2-D convolution; `size` is the height and width of its output, in pixels."""
    fan_in = inputs // groups * kernel * kernel
    return Layer(name, fan_in * outputs + outputs * bias, fan_in * outputs * size * size, fan_in)


def linear(name: str, inputs: int, outputs: int, *, rows: int = 1, bias: bool = True) -> Layer:
    """Fully connected layer, applied to `rows` vectors of one image."""
    return Layer(name, inputs * outputs + outputs * bias, inputs * outputs * rows, inputs)


def norm(name: str, channels: int) -> Layer:
    """Batch or layer normalisation with scale and shift."""
    return Layer(name, 2 * channels)


def window(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False) -> int:
    """Output size of a convolution or pooling window (torch's formula, docs of `nn.Conv2d`).

    With `ceil`, as `nn.MaxPool2d(ceil_mode=True)`: a last window must still start inside the input.
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if span < 0:
        raise ValueError(f"a window of {dilation * (kernel - 1) + 1} pixels does not fit into {size} + 2 x {padding}")
    out = (span + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def parameters(layers: Iterable[Layer]) -> int:
    return sum(layer.parameters for layer in layers)


def macs(layers: Iterable[Layer]) -> int:
    return sum(layer.macs for layer in layers)
