"""Operators that onnx's reference implementation gets wrong or cannot do, after the standard's text (Operators.md).

Found by comparing onnx 1.23 with ONNX Runtime and torch: pooling with `ceil_mode` averages over what is not there or makes
too many windows (GoogLeNet's 3 x 3 at stride 1), `SAME_LOWER` shifts the maxima, a transposed convolution with groups
raises, and so does DequantizeLinear before opset 19; it also rounds biases of 32 bits to float32. Averaging takes 14 s an
image for Inception-v3, and convolutions of 32 channels on 512 x 512 pixels 2 GB. (Before onnx 1.23 convolutions with
`auto_pad` are wrong too.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from math import prod
from typing import Any

Window = tuple[Any, ...]


def operators() -> list[Any]:
    """Return classes for the `new_ops` of onnx's ReferenceEvaluator."""
    import numpy as np
    from onnx.reference.op_run import OpRun

    class MaxPool(OpRun):
        op_domain = ""

        def _run(self, x: Any, **settings: Any) -> tuple[Any]:
            if len(self.onnx_node.output) > 1:
                raise NotImplementedError("MaxPool's indices are not computed here")
            padded, windows, _ = _pooling(x, settings, -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
            return (reduce(np.maximum, (padded[window] for window in windows)),)

    class AveragePool(OpRun):
        op_domain = ""

        def _run(self, x: Any, **settings: Any) -> tuple[Any]:
            padded, windows, there = _pooling(x, settings, 0)
            return (sum(padded[window] for window in windows) / sum(there[window[2:]] for window in windows),)

    class Conv(OpRun):
        op_domain = ""

        def _run(self, x: Any, weight: Any, bias: Any = None, **settings: Any) -> tuple[Any]:
            return (_convolved(x, weight, bias, settings),)

    class ConvTranspose(OpRun):
        op_domain = ""

        def _run(self, x: Any, weight: Any, bias: Any = None, **settings: Any) -> tuple[Any]:
            return (_transposed(x, weight, bias, settings),)

    class DequantizeLinear(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any = None, axis: int = 1, block_size: int = 0, **_: Any) -> tuple[Any]:
            shape = [-1 if index == axis % x.ndim else 1 for index in range(x.ndim)] if scale.size > 1 else []
            block = (lambda t: np.repeat(t, block_size, axis)) if block_size else (lambda t: t.reshape(shape))
            return ((x.astype(np.float64) - (0 if zero is None else block(zero.astype(np.float64)))) * block(scale),)

    return [MaxPool, AveragePool, Conv, ConvTranspose, DequantizeLinear]


def _pooling(x: Any, settings: dict[str, Any], fill: float) -> tuple[Any, list[Window], Any]:
    """The padded input, one strided view of it for each place in the kernel, and what counts in an average (1 or 0)."""
    import numpy as np

    kernel, strides, dilations, pads = _settings(settings, settings["kernel_shape"])
    automatic = (settings.get("auto_pad") or "NOTSET").removeprefix("SAME_")
    before, after, outputs = [], [], []
    for axis, size in enumerate(x.shape[2:]):
        step, span = strides[axis], dilations[axis] * (kernel[axis] - 1) + 1
        if automatic in ("UPPER", "LOWER"):
            output = -(-size // step)
            total = max((output - 1) * step + span - size, 0)
            first = total // 2 if automatic == "UPPER" else total - total // 2
            last = total - first
        else:
            first, last = pads[axis], pads[axis + len(kernel)]
            room = size + first + last - span
            output = (-(-room // step) if settings.get("ceil_mode") else room // step) + 1
            if settings.get("ceil_mode"):  # a window must start inside the image or its first padding
                output -= (output - 1) * step >= size + first
        before.append(first)
        after.append(last)
        outputs.append(output)
    beyond = [
        max((output - 1) * step + far * (length - 1) + 1 - size - first - last, 0)
        for output, step, far, length, size, first, last in zip(
            outputs, strides, dilations, kernel, x.shape[2:], before, after, strict=True
        )
    ]
    inner, outer = list(zip(before, after)), [(0, more) for more in beyond]
    border = bool(settings.get("count_include_pad"))
    there = np.pad(np.pad(np.ones(x.shape[2:]), inner, constant_values=border), outer)
    around = [(0, 0), (0, 0), *((first, last + more) for (first, last), more in zip(inner, beyond))]
    return np.pad(x, around, constant_values=fill), list(_windows(kernel, outputs, strides, dilations)), there


def _convolved(x: Any, weight: Any, bias: Any, settings: dict[str, Any]) -> Any:
    """One matrix product for each place in the kernel, so that no input element is held more than twice."""
    import numpy as np

    kernel, groups = weight.shape[2:], settings.get("group") or 1
    padded, windows, _ = _pooling(x, {**settings, "kernel_shape": kernel}, 0)
    sizes = padded[windows[0]].shape[2:]
    weights = weight.reshape(groups, -1, *weight.shape[1:])
    out = np.zeros((len(x), *weights.shape[:2], prod(sizes)), x.dtype)
    for place, window in zip(np.ndindex(*kernel), windows):
        at = (..., *place)
        out += weights[at] @ padded[window].reshape(len(x), groups, weight.shape[1], -1)
    if bias is not None:
        out += bias.reshape(*weights.shape[:2], 1)
    return out.reshape(len(x), len(weight), *sizes)


def _transposed(x: Any, weight: Any, bias: Any, settings: dict[str, Any]) -> Any:
    """Each input element puts its multiple of the kernel into the output."""
    import numpy as np

    kernel, strides, dilations, pads = _settings(settings, weight.shape[2:])
    count, sizes, groups = len(x), x.shape[2:], settings.get("group") or 1
    extra = settings.get("output_padding") or [0] * len(kernel)
    full = [(size - 1) * step + far * (length - 1) + 1 for size, step, far, length in zip(sizes, strides, dilations, kernel)]
    full = [size + more for size, more in zip(full, extra)]
    automatic = settings.get("auto_pad") or "NOTSET"
    sizes_out = settings.get("output_shape")
    if sizes_out is None and "SAME" in automatic:
        sizes_out = [size * step for size, step in zip(sizes, strides)]
    before = pads[: len(kernel)]
    if sizes_out is None:
        sizes_out = [size - first - last for size, first, last in zip(full, before, pads[len(kernel) :])]
    else:
        total = [size - asked for size, asked in zip(full, sizes_out)]
        before = [size // 2 if automatic == "SAME_UPPER" else size - size // 2 for size in total]
    images = x.reshape(count, groups, -1, prod(sizes))
    weights = weight.reshape(groups, images.shape[2], -1, *kernel)
    out = np.zeros((count, weights.shape[2] * groups, *full), x.dtype)
    for place, window in zip(np.ndindex(*kernel), _windows(kernel, sizes, strides, dilations)):
        at = (..., *place)
        out[window] += (weights[at].transpose(0, 2, 1) @ images).reshape(count, -1, *sizes)
    if bias is not None:
        out += bias.reshape(-1, *[1] * len(kernel))
    inside = (slice(None), slice(None), *(slice(first, first + size) for first, size in zip(before, sizes_out)))
    return out[inside]


def _settings(settings: dict[str, Any], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations and pads."""
    ones = [1] * len(kernel)
    pads = settings.get("pads") if (settings.get("auto_pad") or "NOTSET") == "NOTSET" else None
    strides, dilations = settings.get("strides") or ones, settings.get("dilations") or ones
    return list(kernel), list(strides), list(dilations), list(pads or [0, 0] * len(kernel))


def _windows(kernel: Sequence[int], outputs: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Iterator[Window]:
    """For each place in the kernel, where it lies for all outputs."""
    import numpy as np

    for place in np.ndindex(*kernel):
        starts = [index * far for index, far in zip(place, dilations)]
        ends = (slice(at, at + (count - 1) * step + 1, step) for at, count, step in zip(starts, outputs, strides))
        yield slice(None), slice(None), *ends
