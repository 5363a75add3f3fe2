"""ONNX Runtime executes an ONNX file, on the CPU or by CUDA or TensorRT."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.outcomes import NotAsAsked, Unsupported
from plumbline.harness.runtimes import saturation
from plumbline.harness.runtimes.adapter import RunConfig, Runtime
from plumbline.harness.runtimes.export import export_as, prepare, stored_share
from plumbline.harness.runtimes.kernels import Kernel, share_in
from plumbline.models import onnx_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer
    from plumbline.models.onnx.graph import Graph

WIDE_SUMS = "session.x64quantprecision"  # its U8U8 kernels, which add up products in 32 bits
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# Operators of ONNX Runtime's optimised graphs that multiply integers, and those that multiply floating-point numbers.
INTEGER = {
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QAttention",
}  # fmt: skip
FLOATING = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention"}
# What its profile calls them, in the words of the precisions.
FORMATS = {"float": "float32", "float16": "float16", "double": "float64", "bfloat16": "bfloat16"}


class OnnxRuntime(Runtime):
    """A session of ONNX Runtime.

    As many threads as torch has work inside an operator (ONNX Runtime's intra_op); operators run one after the other.
    `provider` is one of the target's; a session with another one raises RuntimeError, as ONNX Runtime falls back without
    an error. `graph` is the level of its optimisations, `arena` whether it keeps memory, `spinning` whether its threads
    wait busily, and `opset` that of the exported file, where it is not the newest one. `products` says how integers are
    multiplied (harness/runtimes/saturation.py): weights in eight or in seven bits, or wide sums (session.x64quantprecision).
    """

    libraries = ("onnxruntime",)
    formats = ("torch", "onnx")
    precisions = ("fp32", "tf32", "fp16", "int8-dynamic", "int8-static", "w8", "w16")
    devices = ("cpu", "cuda")
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "provider": ("usual", "tensorrt"),
        "graph": ("all", "extended", "basic", "off"),
        "arena": ("on", "off"),
        "spinning": ("on", "off"),
        "opset": ("newest", "13", "17"),
        "products": (saturation.USUAL, saturation.EIGHT_BITS, saturation.SEVEN_BITS, saturation.WIDE),
    }
    artefact = "model.onnx"
    runs = "file"

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        """Multiply matrices by the very provider, with no fallback. The list that a build prints proves nothing."""
        import numpy

        with tempfile.TemporaryDirectory() as scratch:
            graph_read = onnx_file(doubling(Path(scratch) / "trial.onnx", opset=17, ir_version=8))
            session = _session(graph_read, config, fallback=False)
        images = numpy.arange(192, dtype=numpy.float32).reshape(1, 3, 8, 8)
        (outputs,) = session.run(list(graph_read.outputs), {graph_read.input: images})
        check_doubled(outputs, images, session.get_providers()[0])

    @classmethod
    def prepare_to_build(cls) -> None:
        prepare()

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        """Export a net to `file`, in the precision. Returns the file's opset and IR version."""
        opset, seven_bits = config.options["opset"], config.options["products"] == saturation.SEVEN_BITS
        export_as(net, example, calibration, config, file, None if opset == "newest" else int(opset), seven_bits=seven_bits)
        found = onnx_file(file)
        return {"opset": found.opset, "ir_version": found.ir_version, "nodes": found.nodes}

    @classmethod
    def alternatives(cls, config: RunConfig) -> Sequence[Mapping[str, str]]:
        return saturation.alternatives(config, safe=(saturation.SEVEN_BITS, saturation.WIDE))

    def __init__(self, file: Path, config: RunConfig) -> None:
        self._graph, self._config = onnx_file(file), config
        self._session = _session(self._graph, config)
        self._outputs = list(self._graph.outputs)

    def place(self, arguments: tuple[Any, ...]) -> Any:
        """Images, a float32 tensor of shape (batch, channels, height, width), as an array in the graph's layout and type."""
        (images,) = arguments
        return arranged(self._graph, images)

    def run(self, placed: Any) -> Any:
        """One inference. Some 4 µs of it are the call: the array is passed on as it lies, and the outputs are new arrays.

        (With bound inputs and outputs 2.5 µs; with OrtValues 25 µs. A net of two operators, 2 cores, onnxruntime 1.31.)
        """
        return self._session.run(self._outputs, {self._graph.input: placed})

    def fetch(self, outputs: Any) -> Any:
        """Return the output as a float32 tensor; a tuple of them where the graph has several."""
        import torch

        fetched = tuple(torch.as_tensor(output).to(torch.float32) for output in outputs)
        return fetched if len(fetched) > 1 else fetched[0]

    @property
    def keeps_memory(self) -> str | None:  # type: ignore[override]
        if self._config.options["arena"] == "off":
            return None
        return "ONNX Runtime's arena keeps what the first inference took, and a further one takes nothing"

    def weights_bytes(self) -> int:
        """As stored in the file; the session does not say what it made of them when it fused and packed."""
        return self._graph.weights_bytes

    def read_back(self) -> dict[str, Any]:
        options = self._session.get_session_options()
        levels = {str(level).rpartition(".")[2]: name for name, level in _levels().items()}
        return {
            "threads": options.intra_op_num_threads,
            "provider": self._session.get_providers()[0],
            "graph": levels[str(options.graph_optimization_level).rpartition(".")[2]],
            "arena": "on" if options.enable_cpu_mem_arena else "off",
            "spinning": "on" if options.get_session_config_entry("session.intra_op.allow_spinning") != "0" else "off",
            "products": self._products(options),
            "opset": self._graph.opset,
            "ir_version": self._graph.ir_version,
        }

    def _products(self, options: Any) -> str | None:
        """How integers are multiplied, where there are any; whether weights have seven bits is seen in the file."""
        if not self.holds_integers():
            return None
        if options.get_session_config_entry(WIDE_SUMS) == "1":
            return saturation.WIDE
        return saturation.of_weights(self._graph.seven_bits)

    def holds_integers(self) -> bool:
        return self._graph.seven_bits is not None

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """By the types of numbers that the kernels read in an inference: ONNX Runtime casts what a provider cannot multiply."""
        precision = self._config.precision
        if precision.weights is not None:
            return stored_share(self._graph.path, precision.weights)
        share = share_in(self.profile(placed, 1), precision, layers)
        if share < 0.5 and precision.dtype == "float16" and self._config.device_kind == "cpu":
            raise Unsupported(f"ONNX Runtime's CPU provider casts fp16 to fp32 and back: {share:.1%} of its MACs are in that")
        if share < 0.5 and self._config.options["provider"] == "tensorrt":
            raise Unsupported("TensorRT makes one kernel of a net, whose number format its profile does not show")
        return share

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        """Profile a batch. Raises Unsupported where the file does not take it: some hold other sizes, as only a run shows."""
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        with tempfile.TemporaryDirectory() as scratch:
            session = _session(self._graph, self._config, profile=Path(scratch) / "profile")
            try:
                session.run(self._outputs, {self._graph.input: placed})
            except (errors.InvalidArgument, errors.Fail, errors.RuntimeException) as error:
                shown = f"{self._graph.path.name} fails with images of shape {tuple(placed.shape)}"
                raise Unsupported(f"{shown}: {str(error).strip().splitlines()[0]}") from error
            for _ in range(repeats):
                session.run(self._outputs, {self._graph.input: placed})
            events = json.loads(Path(session.end_profiling()).read_text())
            provider = session.get_providers()[0]
        return _kernels(events, len(placed), provider)


def check_doubled(outputs: Any, images: Any, who: str) -> None:
    """Compare what came of the file that `doubling` writes. Raises RuntimeError where somebody multiplied wrongly."""
    if not (outputs == 2 * images).all():
        raise RuntimeError(f"{who} multiplied wrongly in a trial: expected 2 x 191 = 382, got {outputs.max():g}")


def doubling(file: Path, opset: int, ir_version: int) -> Path:
    """Write an ONNX file that multiplies pictures of 8 x 8 pixels by a matrix, so that each comes out doubled."""
    import numpy
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("MatMul", ["images", "matrix"], ["outputs"])
    shape: list[str | int | None] = ["batch", 3, 8, 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "outputs")]
    eye = numpy.eye(8, dtype=numpy.float32) * 2
    graph = helper.make_graph([node], "trial", ends[:1], ends[1:], [onnx.numpy_helper.from_array(eye, "matrix")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), file)
    return file


def widening(file: Path, size: int) -> Path:
    """Write an ONNX file whose one large tensor takes `size` bytes, within 768: pictures of 8 x 8 pixels, added to a row each."""
    import numpy
    import onnx
    from onnx import TensorProto, helper

    values = 3 * 8 * 8
    column, row = numpy.array([-1, values, 1], numpy.int64), numpy.ones(size // (4 * values), numpy.float32)
    nodes = [
        helper.make_node("Reshape", ["images", "column"], ["pixels"]),
        helper.make_node("Add", ["pixels", "row"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["outputs"], axes=[2], keepdims=0),
    ]
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])
    given = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", values])
    stored = [onnx.numpy_helper.from_array(column, "column"), onnx.numpy_helper.from_array(row, "row")]
    graph = helper.make_graph(nodes, "wide", [taken], [given], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return file


def arranged(graph: Graph, images: Tensor) -> Any:
    """Images, float32, of shape (batch, channels, height, width), as the array that a graph takes."""
    expected = (graph.batch, graph.channels, graph.image_size, graph.image_size)
    if any(fixed not in (None, got) for fixed, got in zip(expected, images.shape, strict=True)):
        fixed = f"a batch of {graph.batch} and no other" if graph.batch not in (None, len(images)) else "other images"
        raise Unsupported(
            f"{graph.path}: expected images of shape {expected} (None: any), got {tuple(images.shape)}; the file takes {fixed}, "
            "so ask for that, or export it with this dimension left open"
        )
    placed = images.permute(0, 2, 3, 1) if graph.layout == "NHWC" else images
    return placed.contiguous().numpy().astype(graph.element_type, copy=False)


def _session(graph: Graph, config: RunConfig, *, fallback: bool = True, profile: Path | None = None) -> Any:
    """Without `fallback` every operator must be the provider's; else ONNX Runtime gives the CPU what it does not take."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    provider = PROVIDERS[config.device_kind if config.options["provider"] == "usual" else config.options["provider"]]
    number = int(config.device.partition(":")[2] or 0)
    settings = {"use_tf32": int(config.precision.name == "tf32"), "device_id": number} if provider == PROVIDERS["cuda"] else {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = config.threads, 1
    options.graph_optimization_level = _levels()[config.options["graph"]]
    options.enable_cpu_mem_arena = config.options["arena"] == "on"
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.options["spinning"] == "on")))
    if not fallback and config.device_kind != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry(WIDE_SUMS, str(int(config.options["products"] == saturation.WIDE)))
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        session = onnxruntime.InferenceSession(str(graph.path), options, providers=[(provider, settings)])
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as error:
        raise Unsupported(
            f"{graph.path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}. Expected operators, an opset and "
            f"an IR version that it knows, got {graph.opset} and {graph.ir_version}; export for older ones"
        ) from error
    actual = session.get_session_options()
    expected = (provider, config.threads, 1)
    got = (session.get_providers()[0], actual.intra_op_num_threads, actual.inter_op_num_threads)
    if got != expected:
        raise NotAsAsked(f"expected a session with provider, threads in and between operators {expected}, got {got}")
    return session


def _levels() -> dict[str, Any]:
    from onnxruntime import GraphOptimizationLevel as Level

    return {"all": Level.ORT_ENABLE_ALL, "extended": Level.ORT_ENABLE_EXTENDED, "basic": Level.ORT_ENABLE_BASIC,
            "off": Level.ORT_DISABLE_ALL}  # fmt: skip


def _kernels(events: list[dict[str, Any]], batch: int, provider: str) -> list[Kernel]:
    """Return the kernels of a profile, in the order in which they ran; the first run, which also sets things up, is left out."""
    ran: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            ran[event["name"].removesuffix("_kernel_time")].append(event)
    found = []
    for name, calls in ran.items():
        arguments = calls[0]["args"]
        operator = arguments["op_name"]
        read_types = [(kind, shape) for entry in arguments["input_type_shape"] for kind, shape in entry.items()]
        outputs = sum(prod(shape) for entry in arguments["output_type_shape"][:1] for shape in entry.values()) // batch
        multiplies = operator in INTEGER or operator in FLOATING
        kind = "int8" if operator in INTEGER else FORMATS.get(read_types[0][0], read_types[0][0]) if read_types else None
        found.append(
            Kernel(
                name=name,
                operator=operator,
                seconds=median(call["dur"] for call in calls[1:]) / 1e6,
                multiplies=multiplies,
                number_format=(kind if arguments["provider"] == provider else f"{kind} by another") if multiplies else None,
                outputs=outputs,
                macs=_macs(operator, [shape for _, shape in read_types], outputs) if multiplies else None,
            )
        )
    return found


def _macs(operator: str, shapes: list[list[int]], outputs: int) -> int | None:
    """MACs of one image from the shapes that a kernel read, where those are shown: packed weights are not."""
    if "Conv" in operator:
        kernels = [shape for shape in shapes[1:] if len(shape) == 4]
        return outputs * prod(kernels[0][1:]) if kernels and operator != "ConvTranspose" else None
    return outputs * shapes[0][-1] if shapes and "Attention" not in operator else None
