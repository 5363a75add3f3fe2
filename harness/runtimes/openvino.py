"""OpenVINO executes an ONNX file on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.machine import cpu_flags
from plumbline.harness.outcomes import NotAsAsked, Unsupported
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import saturation
from plumbline.harness.runtimes.adapter import RunConfig, Runtime
from plumbline.harness.runtimes.export import stored_share
from plumbline.harness.runtimes.kernels import Kernel, share_in
from plumbline.harness.runtimes.onnxruntime import OnnxRuntime, arranged
from plumbline.models import onnx_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
PRODUCTS = {"Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution"}
ENDS = {"Input", "Output", "Const", "Parameter", "Result"}
# How the names of its kernels end: brgconv_avx512_1x1_I8.
ENDINGS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8"}


class OpenVino(Runtime):
    """A compiled model of OpenVINO, for one batch, as many threads as torch has, one stream.

    On a processor with bfloat16 it would run an fp32 model in that without a word, and one whose weights only are in
    integers with integer activations: both are set and read back. It takes what is exported for ONNX Runtime.
    `group` is the number of activations that get a scale of their own in int8-dynamic, `products` how many bits weights have
    (harness/runtimes/saturation.py).
    """

    libraries = ("openvino",)
    extra = "openvino"
    formats = ("torch", "onnx")
    precisions = ("fp32", "bf16", "fp16", "int8-dynamic", "int8-static", "w8", "w16")
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "group": ("64", "32", "128"),
        "products": (saturation.USUAL, saturation.EIGHT_BITS, saturation.SEVEN_BITS),
    }
    artefact = "model.onnx"
    runs = "file"
    keeps_memory = "OpenVINO plans all memory when it compiles, and an inference takes nothing"

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        """Add two constants by the CPU plugin, which is loaded for it."""
        import numpy

        openvino = _library()
        images = openvino.opset13.parameter([1, 4], numpy.float32)
        twice = openvino.Model([openvino.opset13.add(images, images)], [images])
        (outputs,) = openvino.Core().compile_model(twice, "CPU")([numpy.ones((1, 4), numpy.float32)]).values()
        if not (outputs == 2).all():
            raise RuntimeError(f"expected 1 + 1 = 2 in a trial, got {outputs.max():g}")

    @classmethod
    def prepare_to_build(cls) -> None:
        OnnxRuntime.prepare_to_build()

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        """Write the file that ONNX Runtime gets; for int8-dynamic one with small weights: it quantises activations by itself."""
        same = {"bf16": "fp32", "fp16": "fp32", "int8-dynamic": "w8"}.get(config.precision.name, config.precision.name)
        options = {**OnnxRuntime.usual(), "products": config.options["products"]}
        exporting = replace(config, precision=PRECISIONS[same], options=options)
        return OnnxRuntime.build(net, example, calibration, exporting, file)

    @classmethod
    def alternatives(cls, config: RunConfig) -> Sequence[Mapping[str, str]]:
        """Its depthwise kernels do not saturate, and eight bits serve some nets, for which seven are too coarse."""
        if config.precision.name != "int8-static":  # of int8-dynamic it quantises the activations itself
            return ({},)
        return saturation.alternatives(config, safe=(saturation.SEVEN_BITS, saturation.EIGHT_BITS))

    def __init__(self, file: Path, config: RunConfig) -> None:
        self._graph, self._config = onnx_file(file), config
        self._compiled: Any = None

    def ready(self, placed: Any) -> None:
        """Compile for this very shape: a tenth to a quarter faster than for any batch."""
        self._compiled = self._compile(placed.shape)
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if hint != self._hint:
            if self._config.precision.emulated(self._config.device_kind, cpu_flags()):
                raise Unsupported(f"OpenVINO was asked for {self._hint} and took {hint}: this processor lacks {self._hint}")
            raise NotAsAsked(f"OpenVINO was asked for {self._hint} and took {hint}")
        self._request = self._compiled.create_infer_request()

    @property
    def _hint(self) -> str:
        return HINTS[self._config.precision.dtype]

    def _compile(self, shape: Sequence[int], **settings: Any) -> Any:
        openvino, precision = _library(), self._config.precision
        small = precision.weights is not None
        asked = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": self._config.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0 if small else int(self._config.options["group"]),
        }
        try:
            model = openvino.Core().read_model(self._graph.path)
            model.reshape(list(shape))
            compiled = openvino.Core().compile_model(model, "CPU", {**asked, **settings})
        except RuntimeError as error:
            raise Unsupported(f"OpenVINO {openvino.__version__} cannot compile it: {_reason(error)}") from error
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        if threads != self._config.threads:
            raise NotAsAsked(f"expected {self._config.threads} threads, OpenVINO took {threads}")
        return compiled

    def place(self, arguments: tuple[Any, ...]) -> Any:
        (images,) = arguments
        return arranged(self._graph, images)

    def run(self, placed: Any) -> Any:
        """One inference, some 7 µs of it the call. The outputs are OpenVINO's own, until the next one."""
        self._request.set_input_tensor(_library().Tensor(placed, shared_memory=True))
        self._request.infer(share_outputs=True)
        return self._request

    def fetch(self, outputs: Any) -> Any:
        import torch

        count = len(self._graph.outputs)
        fetched = tuple(torch.from_numpy(outputs.get_output_tensor(index).data.copy()).float() for index in range(count))
        return fetched if count > 1 else fetched[0]

    def weights_bytes(self) -> int:
        """As stored in the file; OpenVINO does not say what it packed."""
        return self._graph.weights_bytes

    def read_back(self) -> dict[str, Any]:
        ask = self._compiled.get_property
        group = str(ask("DYNAMIC_QUANTIZATION_GROUP_SIZE"))
        if self._config.precision.weights and group != "0":
            raise NotAsAsked(f"asked to leave activations as they are, OpenVINO quantises {group} of them together")
        return {
            "threads": int(ask("INFERENCE_NUM_THREADS")),
            "streams": int(ask("NUM_STREAMS")),
            "hint": ask("INFERENCE_PRECISION_HINT").get_type_name(),
            "group": None if self._config.precision.weights else group,  # nothing is quantised but the weights
            "quantised_together": group,
            "products": saturation.of_weights(self._graph.seven_bits),
        }

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """By the kernels of the graph that OpenVINO made; of small weights, which it multiplies as it likes, by the file."""
        precision = self._config.precision
        if precision.weights is not None:
            return stored_share(self._graph.path, precision.weights)
        return share_in(self._kernels(self._compiled), precision, layers)

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        openvino = _library()
        compiled = self._compile(placed.shape, PERF_COUNT=True)
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(placed, shared_memory=True))
        for _ in range(1 + repeats):
            request.infer(share_outputs=True)
        return self._kernels(compiled)

    def _kernels(self, compiled: Any) -> list[Kernel]:
        """Return what it executes, in order. `seconds`: the mean of all inferences so far, 0 where they are not counted."""
        found, batch = [], compiled.inputs[0].shape[0]
        for operator in compiled.get_runtime_model().get_ordered_ops():
            about = {key: value.astype(str) for key, value in operator.get_rt_info().items()}
            if about["layerType"] in ENDS:
                continue
            multiplies = about["layerType"] in PRODUCTS
            ending = about["primitiveType"].rpartition("_")[2].lower()
            kind = ENDINGS.get(ending, ending)
            # with scales for groups of activations it multiplies weights in i8 by integers, though the kernel says f32
            if self._config.precision.name == "int8-dynamic" and about["runtimePrecision"] == "i8":
                kind = "int8"
            micro = about.get("execTimeMcs", "not_executed")
            found.append(
                Kernel(
                    name=operator.get_friendly_name(),
                    operator=about["layerType"],
                    seconds=float(micro) / 1e6 if micro != "not_executed" else 0.0,
                    multiplies=multiplies,
                    number_format=kind if multiplies else None,
                    outputs=prod(operator.get_output_shape(0)) // batch,
                )
            )
        return found


def _library() -> Any:
    """OpenVINO, without its telemetry: importing it would tell its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return lines[-1] if lines else type(error).__name__
