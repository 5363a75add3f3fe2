"""An agent executes an ONNX file on a board that cannot run the harness, and times it there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from plumbline.harness.outcomes import FAILED, CellEnded, Unsupported
from plumbline.harness.readings import Readings
from plumbline.harness.runtimes.adapter import OwnTiming, RunConfig, Runtime
from plumbline.harness.runtimes.board import Board, Opened, Outputs, Timed
from plumbline.harness.runtimes.export import export_once, prepare
from plumbline.harness.runtimes.kernels import Kernel, share_in
from plumbline.harness.runtimes.onnxruntime import arranged, check_doubled, doubling
from plumbline.harness.settings import Settings
from plumbline.models import onnx_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from plumbline.models import Layer


class Agent(Runtime):
    """A file that was opened by the agent of this probe (agent/plumbline_agent.py), in a connection of its own.

    `backend` is what executes it there: the first of trtexec and onnxruntime that has inferred, or the one that is named.
    `opset` is that of the exported file: 13, with its IR version 7, is what JetPack 4 reads. Files are in fp32; in fp16 TensorRT
    may use it for each layer, and says which it has.
    """

    formats = ("torch", "onnx")
    precisions = ("fp32", "fp16")
    devices = ("cpu", "cuda")
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backend": ("usual", "trtexec", "onnxruntime"),
        "opset": ("13", "17", "newest"),
    }
    artefact = "model.onnx"
    runs = "file"
    elsewhere = True

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        """Send a file that doubles its input, and look at what comes back."""
        import numpy

        with tempfile.TemporaryDirectory() as scratch:
            file = doubling(Path(scratch) / "trial.onnx", opset=13, ir_version=7)
            there = cls(file, config)
            images = numpy.arange(192, dtype=numpy.float32).reshape(1, 3, 8, 8)
            there.ready(images)
            (outputs,) = there.run(images)
            check_doubled(outputs, images, "the agent")

    @classmethod
    def prepare_to_build(cls) -> None:
        prepare()

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        """Export a net to `file`, in fp32. Returns the file's opset and IR version."""
        opset = config.options["opset"]
        with tempfile.TemporaryDirectory() as scratch:
            folder = (config.shared or Path(scratch)) / f"exported-float32-{opset}"
            plain = export_once(net, example, folder, None if opset == "newest" else int(opset))
            if len(list(folder.iterdir())) > 1:
                raise Unsupported("its numbers do not fit into one ONNX file, and an agent takes one", axis="model")
            shutil.copyfile(plain, file)
        found = onnx_file(file)
        return {"opset": found.opset, "ir_version": found.ir_version}

    def __init__(self, file: Path, config: RunConfig) -> None:
        self._graph, self._config = onnx_file(file), config
        if self._graph.element_type != "float32":
            raise Unsupported(f"an agent gives a file float32 pictures, got {self._graph.element_type}", axis="model")
        self._board = Board()
        self._digest = self._board.send_file(file)
        self._opened: Opened | None = None
        self._run_s = 0.0

    def __del__(self) -> None:
        if hasattr(self, "_board"):
            self._board.close()

    def place(self, arguments: tuple[Any, ...]) -> Any:
        """Images, a float32 tensor of shape (batch, channels, height, width), as an array in the graph's layout, still here."""
        (images,) = arguments
        return arranged(self._graph, images)

    def ready(self, placed: Any) -> None:
        """Open the file there, in a process of its own, which infers once."""
        if self._opened is None:
            self._opened, _ = self._board.ask(
                "Open",
                Opened,
                [placed],
                sha256=self._digest,
                backend=self._config.options["backend"],
                precision=self._config.precision.name,
                device=self._config.device,
                input=self._graph.input,
                outputs=list(self._graph.outputs),
                shape=list(placed.shape),
                dynamic=self._graph.batch is None,
            )

    @property
    def opened(self) -> Opened:
        """What the agent has said of the file that it opened."""
        assert self._opened is not None, "ready comes first"
        return self._opened

    def run(self, placed: Any) -> Any:
        """One inference there, its inputs sent and its outputs fetched: arrays."""
        import numpy

        self.ready(placed)
        answer, data = self._board.ask("Run", Outputs, [placed])
        self._run_s = answer.seconds
        sizes = [prod(shape) for shape in answer.shapes]
        values = numpy.frombuffer(data, numpy.float32)
        if values.size != sum(sizes):
            raise CellEnded(FAILED, f"the agent sent {values.size} numbers, expected outputs of shapes {answer.shapes}")
        parts = numpy.split(values, numpy.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, answer.shapes, strict=True)]

    def fetch(self, outputs: Any) -> Any:
        """Return the output as a float32 tensor; a tuple of them where the graph has several."""
        import torch

        fetched = tuple(torch.tensor(output, dtype=torch.float32) for output in outputs)
        return fetched if len(fetched) > 1 else fetched[0]

    def weights_bytes(self) -> int:
        """As stored in the file."""
        return self._graph.weights_bytes

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """By the layers that TensorRT says it has built; ONNX Runtime computes in the numbers of the file, and TF32 is off."""
        self.ready(placed)
        precision, batch = self._config.precision, len(placed)
        kernels = [
            Kernel(part.name, part.operator, 0.0, part.multiplies, part.format, prod(part.outputs) // batch)
            for part in self.opened.layers
        ]
        seen = {kernel.number_format for kernel in kernels if kernel.multiplies}
        if precision.name == "fp32" and seen <= {precision.dtype}:
            return 1.0  # nothing else was allowed when it was built or loaded, and nothing else is seen
        share = share_in(kernels, precision, layers)
        if share < 0.5 and precision.name != "fp32" and (not seen or precision.dtype in seen):
            who = f"{self.opened.backend} {self.opened.version}"  # what it makes one kernel of, it does not list layer by layer
            raise Unsupported(
                f"{who} shows {share:.1%} of its MACs in {precision.name}, and the rest in another format or in none"
            )
        return share

    def read_back(self) -> dict[str, Any]:
        found, board = self.opened, self._board.hello
        return {
            "threads": found.threads or board.machine.get("cores_allowed", 1),
            "backend": found.backend,
            "version": found.version,
            "provider": found.provider,
            "opset": self._graph.opset,
            "ir_version": self._graph.ir_version,
            "tried": found.tried,
        }

    def first_s(self) -> float:
        return self.opened.first_s

    def run_s(self) -> float:
        return self._run_s

    def timed(self, placed: Any, settings: Settings, few: int | None) -> OwnTiming:
        from plumbline.harness.statistics import P99_SAMPLES  # takes scipy, which `plumbline list` does without

        if settings.p99_within_s is not None:  # so long that there are as many samples as its bound takes, if it is kept
            longer = max(settings.sampling_s, P99_SAMPLES * settings.p99_within_s)
            settings = replace(settings, sampling_s=longer, min_samples=max(settings.min_samples, P99_SAMPLES))
        names = ("warmup_s", "sampling_s", "min_samples", "max_samples", "median_within")
        asked = {name: getattr(settings, name) for name in names}
        found, _ = self._board.ask("Time", Timed, [placed], few=few, **asked)
        return OwnTiming(found.model, found.with_transfer, found.disturbance, found.telemetry, found.remarks)

    def held(self) -> Readings:
        return self._board.readings("Memory")
