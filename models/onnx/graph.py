"""ONNX files: what goes in and out, and which numbers are stored for what.

What they multiply is counted twice: from the graph alone in models/onnx/layers.py, and by executing it in
models/onnx/reference.py. The rules are in docs/counting.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.models.onnx.nodes import all_nodes, blame, check, graphs, named, stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto

Shape = tuple[int, ...]

ELEMENT_TYPES = {"FLOAT": "float32", "FLOAT16": "float16", "DOUBLE": "float64"}


@dataclass(frozen=True)
class Graph:
    """An ONNX file that takes images.

    `layout` is NCHW or NHWC. `image_size` (pixels) and `batch` are None where any will do; `element_type` is the input's,
    in numpy's words; `weights_bytes` the bytes of all numbers stored in the file or beside it. `seven_bits` says whether
    matrices and kernels of integers, signed and zero in the middle, need no more than that; None where there are none.
    `nodes` counts its operators.
    """

    path: Path
    input: str
    layout: str
    channels: int
    image_size: int | None
    batch: int | None
    element_type: str
    opset: int
    ir_version: int
    outputs: tuple[str, ...]
    weights_bytes: int
    seven_bits: bool | None = None
    nodes: int = 0

    @property
    def parameters(self) -> int:
        """The numbers that are trained, among those that the file stores."""
        from plumbline.models.onnx.layers import numbers

        return numbers(self.path)["parameters"]

    @property
    def precision(self) -> str:
        """The precision that the file's own numbers make: int8-dynamic, int8-static, w8, fp16 or fp32."""
        from plumbline.models.onnx.layers import stored_as

        return stored_as(self.path)

    def outputs_in_float64(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float64], ...]:
        """Run the file in float64, by the ONNX project's reference implementation: each of its outputs, one row an image.

        `images` have shape (n, channels, height, width), whatever the layout.
        """
        from plumbline.models.onnx.reference import reference

        found = reference(self.path, images)
        return found if isinstance(found, tuple) else (found,)


def read(path: Path) -> Graph:
    """Return what an ONNX file takes and gives. Raises ValueError for one that is broken, or that takes no images."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ValueError(f"{path}: expected an ONNX file, there is none")
    try:
        model = onnx.load(path, load_external_data=False)
        beside, tensors = _beside(model), list(stored(model).values())
        for tensor, file, _ in beside:
            if ".." in file.parts or file.is_absolute() or not (path.parent / file).is_file():
                raise onnx.checker.ValidationError(f"the values of {tensor.name!r} are in {str(file)!r}, which is not beside it")
        ends = [(tensor.name, file, start + _bytes(tensor)) for tensor, file, start in beside]
        weights_bytes, seven_bits = sum(map(_bytes, tensors)), _seven_bits(tensors)
        _forget_numbers(tensors)
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, DecodeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a whole ONNX file, with the files it names beside it; onnx {onnx.__version__} says: "
            f"{str(error).strip().splitlines()[0].rstrip('.')}. Export it again, or update onnx"
        ) from error
    if any(graph.sparse_initializer for graph in graphs(model)) or any(
        found.name == "sparse_value" for node in all_nodes(model) for found in node.attribute
    ):
        raise ValueError(f"{path}: expected dense constants, got sparse ones, which are not read here; store them dense")
    with_value = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in with_value]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ValueError(f"{path}: expected one input, the images, got {len(inputs)}: {names}. Make the others constants")
    kind = inputs[0].type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type)
    dimensions = [size.dim_value if size.dim_value > 0 else None for size in kind.shape.dim]
    if name not in ELEMENT_TYPES or len(dimensions) != 4:
        raise ValueError(
            f"{path}: expected one input of images, 4-D and {', '.join(ELEMENT_TYPES)}; got {inputs[0].name}, {name} of shape "
            f"{dimensions}. Export the net from its floating-point images on"
        )
    for tensor_name, file, end in ends:
        if (path.parent / file).stat().st_size < end:
            raise ValueError(f"{path}: {file} ends before the values of {tensor_name!r}; copy the whole of it")
    layout, channels, image_size = _layout(dimensions, path)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return Graph(
        path=path,
        input=inputs[0].name,
        layout=layout,
        channels=channels,
        image_size=image_size,
        batch=dimensions[0],
        element_type=ELEMENT_TYPES[name],
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        ir_version=model.ir_version,
        outputs=tuple(value.name for value in model.graph.output),
        weights_bytes=weights_bytes,
        seven_bits=seven_bits,
        nodes=sum(len(graph.node) for graph in graphs(model)),
    )


def _seven_bits(tensors: Sequence[TensorProto]) -> bool | None:
    """Whether all integer weights lie between -64 and 64. Those in a file beside are not looked into."""
    import onnx
    from onnx import TensorProto as Kinds

    weights = [tensor for tensor in tensors if len(tensor.dims) > 1 and tensor.data_type in (Kinds.INT8, Kinds.UINT8)]
    if not weights:
        return None
    return all(
        tensor.data_type == Kinds.INT8
        and tensor.data_location != Kinds.EXTERNAL
        and abs(onnx.numpy_helper.to_array(tensor).astype("int16")).max(initial=0) <= 64
        for tensor in weights
    )


def digest(path: Path) -> str:
    """Return the beginning of the SHA-256 of an ONNX file and of the files that it names; the same wherever they lie."""
    import onnx

    files = dict.fromkeys(file for _, file, _ in _beside(onnx.load(path, load_external_data=False)))
    found = hashlib.sha256()
    for file in (path, *(path.parent / file for file in files)):
        with file.open("rb") as opened:
            for part in iter(lambda: opened.read(1 << 20), b""):
                found.update(part)
    return found.hexdigest()[:8]


def _beside(model: ModelProto) -> list[tuple[TensorProto, Path, int]]:
    """The tensors whose values are in other files, with these, seen from the model's folder, and where the values begin."""
    import onnx

    outside = [tensor for tensor in stored(model).values() if tensor.data_location == onnx.TensorProto.EXTERNAL]
    places = map(onnx.external_data_helper.ExternalDataInfo, outside)
    return [(tensor, Path(place.location), place.offset or 0) for tensor, place in zip(outside, places)]


def _forget_numbers(tensors: Sequence[TensorProto]) -> None:
    """Leave out the bytes of tensors, in place, for onnx's checker.

    It copies all that it is given, and follows no link to a file beside, and every download of huggingface_hub is links.
    """
    for tensor in tensors:
        if tensor.HasField("raw_data") or tensor.external_data:
            _put(tensor, b"")
            tensor.dims[:] = [0]


def _load(path: Path) -> ModelProto:
    """The model with all of its numbers, wherever links lead to; onnx.load refuses links."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor, file, start in _beside(model):
        with (path.parent / file).open("rb") as opened:
            opened.seek(start)
            _put(tensor, opened.read(_bytes(tensor)))
    return model


def _put(tensor: TensorProto, values: bytes) -> None:
    import onnx

    tensor.raw_data, tensor.data_location = values, onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _layout(dimensions: list[int | None], path: Path) -> tuple[str, int, int | None]:
    """Layout, channels and image size of an input."""
    found = []
    for layout in ("NCHW", "NHWC"):
        sizes = dict(zip(layout, dimensions))
        sides = {sizes["H"], sizes["W"]} - {None}
        if sizes["C"] in (1, 3) and len(sides) < 2:
            found.append((layout, sizes["C"], next(iter(sides), None)))
    if len(found) != 1:
        raise ValueError(
            f"{path}: expected square images of 1 or 3 channels, [batch, channels, size, size] or [batch, size, size, channels]; "
            f"got {dimensions}{', which can be read as either' if found else ''}. Export it with these sizes set"
        )
    return found[0]


def resolve(graph: Graph, image_size: int) -> ModelProto:
    """Return the graph for one image size: functions inlined, and shapes dropped that were known for another size or batch.

    The batch is the file's own, or 1. Raises ValueError where the size does not fit, or where a node multiplies in a way
    that is not counted here.
    """
    import onnx
    import onnx.inliner

    if graph.image_size not in (None, image_size):
        raise ValueError(f"{graph.path}: expected images of {image_size} pixels, it takes {graph.image_size}; export it for them")
    model = _load(graph.path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    for name, node in named(model):
        with blame(graph.path, name, node):
            check(node)
    sizes = {"N": graph.batch or 1, "C": graph.channels, "H": image_size, "W": image_size}
    for value in model.graph.input:
        if value.name == graph.input:
            for letter, dimension in zip(graph.layout, value.type.tensor_type.shape.dim):
                dimension.dim_value = sizes[letter]
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def _bytes(tensor: TensorProto) -> int:
    import onnx

    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = 4 if name.endswith("INT4") else 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-prod(tensor.dims) * bits // 8)
