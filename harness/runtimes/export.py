"""From a torch module to an ONNX file, and from there to one with integers or small weights."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from plumbline.fastpath import without_attention_fast_path
from plumbline.harness.outcomes import NotAsAsked, Unsupported, first_line
from plumbline.harness.runtimes.adapter import RunConfig

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

QUANTISED = ("Conv", "MatMul", "Gemm")
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False}


@cache
def prepare() -> None:
    """Export something tiny: what is imported and looked up for that takes 2.5 s, and serves all forks of this process."""
    import torch

    with contextlib.suppress(ImportError):  # the build will say it
        import onnxruntime.quantization  # noqa: F401
    torch.set_num_threads(1)  # or torch would start some
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), contextlib.suppress(Unsupported):  # the build will say it
        export(torch.nn.Flatten(), torch.ones(2, 1, 1, 1), Path(scratch) / "tiny.onnx")


def export_once(net: nn.Module, images: Tensor, folder: Path, opset: int | None = None) -> Path:
    """Return the file that `export` writes, alone with its numbers in a folder; as it is, where it was written before."""
    file = folder / "exported.onnx"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / folder.name
            made.mkdir()
            export(net, images, made / file.name, opset)
            made.rename(folder)  # all of it, or nothing
    return file


def export(net: nn.Module, images: Tensor, path: Path, opset: int | None = None) -> None:
    """Write a net in eval mode, by torch's own exporter, its batch left open. `images`: an example, two or more.

    With `opset`, by torch's older exporter, which can still write it, with the IR version that belongs to it: the newer one
    writes 18 without a word. Raises Unsupported with torch's reason where it cannot be exported.
    """
    import torch

    with _quiet():
        try:
            if opset is not None:
                _export_traced(net, images, path, opset)
                return
            # captured here, as older exporters trace a net that cannot be captured, and leave out the ways it did not go
            captured = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
            program = torch.onnx.export(captured, dynamo=True, input_names=["images"])
        except (RuntimeError, ValueError) as error:  # OnnxExporterError is a RuntimeError
            raise Unsupported(f"torch {torch.__version__} cannot export it to ONNX: {_reason(error)}") from error
    assert program is not None
    program.save(str(path), external_data=_large(net))
    _forget_sources(path)


def _forget_sources(path: Path) -> None:
    """Leave out from which lines of which files each node comes: paths of this machine, and other bytes for the same net."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        del part.metadata_props[:]
    onnx.save(model, path)


def _export_traced(net: nn.Module, images: Tensor, path: Path, opset: int) -> None:
    import onnx
    import torch

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None, **__: Any) -> Tensor:
        """Return the products that scaled_dot_product_attention stands for, which opset 13 does not have in one."""
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return scores.softmax(dim=-1) @ value

    axes = {"images": {0: "batch"}, "outputs": {0: "batch"}}
    names = {"input_names": ["images"], "output_names": ["outputs"], "dynamic_axes": axes}
    with without_attention_fast_path(), patch("torch.nn.functional.scaled_dot_product_attention", attention):
        torch.onnx.export(net, (images,), str(path), opset_version=opset, dynamo=False, **names)  # type: ignore[arg-type]
    model = onnx.load(path)
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    found = {entry.domain: entry.version for entry in onnx.load(path, load_external_data=False).opset_import}
    if found != {"": opset}:
        raise NotAsAsked(f"asked for opset {opset}, torch {torch.__version__} wrote {found}")


def store_small(path: Path, small: Path, weights: str) -> None:
    """Write an ONNX file with every kernel and matrix stored as `weights`, int8 (per output channel) or float16.

    They are multiplied in fp32: a node before each use makes them large again, as TFLite does with float16 weights.
    """
    import numpy
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph, nodes, used = model.graph, [], {}
    channel = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
    for node in graph.node:
        if node.op_type in channel:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)  # of a Gemm
            used[node.input[1]] = 0 if transposed else channel[node.op_type]
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.name not in used or values.ndim < 2 or values.dtype != numpy.float32:
            continue
        name, axis = tensor.name, used[tensor.name] % values.ndim
        graph.initializer.remove(tensor)
        if weights == "float16":
            graph.initializer.append(numpy_helper.from_array(values.astype(numpy.float16), f"{name}.small"))
            nodes.append(helper.make_node("Cast", [f"{name}.small"], [name], f"{name}.large", to=onnx.TensorProto.FLOAT))
            continue
        others = tuple(dimension for dimension in range(values.ndim) if dimension != axis)
        scale = numpy.maximum(numpy.abs(values).max(axis=others), numpy.finfo(numpy.float32).tiny) / numpy.float32(127)
        steps = numpy.rint(values / numpy.expand_dims(scale, others)).astype(numpy.int8)
        parts = {"small": steps, "scale": scale, "zero": numpy.zeros(scale.shape, numpy.int8)}
        graph.initializer.extend(numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts.items())
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}.{part}" for part in parts], [name], f"{name}.large", axis=axis)
        )
    given = list(graph.node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*nodes, *given])
    _save(model, small)


def stored_share(file: Path, weights: str) -> float:
    """Return the share of a file's kernels and matrices, by numbers, that is stored in a format."""
    import onnx

    expected = {"int8": onnx.TensorProto.INT8, "float16": onnx.TensorProto.FLOAT16}[weights]
    stored = [tensor for tensor in onnx.load(file, load_external_data=False).graph.initializer if len(tensor.dims) > 1]
    inside = sum(prod(tensor.dims) for tensor in stored if tensor.data_type == expected)
    return inside / max(1, sum(prod(tensor.dims) for tensor in stored))


def export_as(
    net: nn.Module,
    example: Tensor,
    calibration: Tensor | None,
    config: RunConfig,
    file: Path,
    opset: int | None,
    *,
    seven_bits: bool = False,
    symmetric: bool = False,
) -> None:
    """Write a net to `file` in the precision of `config`; the export itself is shared with other builds of the same net.

    `seven_bits` and `symmetric` are those of `quantise`.
    """
    precision = config.precision
    if precision.dtype == "float16":
        net, example = net.half(), example.half()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (config.shared or Path(scratch)) / f"exported-{precision.dtype}-{opset or 'newest'}"
        plain = export_once(net, example, folder, opset)
        if precision.weights is not None:
            store_small(plain, file, precision.weights)
        elif precision.integer:
            quantise(plain, file, calibration, seven_bits=seven_bits, symmetric=symmetric)
        else:
            for part in folder.iterdir():
                shutil.copyfile(part, file if part == plain else file.parent / part.name)


def quantise(path: Path, quantised: Path, images: Tensor | None, *, seven_bits: bool = False, symmetric: bool = False) -> None:
    """Write an ONNX file in 8-bit integers: weights signed, symmetric and per channel, activations unsigned.

    With `images`, static: their ranges are those seen on the images (quantise and dequantise nodes, QDQ). Without,
    dynamic: found out anew in every inference, for matrix products only, as ONNX Runtime has no fast dynamic convolution
    (ResNet-50, 2 cores: 110 ms, static 7, fp32 21).
    With `seven_bits` weights lie between -64 and 64, so that no pair of products saturates (harness/runtimes/saturation.py).
    With `symmetric` activations are signed with zero in the middle, a weight is an fp32 number between a quantise and a
    dequantise node, and biases stay in fp32: TensorRT's explicit quantisation takes nothing else.
    Raises Unsupported, with ONNX Runtime's reason, where it cannot, and ValueError where there are no images.
    """
    import onnx

    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise Unsupported(f"integers in an ONNX file are made by ONNX Runtime: {error}; pip install onnxruntime") from error
    if images is not None and not len(images):
        raise ValueError("the calibration set is empty; expected images, from which static quantisation takes its ranges")
    model = onnx.load(path)
    del model.graph.value_info[:]  # torch's exporter leaves shapes there that the quantiser chokes on
    weights: dict[str, Any] = {"per_channel": True, "weight_type": QuantType.QInt8, "reduce_range": seven_bits}
    try:
        with _quiet(), tempfile.TemporaryDirectory() as scratch:
            bare, prepared = Path(scratch) / "bare.onnx", Path(scratch) / "prepared.onnx"
            _save(model, bare)
            quant_pre_process(str(bare), str(prepared), skip_symbolic_shape=True)
            if images is None:
                quantize_dynamic(str(prepared), str(quantised), op_types_to_quantize=["MatMul", "Gemm"], **weights)
            else:
                quantize_static(
                    str(prepared),
                    str(quantised),
                    _Batches(model.graph.input[0].name, images),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(QUANTISED),
                    activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                    extra_options=SYMMETRIC if symmetric else {},
                    **weights,
                )
    except (errors.InvalidArgument, errors.Fail, errors.RuntimeException, errors.NotImplemented) as error:
        raise Unsupported(f"ONNX Runtime cannot quantise it: {_reason(error)}") from error


class _Batches:
    """Feeds the calibration; what `onnxruntime.quantization.CalibrationDataReader` asks for."""

    def __init__(self, name: str, images: Tensor) -> None:
        self._name, self._images = name, iter(images.unsqueeze(1))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image.numpy()}


def _save(model: ModelProto, path: Path) -> None:
    """With its numbers beside it where it does not fit into one file."""
    import onnx

    onnx.save(model, path, save_as_external_data=model.ByteSize() > 2**31 - 2**20)


def _large(net: nn.Module) -> bool:
    """Whether it does not fit into one file: protobuf ends at 2 GiB."""
    return sum(parameter.numel() * parameter.element_size() for parameter in net.parameters()) > 2**31 - 2**24


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what exporters and quantisers print about their work; what goes wrong they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
