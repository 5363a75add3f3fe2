"""torch.compile: torch's inductor makes C++ (or Triton) code of the whole net."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.outcomes import NotAsAsked, Unsupported, first_line
from plumbline.harness.runtimes.adapter import RunConfig
from plumbline.harness.runtimes.eager import Eager
from plumbline.harness.runtimes.kernels import Kernel
from plumbline.harness.runtimes.torch_net import profiled

if TYPE_CHECKING:
    from torch import Tensor, nn


class Compiled(Eager):
    """A torch module, compiled for one shape of input.

    `freezing` makes the weights constants, which inductor packs for the processor (ResNet-18 on 2 cores: 7.8 ms, without
    it 13.8, eager 13.7). What the C++ compiler made is kept as the artefact; inductor's way to it is gone again in every
    process, before the first inference (ResNet-18: 14 s without that, 5.6 s with it).
    """

    precisions = ("fp32", "tf32", "bf16", "fp16", "int8-dynamic")  # weights that are stored small would be frozen large
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**Eager.options, "freezing": ("on", "off")}
    artefact = "inductor.tar"
    any_inputs = False
    one_batch = True
    profile_misses = "what inductor compiled itself shows as one call"

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        find_compiler(config)

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        import torch

        with tempfile.TemporaryDirectory() as folder:
            cls._compile_in(Path(folder))
            compiled = cls(net, config)
            with torch.inference_mode(config.options["mode"] == "inference"):
                compiled.ready(compiled.place((example,)))
            with tarfile.open(file, "w") as archive:
                archive.add(folder, arcname=".")
        return {}

    def __init__(self, net: nn.Module, config: RunConfig) -> None:
        super().__init__(net, config)
        import torch
        import torch._inductor.config as inductor

        if config.artefact is not None and config.artefact.exists():
            folder = Path(tempfile.mkdtemp())  # in the probe's scratch folder, which goes when it ends
            with tarfile.open(config.artefact) as archive:
                archive.extractall(folder, filter="data")
            self._compile_in(folder)
        inductor.freezing = config.options["freezing"] == "on"
        inductor.compile_threads = 1  # a pool of processes would live on while the net is timed
        self._call = torch.compile(self._net, dynamic=False)

    @staticmethod
    def _compile_in(folder: Path) -> None:
        """Where inductor keeps its files; nothing that anybody left behind elsewhere is used."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)

    def ready(self, placed: Any) -> None:
        """Compile. Raises Unsupported, with inductor's reason, where it cannot, NotAsAsked where it did not."""
        from torch._dynamo.exc import TorchDynamoException
        from torch._dynamo.utils import counters

        try:
            self.run(placed)
        except TorchDynamoException as error:  # inductor's errors are its children
            raise Unsupported(f"torch.compile: {first_line(error)}") from error
        self.synchronize()
        if not counters["stats"]["unique_graphs"]:
            raise NotAsAsked("torch.compile left it as it was; is TORCH_COMPILE_DISABLE set?")

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        return profiled(self.run, placed, repeats)

    def read_back(self) -> dict[str, Any]:
        import torch._inductor.config as inductor
        from torch._dynamo.utils import counters

        graphs = counters["stats"]["unique_graphs"]
        return {**super().read_back(), "freezing": "on" if inductor.freezing else "off", "graphs": graphs}


def find_compiler(config: RunConfig) -> None:
    """Raise RuntimeError unless there is a compiler for what inductor writes."""
    if config.device_kind == "cuda":
        import triton  # noqa: F401

        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RuntimeError("no working C++ compiler; install g++ (Debian: apt install g++), or name one in $CXX") from error
