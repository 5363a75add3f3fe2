"""From a torch module to an ONNX file, and from there to one in 8-bit integers; what came is read back from the file."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.onnx.nodes import named

if TYPE_CHECKING:
    from torch import Tensor, nn

# Operators of ONNX Runtime's optimised graphs that multiply integers.
INTEGER = {
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
}  # fmt: skip
FLOATING = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention"}
QUANTISED = ("Conv", "MatMul", "Gemm")


def export(net: nn.Module, images: Tensor, path: Path) -> None:
    """Write a net in eval mode, by torch's own exporter, its batch left open. `images`: an example, float32, two or more.

    Raises ValueError with torch's reason where it cannot be exported.
    """
    import torch

    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            # captured here, as older exporters trace a net that cannot be captured, and leave out the ways it did not go
            captured = torch.export.export(net, (images,), dynamic_shapes=({0: batch},), strict=False)
            program = torch.onnx.export(captured, dynamo=True, input_names=["images"])
        except (RuntimeError, ValueError) as error:  # OnnxExporterError is a RuntimeError
            raise ValueError(f"torch {torch.__version__} cannot export it to ONNX: {_reason(error)}") from error
    assert program is not None
    program.save(str(path), external_data=_large(net))


def quantise(path: Path, quantised: Path, images: Tensor | None) -> None:
    """Write an ONNX file in 8-bit integers: weights signed, symmetric and per channel, activations unsigned.

    With `images`, static: their ranges are those seen on the images (quantise and dequantise nodes, QDQ). Without,
    dynamic: found out anew in every inference, for matrix products only, as ONNX Runtime has no fast dynamic convolution
    (ResNet-50, 2 cores: 110 ms, static 7, fp32 21). Leaves what it makes on the way beside `path`.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(path)
    del model.graph.value_info[:]  # torch's exporter leaves shapes there that the quantiser chokes on
    bare, prepared = path.with_suffix(".bare.onnx"), path.with_suffix(".prepared.onnx")
    large = model.ByteSize() > 2**31 - 2**20
    onnx.save(model, bare, save_as_external_data=large)
    weights: dict[str, Any] = {"per_channel": True, "weight_type": QuantType.QInt8}
    with _quiet():
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
                activation_type=QuantType.QUInt8,
                **weights,
            )


def integer_share(path: Path, image_size: int) -> float:
    """The share of a file's MACs that ONNX Runtime executes in integers, read back from the graph that it made of it."""
    import onnx
    import onnxruntime

    from models.onnx.layers import layers

    with tempfile.TemporaryDirectory() as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        executed = [node.op_type for node in onnx.load(optimised, load_external_data=False).graph.node]
    floating = sum(operator in FLOATING for operator in executed)
    integer = sum(operator in INTEGER for operator in executed)
    stays = _floating_nodes(path)
    macs = {layer.name: layer.macs for layer in layers(path, image_size) if layer.macs}
    if integer + floating != len(macs) or floating != len(stays & macs.keys()):
        return integer / max(1, integer + floating)  # fused beyond recognition: by nodes, not by MACs
    return 1 - sum(amount for name, amount in macs.items() if name in stays) / max(1, sum(macs.values()))


def _floating_nodes(path: Path) -> set[str]:
    """The nodes of a quantised file that multiply floating-point numbers that were none before."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    return {
        name
        for name, node in named(model)
        if node.op_type in QUANTISED and not all(made.get(read) == "DequantizeLinear" for read in node.input[:2])
    }


class _Batches:
    """Feeds the calibration; what `onnxruntime.quantization.CalibrationDataReader` asks for."""

    def __init__(self, name: str, images: Tensor) -> None:
        self._name, self._images = name, iter(images.unsqueeze(1))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image.numpy()}


def _large(net: nn.Module) -> bool:
    """Whether it does not fit into one file: protobuf ends at 2 GiB."""
    return sum(parameter.numel() * parameter.element_size() for parameter in net.parameters()) > 2**31 - 2**24


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and quantisers print what they are about to do; what goes wrong they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
