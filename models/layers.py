"""Closed formulas of the layers that hold parameters or multiply, in integers.

The counting convention of this project (docs/counting.md): one MAC is one multiplication of a
convolution or a matrix product together with its addition. Biases, normalisations, activations,
pooling, softmax and element-wise sums hold parameters at most; their arithmetic is not counted.
FLOPs are twice the MACs, and only ever appear under that name. Figures are for one image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer of a formula.

    `name` is the path of a module in the torch model, or of a parameter that is no module's weight (a class token), so
    that a counter's figure for the same layer can be put beside it. `parameters` are those that the module holds
    itself, and `macs` those that it runs itself; what its child modules hold and run is theirs.
    `fan_in` is the number of MACs behind one output element, of a layer without MACs that of the numbers which it adds up:
    rounding errors grow with it.
    """

    name: str
    parameters: int
    macs: int = 0
    fan_in: int = 0


def conv2d(name: str, inputs: int, outputs: int, kernel: int, size: int, *, groups: int = 1, bias: bool = False) -> Layer:
    """Return a square 2-D convolution; `size` is the height and width of its output, in pixels."""
    fan_in = inputs // groups * kernel * kernel
    return Layer(name, fan_in * outputs + outputs * bias, fan_in * outputs * size * size, fan_in)


def linear(name: str, inputs: int, outputs: int, *, rows: int = 1, bias: bool = True) -> Layer:
    """Return a fully connected layer, applied to `rows` vectors of one image."""
    return Layer(name, inputs * outputs + outputs * bias, inputs * outputs * rows, inputs)


def norm(name: str, channels: int) -> Layer:
    """Return a batch or layer normalisation with scale and shift."""
    return Layer(name, 2 * channels)


def attention(name: str, tokens: int, heads: int, key: int, width: int) -> Layer:
    """Return the two products of attention, queries with keys and weights with values; its projections are layers of their own.

    Queries, keys and values are `key` long for each head, the vectors that the module returns `width`.
    """
    macs = 2 * heads * key * tokens * tokens
    return Layer(name, 0, macs, macs // (tokens * width))


def multihead(name: str, tokens: int, width: int) -> Iterator[Layer]:
    """Return `nn.MultiheadAttention` of a sequence with itself.

    Its four projections and two products are one call of a function, so that all MACs are the module's own, and none
    the output projection's. The number of heads changes nothing.
    """
    macs = 4 * tokens * width * width + 2 * tokens * tokens * width
    yield Layer(name, 3 * (width * width + width), macs, macs // (tokens * width))
    yield Layer(f"{name}.out_proj", width * width + width)


def window(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False) -> int:
    """Return the output size of a convolution or pooling window (torch's formula, docs of `nn.Conv2d`).

    With `ceil`, as `nn.MaxPool2d(ceil_mode=True)`: a last window may reach beyond the input, but must start inside.
    """
    reach = dilation * (kernel - 1) + 1
    out = (size + 2 * padding - reach + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (out - 1) * stride >= size + padding:
        out -= 1
    if out < 1:
        raise ValueError(f"a window of {reach} pixels does not fit into {size} + 2 x {padding}")
    return out


def parameters(layers: Iterable[Layer]) -> int:
    """Return the sum of the layers' parameters."""
    return sum(layer.parameters for layer in layers)


def macs(layers: Iterable[Layer]) -> int:
    """Return the sum of the layers' MACs, of one image."""
    return sum(layer.macs for layer in layers)
