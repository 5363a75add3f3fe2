"""TensorRT executes an ONNX file on an NVIDIA GPU: its builder makes an engine for one GPU, one batch and one precision."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.outcomes import NotAsAsked, Unsupported
from plumbline.harness.runtimes.adapter import RunConfig, Runtime
from plumbline.harness.runtimes.export import export_as, prepare
from plumbline.harness.runtimes.kernels import Kernel, of_layers, share
from plumbline.harness.runtimes.onnxruntime import check_doubled, doubling
from plumbline.harness.runtimes.torch_net import moved
from plumbline.models import onnx_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer
    from plumbline.models.onnx.graph import Graph

OLDEST = 10  # the first version whose networks are strongly typed, and whose inspector names what every layer reads
NO_DEVICE = "TensorRT is installed, and torch finds no CUDA device; it runs on NVIDIA GPUs only"
# What its inspector says of tensors and weights: "Half", "Row major linear FP16 format", "... vectorized row major Int8 format."
FORMATS = {
    "bfloat16": re.compile(r"bf(loat)?16", re.I),
    "int8": re.compile(r"int8", re.I),
    "float16": re.compile(r"half|fp16|float16", re.I),
    "float8": re.compile(r"fp8", re.I),
    "float32": re.compile(r"float|fp32", re.I),
}
MULTIPLY = re.compile(r"conv(?!er)|gemm|matrixmultiply|matmul|fullyconnected|mha|attention", re.I)
WHOLE = re.compile(r"^(myelin|foreignnode|plugin)", re.I)  # one piece, in which nothing is seen


class TensorRT(Runtime):
    """An engine for one batch, beside the ONNX file that it was built from; inputs and outputs are torch's tensors on the GPU.

    Networks are strongly typed: every layer is executed in the format that the file gives it, which TensorRT 10 can and 11 always
    does (the builder's own choice by flags is deprecated since 10.12). So fp16 is a file in fp16, and int8-static one with the
    ranges of our calibration. TF32 is a flag of the builder, off but for tf32.
    A file of one's own gets its engine each time, in the formats that it has.
    """

    libraries = ("tensorrt", "onnx")
    extra = "tensorrt"
    formats = ("torch", "onnx")
    precisions = ("fp32", "tf32", "fp16", "int8-static")
    devices = ("cuda",)
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"opset": ("newest", "13", "17")}
    artefact = "model.onnx"
    one_batch = True
    runs = "file"
    keeps_memory = "TensorRT takes all memory when it makes the context, and an inference takes nothing"

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        """Build an engine that doubles its input, and look at what comes back."""
        import torch

        if not _has_device():
            raise RuntimeError(NO_DEVICE)
        images = torch.arange(192, dtype=torch.float32).reshape(1, 3, 8, 8)
        with TemporaryDirectory() as scratch:
            here = cls(doubling(Path(scratch) / "trial.onnx", opset=13, ir_version=7), config)
            placed = here.place((images,))
            here.ready(placed)
        outputs = here.fetch(here.run(placed))
        check_doubled(outputs, images, "TensorRT")

    @classmethod
    def prepare_to_build(cls) -> None:
        prepare()

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        """Export a net to `file`, and build the engine beside it. Returns the file's opset and the engine's version and size."""
        opset = config.options["opset"]
        # ranges are those of minimum and maximum, as everywhere here; a calibrator is TensorRT's own way, which version 11 lacks
        shown = example if len(example) > 1 else example.repeat(2, 1, 1, 1)  # one alone would fix the file's batch
        export_as(net, shown, calibration, config, file, None if opset == "newest" else int(opset), symmetric=True)
        found = onnx_file(file)
        plan = _built(found, config, example.shape)
        _engine_of(file).write_bytes(plan)
        return {"opset": found.opset, "ir_version": found.ir_version, "tensorrt": _library().__version__, "bytes": len(plan)}

    def __init__(self, file: Path, config: RunConfig) -> None:
        import torch

        _library()
        if not _has_device():
            raise Unsupported(NO_DEVICE, axis="target")
        self._graph, self._config = onnx_file(file), config
        self._device = torch.device(config.device)
        self.synchronize = torch.cuda.synchronize  # type: ignore[method-assign]
        torch.cuda.set_device(self._device)
        # on the default stream TensorRT waits before and after each inference
        torch.cuda.set_stream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]
        self._engine: Any = None

    def place(self, arguments: tuple[Any, ...]) -> Any:
        """Images, a float32 tensor of shape (batch, channels, height, width), on the GPU in the graph's layout and type."""
        import torch

        (images,) = arguments
        expected = (self._graph.batch, self._graph.channels, self._graph.image_size, self._graph.image_size)
        if any(fixed not in (None, got) for fixed, got in zip(expected, images.shape, strict=True)):
            raise Unsupported(
                f"{self._graph.path}: expected images of shape {expected} (None: any), got {tuple(images.shape)}; ask for those"
            )
        arranged = images.permute(0, 2, 3, 1) if self._graph.layout == "NHWC" else images
        return moved(arranged, self._device, getattr(torch, self._graph.element_type)).contiguous()

    def ready(self, placed: Any) -> None:
        """Load the engine, or build that of a file of one's own, and bind the outputs: their memory is taken once."""
        import torch

        trt = _library()
        if self._engine is None:
            engine = _engine_of(self._graph.path)
            plan = engine.read_bytes() if engine.exists() else _built(self._graph, self._config, placed.shape)
            self._log = _log(trt)
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise Unsupported(f"TensorRT {trt.__version__} cannot load the engine: {self._log.last}")
            self._context = self._bound(placed)
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._graph.outputs}
        kinds = {name: getattr(torch, _TORCH[self._engine.get_tensor_dtype(name).name]) for name in self._graph.outputs}
        self._outputs = tuple(torch.empty(shapes[name], dtype=kinds[name], device=self._device) for name in self._graph.outputs)
        for name, tensor in zip(self._graph.outputs, self._outputs, strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())

    def _bound(self, placed: Any) -> Any:
        """Make a context for the shape of an input. Raises Unsupported where the engine was built for another one."""
        context = self._engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"TensorRT is out of memory: {self._log.last}")
        if not context.set_input_shape(self._graph.input, tuple(placed.shape)):
            raise Unsupported(f"TensorRT: the engine takes no input of shape {tuple(placed.shape)}: {self._log.last}")
        return context

    def run(self, placed: Any) -> Any:
        """One inference, queued on torch's current stream. The outputs are the engine's own, until the next one."""
        import torch

        self._enqueue(self._context, placed, torch.cuda.current_stream(self._device))
        return self._outputs

    def _enqueue(self, context: Any, placed: Any, stream: Any) -> None:
        context.set_tensor_address(self._graph.input, placed.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"TensorRT did not run: {self._log.last}")

    def fetch(self, outputs: Any) -> Any:
        """Return the output as a float32 tensor on the host; a tuple of them where the graph has several."""
        import torch

        fetched = moved(tuple(outputs), torch.device("cpu"), torch.float32)
        return fetched if len(fetched) > 1 else fetched[0]

    def weights_bytes(self) -> int:
        """As stored in the ONNX file, with one byte for each number that is quantised; the engine does not say what it packed."""
        return self._graph.weights_bytes - 3 * _quantised_numbers(self._graph.path)

    def read_back(self) -> dict[str, Any]:
        import torch

        seen = [kernel.number_format or "not shown" for kernel in self._kernels() if kernel.multiplies]
        return {
            "threads": torch.get_num_threads(),  # those of the host, which only queues
            "version": _library().__version__,
            "opset": self._graph.opset,
            "formats": {name: seen.count(name) for name in sorted(set(seen))},
        }

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """By what the layers of the engine read, as its own inspector says. Raises Unsupported where it does not show that.

        A product whose tactic is one of TF32 counts as that, and not as fp32; tf32 is a permission, and takes both.
        """
        precision, kernels = self._config.precision, of_layers(self._kernels(), layers)
        wanted = {"tf32": ["float32", "tf32"]}.get(precision.name, ["int8" if precision.integer else precision.dtype])
        found = share(kernels, wanted, layers)
        hidden = [kernel.name for kernel in kernels if kernel.multiplies and kernel.number_format is None]
        if found < 0.5 and hidden:
            raise Unsupported(
                f"TensorRT shows {found:.1%} of its MACs in {precision.name}; it made one piece of others, whose formats it does "
                f"not show: {', '.join(hidden[:3])}"
            )
        return found

    def _kernels(self) -> list[Kernel]:
        """Return what the engine executes for the bound shape, in order; `seconds` are 0."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        told = inspector.get_engine_information(_library().LayerInformationFormat.JSON)
        return kernels_of(json.loads(told)["Layers"], self._config.batch)

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        """By TensorRT's own profiler, which times each layer by events of the GPU."""
        import torch

        context, stream = self._bound(placed), torch.cuda.current_stream(self._device)
        for name, tensor in zip(self._graph.outputs, self._outputs, strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        self._enqueue(context, placed, stream)
        stream.synchronize()
        context.profiler = times = _times(_library())  # it must live as long as the context
        for _ in range(repeats):
            self._enqueue(context, placed, stream)
            stream.synchronize()
        return [replace(kernel, seconds=times.seconds[kernel.name] / repeats) for kernel in self._kernels()]


_TORCH = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


def kernels_of(listed: Sequence[Any], batch: int) -> list[Kernel]:
    """Return the kernels that an engine's inspector lists: JSON of a detailed engine of TensorRT 10 or 11, for one batch.

    What a layer multiplies in is the format of the first tensor that it reads; of a layer that is one piece of many operators
    (Myelin's, a plugin), and of one of which only the name is told, it is None.
    """
    found = []
    for layer in listed:
        about = layer if isinstance(layer, dict) else {"Name": str(layer), "LayerType": "Myelin"}
        kind, tactic = str(about["LayerType"]), str(about.get("TacticName", ""))
        whole = bool(WHOLE.match(kind))
        shown = " ".join((kind, str(about.get("ParameterType", "")), tactic if kind == "kgen" else ""))
        multiplies = whole or bool(MULTIPLY.search(shown))
        read, made = ([entry for entry in about.get(key) or () if isinstance(entry, dict)] for key in ("Inputs", "Outputs"))
        number_format = _format(read[0]) if read and multiplies and not whole else None
        if number_format == "float32" and "tf32" in tactic:
            number_format = "tf32"
        outputs = prod(made[0].get("Dimensions") or [0]) // batch if made else None
        found.append(Kernel(about["Name"], kind, 0.0, multiplies, number_format, outputs or None))
    return found


def _format(tensor: Mapping[str, Any]) -> str | None:
    """Return the number format of a tensor: TensorRT 10 names it with its layout, TensorRT 11 by itself."""
    told = next((str(tensor[key]) for key in ("Format/Datatype", "DataType", "Datatype") if key in tensor), "")
    return next((name for name, pattern in FORMATS.items() if pattern.search(told)), None)


def _engine_of(file: Path) -> Path:
    return file.with_suffix(".engine")


def _has_device() -> bool:
    import torch

    return torch.cuda.is_available()


def _library() -> Any:
    """TensorRT. Raises Unsupported where it is too old."""
    import tensorrt

    if int(tensorrt.__version__.partition(".")[0]) < OLDEST:
        raise Unsupported(
            f"expected TensorRT {OLDEST} or newer, got {tensorrt.__version__}; an older one is run by --runtime agent"
        )
    return tensorrt


def _log(trt: Any) -> Any:
    """Make a logger of TensorRT's that keeps its last error, which calls report by no more than False or None."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it says no reason"

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = msg.strip()

    return Log()


def _times(trt: Any) -> Any:
    """Make a profiler of TensorRT's that adds up the seconds of each layer."""

    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.seconds[layer_name] += ms / 1e3

    return Times()


def _built(graph: Graph, config: RunConfig, shape: Sequence[int]) -> bytes:
    """Build an engine of an ONNX file for inputs of one shape, serialised. Raises Unsupported with TensorRT's reason."""
    trt = _library()
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph.path)):
        raise Unsupported(f"TensorRT {trt.__version__} cannot read it: {_parsing(parser) or log.last}")
    settings = builder.create_builder_config()
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if config.precision.name != "tf32":
        settings.clear_flag(trt.BuilderFlag.TF32)  # which is set from the start
    if settings.get_flag(trt.BuilderFlag.TF32) != (config.precision.name == "tf32"):
        raise NotAsAsked(f"expected TF32 for tf32 only, TensorRT's builder has it otherwise for {config.precision.name}")
    profile = builder.create_optimization_profile()
    profile.set_shape(graph.input, *[tuple(shape)] * 3)
    settings.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, settings)
    if plan is None and re.search(r"out ?of ?memory", log.last, re.I):
        raise RuntimeError(f"TensorRT is out of memory: {log.last}")
    if plan is None:
        raise Unsupported(f"TensorRT {trt.__version__} cannot build an engine of it: {log.last}")
    return bytes(plan)


def _parsing(parser: Any) -> str:
    """Say what the parser does not take: operators, each with the name of its first node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    named = {
        error.node_operator(): f"operator {error.node_operator()} (node {error.node_name()}): {error.desc()}" for error in errors
    }
    return "; ".join(named.values())


def _quantised_numbers(path: Path) -> int:
    """Count the fp32 numbers of a file that a node quantises: they are stored large, and executed in one byte."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    given = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return sum(prod(tensor.dims) for tensor in graph.initializer if tensor.name in given)
