"""Nodes of an ONNX graph: which of them multiply, what they are called, and what they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# Operators that multiply, each with the two inputs whose product they take.
PRODUCTS = {
    "Conv": (0, 1), "ConvTranspose": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3),
    "Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
    "Einsum": (0, 1), "Attention": (0, 1),
}  # fmt: skip
# Of all operators that the standard has up to this opset, these multiply matrices too, and are not counted here.
KNOWN_OPSET = 28
UNCOUNTED = {"AffineGrid", "CausalConvWithState", "DFT", "DeformConv", "Det", "GRU", "LSTM", "LinearAttention", "RNN", "STFT"}


def check(node: NodeProto) -> None:
    """Raise ValueError for a node whose products would be overlooked."""
    import onnx

    for inner in (node, *nested(node)):
        known = inner.domain in ("", "ai.onnx") and onnx.defs.has(inner.op_type, KNOWN_OPSET, "")
        if not known or inner.op_type in UNCOUNTED or (inner is not node and inner.op_type in PRODUCTS):
            operator = f"{inner.domain}:{inner.op_type}" if inner.domain else inner.op_type
            raise ValueError(
                f"{operator}{'' if inner is node else f', node {inner.name!r} of its subgraph,'} is not counted here, and 0 MACs "
                "would be a guess; expected Conv, Gemm, MatMul and the like in the main graph, as before a runtime's own fusions"
            )
        if inner.op_type == "Einsum":
            summed(inner)


def summed(node: NodeProto) -> tuple[str, str]:
    """Return the first operand's indices of an Einsum that is a matrix product, and those over which it sums."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    operands, _, result = equation.partition("->")
    terms = operands.split(",")
    both = set(terms[0]) - set(result)
    plain = all(term.isalpha() and len(set(term)) == len(term) for term in terms)
    if not (plain and result and len(terms) == 2 and both and both == set(terms[1]) - set(result)):
        raise ValueError(f"{equation!r} is not counted here; expected a product of two tensors, summed over what both have")
    return terms[0], "".join(both)


@contextmanager
def blame(path: Path, name: str, node: NodeProto) -> Iterator[None]:
    """Name the node in a ValueError that its block raises."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: node {name!r}, {node.op_type}: {error}") from None


def named(model: ModelProto) -> list[tuple[str, NodeProto]]:
    """Return the nodes under names that differ: their own, or operator and output where that is missing or not unique."""
    names = Counter(node.name for node in model.graph.node)
    return [
        (node.name if node.name and names[node.name] == 1 else f"{node.name or node.op_type}:{node.output[0]}", node)
        for node in model.graph.node
    ]


def depends(model: ModelProto, name: str) -> set[str]:
    """Return the tensors whose values depend on those of tensor `name`."""
    moving = {name}
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and not moving.isdisjoint(inputs(node)):
            moving.update(node.output)
    return moving


def stored(model: ModelProto) -> dict[str, TensorProto]:
    """Return every tensor in the file, subgraphs' included, by the name under which nodes use it."""
    import onnx

    tensors = {tensor.name: tensor for graph in graphs(model) for tensor in graph.initializer}
    for node in all_nodes(model):
        for found in node.attribute if node.op_type == "Constant" else ():
            if found.name == "value":
                tensors[node.output[0]] = found.t
            elif found.name.startswith(("value_float", "value_int")):
                kind = onnx.TensorProto.FLOAT if "float" in found.name else onnx.TensorProto.INT64
                values = onnx.helper.get_attribute_value(found)
                listed, shape = (values, [len(values)]) if found.name.endswith("s") else ([values], [])
                tensors[node.output[0]] = onnx.helper.make_tensor(node.output[0], kind, shape, listed)
    return tensors


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)


def inputs(node: NodeProto) -> list[str]:
    """Return the tensors that a node reads, in its subgraphs too."""
    return [name for inner in (node, *nested(node)) for name in inner.input if name]


def all_nodes(model: ModelProto) -> list[NodeProto]:
    return [inner for node in model.graph.node for inner in (node, *nested(node))]


def nested(node: NodeProto) -> Iterator[NodeProto]:
    """Return the nodes of a node's subgraphs."""
    for found in node.attribute:
        for inner in found.g.node:
            yield inner
            yield from nested(inner)


def graphs(model: ModelProto) -> list[GraphProto]:
    return [model.graph, *(found.g for node in all_nodes(model) for found in node.attribute if found.HasField("g"))]
