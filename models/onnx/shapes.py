"""The shapes in an ONNX graph, told without executing it."""

from __future__ import annotations

import itertools
from math import prod
from typing import TYPE_CHECKING, Any

from plumbline.models.onnx.graph import Graph, Shape
from plumbline.models.onnx.nodes import attribute, nested, stored

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Longer tensors are no shapes; the longest that TorchScript's exporter computes is a Pad's, of 8 numbers.
LONGEST = 64


def infer(model: ModelProto, graph: Graph, image_size: int) -> dict[str, Shape]:
    """Return the shape of each tensor for which it can be told; `model` is the graph as `resolve` returns it.

    ONNX's own inference follows the values of shapes through a few operators only (not through the division by a window's
    size, as in Swin). What it leaves open is computed from the shapes that it found, until it finds no more.
    """
    import onnx

    known = onnx.ModelProto()
    known.CopyFrom(model)
    while True:
        try:
            inferred = onnx.shape_inference.infer_shapes(known, check_type=True, strict_mode=True, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise ValueError(
                f"{graph.path}: its shapes do not fit images of {image_size} pixels: {str(error).strip()}"
            ) from error
        found: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
        for value in itertools.chain(inferred.input, inferred.value_info, inferred.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
                found[value.name] = tuple(size.dim_value for size in kind.shape.dim)
        if not _fold(known, found):
            return found


def _fold(model: ModelProto, shapes: dict[str, Shape]) -> bool:
    """Put constants in the place of the nodes that compute with known shapes. In place; says whether there were any."""
    import numpy as np
    from onnx import numpy_helper

    small = {name: numpy_helper.to_array(tensor) for name, tensor in stored(model).items() if prod(tensor.dims) <= LONGEST}
    values: dict[str, Any] = {}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            ends = slice(attribute(node, "start", 0), attribute(node, "end", None))
            values[node.output[0]] = np.array(shapes[node.input[0]][ends], np.int64)
            continue
        given = {name: values.get(name, small.get(name)) for name in node.input if name}
        if values.keys().isdisjoint(given) or any(value is None for value in given.values()) or any(nested(node)):
            kept.append(node)
        else:
            values.update(_evaluate(model, node, given))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return bool(values)


def _evaluate(model: ModelProto, node: NodeProto, given: dict[str, Any]) -> dict[str, Any]:
    """The outputs of one node, of whose inputs all are known."""
    from onnx import ValueInfoProto, helper
    from onnx.reference import ReferenceEvaluator

    names = [name for name in node.output if name]
    ends = [ValueInfoProto(name=name) for name in given], [ValueInfoProto(name=name) for name in names]
    alone = helper.make_model(helper.make_graph([node], "alone", ends[0], ends[1]), opset_imports=model.opset_import)
    return dict(zip(names, ReferenceEvaluator(alone).run(names, given)))
