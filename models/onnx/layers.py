"""Parameters and MACs of an ONNX file, from its graph alone.

In ONNX everything stored is a constant; which numbers are trained is told by what reads them (docs/counting.md).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.models.layers import Layer
from plumbline.models.onnx.graph import Graph, Shape, read, resolve
from plumbline.models.onnx.nodes import PRODUCTS, all_nodes, attribute, blame, depends, inputs, named, stored, summed
from plumbline.models.onnx.shapes import infer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

# Inputs that are trained whatever their type and size, ...
TRAINED = {
    **PRODUCTS, "Conv": (1, 2), "ConvTranspose": (1, 2), "ConvInteger": (1,), "QLinearConv": (3, 8), "Gemm": (0, 1, 2),
    "BatchNormalization": (1, 2), "GroupNormalization": (1, 2), "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2), "RMSNormalization": (1,), "PRelu": (1,), "DequantizeLinear": (0,),
}  # fmt: skip
# ... and inputs that never are, by what they are instead.
SET_ASIDE: dict[str, dict[str, tuple[int, ...]]] = {
    "running statistics": {"BatchNormalization": (3, 4)},
    "quantisation": {
        "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3), "MatMulInteger": (2, 3),
        "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    },
    "settings": {"Resize": (1, 2), "Upsample": (1,), "OneHot": (2,)},
}  # fmt: skip
# A tensor is what it is used for, however it is written down on its way there.
CARRIERS = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"}


def layers(path: Path, image_size: int) -> tuple[Layer, ...]:
    """Return what each node that multiplies or holds parameters takes, for one image, in the graph's order.

    Shapes are those that ONNX infers without executing anything. A tensor that is used twice belongs to the first node.
    Raises ValueError, with the node's name, where it multiplies in a way that is not counted here, or its shape is unknown.
    """
    graph = read(path)
    model = resolve(graph, image_size)
    shapes, moving = infer(model, graph, image_size), depends(model, graph.input)
    trained, producers = _trained(model), _producers(model)
    made = _made(model, graph)

    def shape(name: str) -> Shape:
        if name not in shapes:
            raise ValueError(f"the shape of {name!r} cannot be told without executing it; export it with fixed sizes")
        return shapes[name]

    found = []
    for name, node in named(model):
        read_here, parameters, macs, fan_in = inputs(node), 0, 0, 0
        if not moving.isdisjoint(read_here):  # the others make constants, which belong to the node that uses them
            constants = [leaf for before in read_here if before not in moving for leaf in _leaves(before, producers)]
            parameters = sum(trained.pop(leaf, 0) for leaf in constants)
            with blame(path, name, node):
                parameters += sum(prod(shape(before)) for before in read_here if before in made)
            made.difference_update(read_here)
        if node.op_type in PRODUCTS:
            with blame(path, name, node):
                macs, fan_in = product(node, shape)
                macs = one_image(macs, graph) if not moving.isdisjoint(read_here) else macs
        if parameters or macs:
            found.append(Layer(name, parameters, macs, fan_in))
    return tuple(found)


def numbers(path: Path) -> dict[str, int]:
    """Return how many numbers the file stores, by what they are for; `parameters` are those that are trained.

    They are looked at one by one, from the file to the nodes that read them; `layers` goes the other way.
    """
    graph = read(path)
    model = resolve(graph, graph.image_size or 1)
    tensors, total = stored(model), Counter({"parameters": 0})
    for name, kind in _kinds(model).items():
        total[kind] += prod(tensors[name].dims)
    total["parameters"] += sum(_computed(model, graph, name).size for name in _made(model, graph))
    return dict(total)


def stored_as(path: Path) -> str:
    """Return the precision that a file's own numbers make: int8-dynamic, int8-static, w8, fp16 or fp32."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    operators = {node.op_type for node in all_nodes(model)}
    if operators & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}:
        return "int8-dynamic"
    if operators & {"QuantizeLinear", "QLinearConv", "QLinearMatMul"}:
        return "int8-static"
    if "DequantizeLinear" in operators:
        return "w8"
    sizes = Counter({"fp16": 0, "fp32": 0})
    for tensor in stored(model).values():
        sizes["fp16" if tensor.data_type == onnx.TensorProto.FLOAT16 else "fp32"] += prod(tensor.dims)
    return "fp16" if sizes["fp16"] > sizes["fp32"] else "fp32"


def product(node: NodeProto, shape: Callable[[str], Shape]) -> tuple[int, int]:
    """Return the MACs of a node that multiplies, and how many are summed up into one element of its output."""
    a, b = (shape(node.input[index]) for index in PRODUCTS[node.op_type])
    out = shape(node.output[0])
    if node.op_type == "ConvTranspose":  # every input element meets the whole kernel; an output element at most so many
        return prod(a) * prod(b[1:]), a[1] // attribute(node, "group", 1) * prod(b[2:])
    if node.op_type == "Attention":  # queries by keys, and the weights by values; 3-D inputs hold the heads side by side
        if any(node.input[4:6]):
            raise ValueError("with past keys and values it is not counted here")
        heads = attribute(node, "q_num_heads", 1) if len(a) == 3 else 1
        return (prod(a) + prod(out)) * b[-2], a[-1] // heads + b[-2]
    if "Conv" in node.op_type:
        fan_in = prod(b[1:])
    elif node.op_type == "Einsum":
        indices, both = summed(node)
        fan_in = prod(a[indices.index(index)] for index in both)
    else:
        fan_in = a[0] if attribute(node, "transA", 0) else a[-1]
    return prod(out) * fan_in, fan_in


def one_image(macs: int, graph: Graph) -> int:
    """Return the share of one image in the MACs of the file's own batch."""
    share, rest = divmod(macs, graph.batch or 1)
    if rest:
        raise ValueError(f"its {macs} MACs are not {graph.batch} times those of one image; export it for a batch of 1")
    return share


def _made(model: ModelProto, graph: Graph) -> set[str]:
    """The constants in the places of trained inputs that are made of no trained tensor: as ConstantOfShape does, of a shape."""
    moving, trained, producers = depends(model, graph.input), _trained(model), _producers(model)
    return {
        node.input[index]
        for node in model.graph.node
        if not moving.isdisjoint(inputs(node))
        for index in TRAINED.get(node.op_type, ())
        if index < len(node.input)
        and node.input[index] in producers
        and node.input[index] not in moving
        and trained.keys().isdisjoint(_leaves(node.input[index], producers))
    }


def _leaves(name: str, producers: dict[str, NodeProto]) -> Iterator[str]:
    """The tensors from which a constant is made, itself among them."""
    yield name
    for before in inputs(producers[name]) if name in producers else ():
        yield from _leaves(before, producers)


def _computed(model: ModelProto, graph: Graph, name: str) -> NDArray[Any]:
    """A constant. Raises ValueError, with the name of what makes it, where it follows from the images' shape."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    producers = _producers(model)
    needed = set(_leaves(name, producers))
    if graph.input in needed:
        with blame(graph.path, producers[name].name or name, producers[name]):
            raise ValueError(
                "the numbers that it makes are trained, and their shape follows from the images'; export it with them"
            )
    nodes = [node for node in model.graph.node if not needed.isdisjoint(node.output)]
    known = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    alone = onnx.helper.make_graph(nodes, "constant", [], [onnx.ValueInfoProto(name=name)], initializer=known)
    evaluator = ReferenceEvaluator(onnx.helper.make_model(alone, opset_imports=model.opset_import))
    computed: NDArray[Any] = dict(zip([name], evaluator.run([name], {})))[name]
    return computed


def _trained(model: ModelProto) -> dict[str, int]:
    """The numbers in each stored tensor that is trained."""
    tensors = stored(model)
    return {name: prod(tensors[name].dims) for name, kind in _kinds(model).items() if kind == "parameters"}


def _kinds(model: ModelProto) -> dict[str, str]:
    """What each stored tensor is, from the inputs that it reaches."""
    consumers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    for node in all_nodes(model):
        for index, name in enumerate(node.input):
            consumers[name].append((node, index))
    producers = _producers(model)

    def uses(name: str) -> Iterator[tuple[NodeProto, int]]:
        for node, index in consumers[name]:
            if node.op_type in CARRIERS and index == 0:
                yield from uses(node.output[0])
            else:
                yield node, index

    def aside(node: NodeProto, index: int) -> str:
        # dynamic quantisation multiplies the scale of the weights by that of the images
        if node.op_type == "Mul" and (other := producers.get(node.input[1 - index])) is not None:
            return "quantisation" if other.op_type == "DynamicQuantizeLinear" else ""
        return next((word for word, places in SET_ASIDE.items() if index in places.get(node.op_type, ())), "")

    def kind(name: str, tensor: TensorProto) -> str:
        used = list(uses(name))
        reasons = {aside(*use) for use in used}
        if "" not in reasons:
            return min(reasons, default="unused")
        if any(index in TRAINED.get(node.op_type, ()) for node, index in used):
            return "parameters"
        if not _floating(tensor):
            return "shapes and indices"
        return "scalars" if prod(tensor.dims) == 1 else "parameters"

    return {name: kind(name, tensor) for name, tensor in stored(model).items()}


def _floating(tensor: TensorProto) -> bool:
    import onnx

    return onnx.TensorProto.DataType.Name(tensor.data_type).startswith(("FLOAT", "BFLOAT", "DOUBLE"))


def _producers(model: ModelProto) -> dict[str, NodeProto]:
    return {output: node for node in all_nodes(model) for output in node.output}
