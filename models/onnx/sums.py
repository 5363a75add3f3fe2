"""What an ONNX graph adds up without multiplying: no MACs, and rounding errors all the same."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.models.layers import Layer
from plumbline.models.onnx.graph import Shape, read, resolve
from plumbline.models.onnx.nodes import attribute, depends, named
from plumbline.models.onnx.shapes import infer

if TYPE_CHECKING:
    from onnx import NodeProto

WHOLE_PICTURE = {"GlobalAveragePool", "GlobalLpPool", "InstanceNormalization", "MeanVarianceNormalization"}
WINDOW = {"AveragePool", "LpPool"}
REDUCING = {"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"}
FROM_AN_AXIS = {"LayerNormalization", "RMSNormalization"}
SOFTMAX = {"Softmax", "LogSoftmax"}


def sums(path: Path, image_size: int) -> tuple[Layer, ...]:
    """Return the nodes that sum over pixels, windows or features of images, with `fan_in` terms an element, in the graph's order.

    One whose shapes cannot be told without executing it is left out. Raises ValueError as `models.onnx.layers.layers` does.
    """
    graph = read(path)
    model = resolve(graph, image_size)
    shapes, moving = infer(model, graph, image_size), depends(model, graph.input)
    found = []
    for name, node in named(model):
        if node.input and node.input[0] in moving and node.input[0] in shapes:
            terms = _terms(node, shapes[node.input[0]], shapes.get(node.output[0]), graph.opset)
            if terms > 1:
                found.append(Layer(name, 0, 0, terms))
    return tuple(found)


def _terms(node: NodeProto, shape: Shape, result: Shape | None, opset: int) -> int:
    """How many numbers are added up into one of the node's; 0 for an operator that adds none up."""
    if node.op_type in WHOLE_PICTURE:
        return prod(shape[2:])
    if node.op_type in WINDOW:
        return prod(attribute(node, "kernel_shape", ()))
    if node.op_type in REDUCING and result is not None:
        return prod(shape) // max(1, prod(result))
    if node.op_type in FROM_AN_AXIS:
        return prod(shape[attribute(node, "axis", -1) :])
    if node.op_type == "GroupNormalization":
        return prod(shape[1:]) // attribute(node, "num_groups", 1)
    if node.op_type in SOFTMAX:  # before opset 13 it flattens what is behind its axis
        return shape[attribute(node, "axis", -1)] if opset >= 13 else prod(shape[attribute(node, "axis", 1) :])
    return 0
