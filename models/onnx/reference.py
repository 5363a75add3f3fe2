"""An ONNX graph executed in float64 by the reference implementation of the ONNX project, and counted while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.models.onnx.graph import Graph, Shape, read, resolve
from plumbline.models.onnx.layers import one_image
from plumbline.models.onnx.nodes import PRODUCTS, attribute, blame, depends, inputs, named
from plumbline.models.onnx.operators import operators

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto, TensorProto

# Where an operator is told a floating type by number.
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")


def reference(path: Path, images: NDArray[np.float32]) -> NDArray[np.float64] | tuple[NDArray[np.float64], ...]:
    """Return the outputs for images of shape (count, channels, height, width); a tuple where there are several.

    Every floating-point number of the file is a double, and so is what is computed from it. Quantised integers stay what
    they are, and so do the nodes that make and read them: the reference of a quantised graph is the same graph, with
    exact arithmetic between its roundings. Images go one by one, or in the file's own batch.
    """
    import numpy as np

    graph = read(path)
    execute = Evaluator(graph, images.shape[-1])
    step = graph.batch or 1
    rows = [index % len(images) for index in range(-(-len(images) // step) * step)]
    parts = [
        {name: value for name, value in execute(images[rows[start : start + step]]) if name in graph.outputs}
        for start in range(0, len(rows), step)
    ]
    for name, value in parts[0].items():
        if value.shape[:1] != (step,):
            raise ValueError(f"{path}: expected outputs with one row an image, got {name!r} of shape {value.shape}")
    outputs = tuple(np.concatenate([part[name] for part in parts])[: len(images)] for name in graph.outputs)
    return outputs[0] if len(outputs) == 1 else outputs


def executed(path: Path, image_size: int) -> dict[str, int]:
    """Count the MACs of one image by node, with torch's FlopCounterMode and the operands that were seen at run time.

    Nothing here relies on the inferred shapes or on the arithmetic of models/onnx/layers.py.
    """
    import numpy as np

    graph = read(path)
    execute = Evaluator(graph, image_size)
    shape = (graph.batch or 1, graph.channels, image_size, image_size)
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    moving = depends(execute.model, graph.input)
    nodes = [(name, node) for name, node in named(execute.model) if node.op_type in PRODUCTS]
    needed = {tensor for _, node in nodes for tensor in (*node.input, *node.output[:1]) if tensor}
    shapes = {name: value.shape for name, value in execute(pixels) if name in needed}
    found = {}
    for name, node in nodes:
        a, b = (shapes[node.input[index]] for index in PRODUCTS[node.op_type])
        with blame(path, name, node):
            macs = _torch_macs(node, a, b, shapes[node.output[0]])
            found[name] = macs if moving.isdisjoint(node.input) else one_image(macs, graph)
    return found


class Evaluator:
    """The graph, with every floating-point number in it made a double."""

    def __init__(self, graph: Graph, image_size: int) -> None:
        from onnx.reference import ReferenceEvaluator

        self._graph, self.model = graph, resolve(graph, image_size)
        _widen(self.model.graph)
        try:
            self._evaluator = ReferenceEvaluator(self.model, new_ops=operators())
        except NotImplementedError as error:
            raise ValueError(f"{graph.path}: onnx's reference implementation lacks something of it: {error}") from error

        last = {name: index for index, node in enumerate(self.model.graph.node) for name in (*inputs(node), *node.output)}
        self._read_last = [[name for name in last if last[name] == index] for index in range(len(self.model.graph.node))]

    def __call__(self, images: NDArray[np.float32]) -> Iterator[tuple[str, Any]]:
        """Every tensor by name, as soon as it is there, for images of shape (batch, channels, height, width).

        None is held here for longer than until the last node that reads it: all of them together take gigabytes at 512 pixels.
        """
        import numpy as np

        pixels = images.astype(np.float64)
        if self._graph.layout == "NHWC":
            pixels = pixels.transpose(0, 2, 3, 1)
        held = {**self._evaluator.rt_inits_, self._graph.input: np.ascontiguousarray(pixels)}
        del pixels
        yield from [*held.items()]
        for node, read_last in zip(self._evaluator.rt_nodes_, self._read_last, strict=True):
            self._run(node, held)
            for name in node.output:
                if name in held:
                    yield name, held[name]
            for name in read_last:
                held.pop(name, None)

    def _run(self, node: Any, held: dict[str, Any]) -> None:
        """Put the outputs of a node of onnx's evaluator beside what it reads."""
        import numpy as np

        arguments = [held[name] if name else None for name in node.input]
        outputs = node.run(*arguments, context=held) if node.need_context() else node.run(*arguments)
        for name, value in zip(node.output, outputs):
            if getattr(value, "dtype", None) in (np.float32, np.float16):
                raise ValueError(f"{self._graph.path}: {name!r} is {value.dtype}; onnx's reference is no float64 there")
            if name:
                held[name] = value


def _widen(graph: GraphProto) -> None:
    """Make every floating-point number a double. In place."""
    import onnx
    from onnx import AttributeProto, TensorProto

    narrow = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in narrow:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for found in node.attribute:
            if found.type == AttributeProto.TENSOR:
                _widen_tensor(found.t)
            elif found.type == AttributeProto.GRAPH:
                _widen(found.g)
            elif found.name in TYPE_ATTRIBUTES and found.i in narrow:
                found.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and found.name in ("value_float", "value_floats"):
                values = onnx.helper.get_attribute_value(found)
                shape = [len(values)] if found.name == "value_floats" else []
                listed = list(values) if shape else [values]
                tensor = onnx.helper.make_tensor("value", TensorProto.DOUBLE, shape, listed)
                found.CopyFrom(onnx.helper.make_attribute("value", tensor))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = onnx.helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0])
            node.attribute.append(onnx.helper.make_attribute("value", zero))


def _widen_tensor(tensor: TensorProto) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _torch_macs(node: NodeProto, a: Shape, b: Shape, out: Shape) -> int:
    """MACs of torch's own operation on operands of these shapes, which must give an output of this shape."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        result = _in_torch(node, a, b, out)
    if prod(result) != prod(out):
        raise ValueError(f"torch's output has shape {result}, the reference's {out}")
    return counter.get_total_flops() // 2


def _in_torch(node: NodeProto, a: Shape, b: Shape, out: Shape) -> Shape:
    """The shape that torch gives."""
    import torch

    if "Conv" in node.op_type:
        transposed = node.op_type == "ConvTranspose"
        ones = [1] * (len(b) - 2)
        strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
        sizes = zip(out[2:], strides, b[2:], dilations)
        # the input as it is after padding, as far as the windows reach
        reach = a if transposed else (*a[:2], *((size - 1) * step + (kernel - 1) * far + 1 for size, step, kernel, far in sizes))
        settings = (strides, [0 for _ in ones], dilations, transposed, [0 for _ in ones], attribute(node, "group", 1))
        result = torch.convolution(torch.empty(reach), torch.empty(b), None, *settings).shape
        return (*result[:2], *out[2:]) if transposed else tuple(result)  # the rest is padding
    if node.op_type == "Einsum":
        return tuple(torch.einsum(attribute(node, "equation", b"").decode(), torch.empty(a), torch.empty(b)).shape)
    if node.op_type == "Attention":
        heads = attribute(node, "q_num_heads", 1)
        queries = torch.empty(a if len(a) == 4 else (a[0], heads, a[1], a[2] // heads))
        keys = torch.empty(*queries.shape[:2], b[-2], queries.shape[-1])
        width = out[-1] if len(out) == 4 else out[-1] // heads
        return tuple((queries @ keys.mT @ torch.empty(*queries.shape[:2], b[-2], width)).shape)
    left, right = torch.empty(a), torch.empty(b)
    if node.op_type == "Gemm":
        left = left.T if attribute(node, "transA", 0) else left
        right = right.T if attribute(node, "transB", 0) else right
    # a vector is a matrix of one row or column; torch's counter knows no products of vectors
    return tuple(((left[None] if left.dim() == 1 else left) @ (right[:, None] if right.dim() == 1 else right)).shape)
