"""ONNX Runtime executes an ONNX file on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.precisions import Precision
from harness.runtimes.export import export, integer_share, quantise
from models.onnx.graph import read

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CPU = ("CPUExecutionProvider",)


class OnnxRuntime:
    """A session of ONNX Runtime, with all its graph optimisations; an `Executable`.

    As many threads as torch has work inside an operator (ONNX Runtime's intra_op); operators run one after the other.
    Raises ValueError where it cannot load the file, and RuntimeError where the session is not what was asked for:
    ONNX Runtime falls back to another provider without an error.
    """

    libraries = ("onnxruntime",)
    formats = ("torch", "onnx")
    precisions = ("fp32", "int8-dynamic", "int8-static")
    targets = ("cpu",)
    keeps_memory: ClassVar[str | None] = (
        "ONNX Runtime's arena keeps what the first inference took, and a further one takes nothing"
    )

    @staticmethod
    def build(net: nn.Module, example: Tensor, calibration: Tensor | None, precision: Precision, file: Path) -> dict[str, Any]:
        """Export a net to `file`, in integers where the precision says so; pictures are float32, on the host.

        Returns opset and IR version as they came, and the share of MACs in integers.
        Raises ValueError where it cannot be exported, or where most of it would silently stay in fp32.
        """
        share = 0.0
        if not precision.integer:
            export(net, example, file)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                plain = Path(scratch) / "plain.onnx"
                export(net, example, plain)
                quantise(plain, file, calibration)
            share = integer_share(file, example.shape[-1])
            if share < 0.5:
                raise ValueError(
                    f"in {precision.name} ONNX Runtime executes {share:.1%} of its MACs in integers, and the rest in fp32; "
                    "wanted half of them at least"
                )
        found = read(file)
        return {"opset": found.opset, "ir_version": found.ir_version, "integer_macs": share}

    def __init__(self, file: Path, precision: Precision, device: torch.device, providers: Sequence[str] = CPU) -> None:
        import onnxruntime
        import torch
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        graph, threads = read(file), torch.get_num_threads()

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        try:
            self._session = onnxruntime.InferenceSession(str(graph.path), options, providers=list(providers))
        except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as error:
            raise ValueError(
                f"{graph.path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}. Wanted operators, an opset and "
                f"an IR version that it knows (these are {graph.opset} and {graph.ir_version}); export for older ones"
            ) from error
        wanted = (list(providers), threads, 1)
        self.threads: int = self._session.get_session_options().intra_op_num_threads
        came = (self._session.get_providers(), self.threads, self._session.get_session_options().inter_op_num_threads)
        if came != wanted:
            raise RuntimeError(f"wanted a session with providers, threads in and between operators {wanted}, came {came}")
        self._graph, self._outputs = graph, list(graph.outputs)

    def place(self, arguments: tuple[Any, ...]) -> Any:
        """Images, a float32 tensor of shape (batch, channels, height, width), as an array in the graph's layout and type."""
        (images,) = arguments
        graph = self._graph
        wanted = (graph.batch, graph.channels, graph.image_size, graph.image_size)
        if any(ours not in (None, theirs) for ours, theirs in zip(wanted, images.shape, strict=True)):
            fixed = f"a batch of {graph.batch} and no other" if graph.batch not in (None, len(images)) else "other images"
            raise ValueError(
                f"{graph.path}: wanted images of shape {wanted} (None: any), came {tuple(images.shape)}; the file takes {fixed}, "
                "so ask for that, or export it with this dimension left open"
            )
        placed = images.permute(0, 2, 3, 1) if graph.layout == "NHWC" else images
        return placed.contiguous().numpy().astype(graph.element_type, copy=False)

    def run(self, placed: Any) -> Any:
        """One inference. Some 4 µs of it are the call: the array is passed on as it lies, and the outputs are new arrays.

        (With bound inputs and outputs 2.5 µs; with OrtValues 25 µs. A net of two operators, 2 cores, onnxruntime 1.31.)
        """
        return self._session.run(self._outputs, {self._graph.input: placed})

    def fetch(self, outputs: Any) -> Any:
        """The output as a float32 tensor; a tuple of them where the graph has several."""
        import torch

        fetched = tuple(torch.as_tensor(output).to(torch.float32) for output in outputs)
        return fetched if len(fetched) > 1 else fetched[0]

    def synchronize(self) -> None:
        """The work is done when `run` returns."""

    def weights_bytes(self) -> int:
        """As stored in the file; the session does not say what it made of them when it fused and packed."""
        return self._graph.weights_bytes
