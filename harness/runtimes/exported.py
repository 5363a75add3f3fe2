"""torch.export: a net without its Python, compiled ahead of time by AOTInductor."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.outcomes import Unsupported, first_line
from plumbline.harness.runtimes import saturation
from plumbline.harness.runtimes.adapter import RunConfig
from plumbline.harness.runtimes.compiled import find_compiler
from plumbline.harness.runtimes.kernels import Kernel
from plumbline.harness.runtimes.torch_net import TorchRuntime, convert, in_integers, moved, profiled, share_in, stored_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer

TOLD = "plumbline"  # the entry of a package's metadata
# The calls of a package's C++ code that multiply; those in integers have a q: _qconv_pointwise, _qlinear_pointwise.
PRODUCTS = re.compile(r"\((?:at::)?aoti_torch_\w*?_(q?(?:conv|linear)\w*|addmm|mm|bmm|baddbmm)\w*\(")


class Exported(TorchRuntime):
    """An exported program, for one shape of input.

    `backend=aotinductor` is a library of machine code with its weights frozen into it; `backend=eager` the exported graph,
    one operation after the other, for where no compiler is at hand. Static integers are torchao's, by way of PyTorch 2 Export;
    with `products=7bit` it is the activations that have seven bits (harness/runtimes/saturation.py).
    """

    libraries = ("torch",)
    precisions = ("fp32", "tf32", "bf16", "fp16", "int8-static")  # weights that are stored small would be frozen large
    devices = ("cpu", "cuda")
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backend": ("aotinductor", "eager"),
        "products": (saturation.USUAL, saturation.EIGHT_BITS, saturation.SEVEN_BITS),
    }
    artefact = "program.pt2"
    one_batch = True
    runs = "file"

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        if config.options["backend"] == "aotinductor":
            find_compiler(config)

    @classmethod
    def alternatives(cls, config: RunConfig) -> Sequence[Mapping[str, str]]:
        return saturation.alternatives(config, safe=(saturation.SEVEN_BITS, saturation.EIGHT_BITS))

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        import torch
        import torch._inductor.exc

        if not config.precision.integer:
            convert(net, config.precision)
        (placed,) = moved((example,), torch.device(config.device), getattr(torch, config.precision.dtype))
        net.to(config.device)
        try:
            if calibration is not None:
                net = in_integers(net, placed, calibration, seven_bits=config.options["products"] == saturation.SEVEN_BITS)
            program = torch.export.export(net, (placed,), strict=False)
            if config.options["backend"] == "eager":
                torch.export.save(program, str(file))
                return {}
            # a package does not say how large it is; it holds its weights in machine code
            metadata = {TOLD: json.dumps({"weights_bytes": stored_bytes(net)})}
            settings = {"freezing": True, "compile_threads": 1, "aot_inductor.metadata": metadata}
            torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=settings)
        except (RuntimeError, ValueError, getattr(torch._inductor.exc, "InductorError", RuntimeError)) as error:
            raise Unsupported(f"torch.export: {first_line(error)}") from error
        return {}

    def __init__(self, file: Path, config: RunConfig) -> None:
        import torch

        super().__init__(file, config)
        self._file, self._ahead = file, config.options["backend"] == "aotinductor"
        self._call: Any = torch._inductor.aoti_load_package(str(file)) if self._ahead else torch.export.load(str(file)).module()

    def place(self, arguments: tuple[Any, ...]) -> Any:
        (images,) = moved(arguments, self._device, self._dtype)
        if len(images) != self._config.batch:  # a package would answer for its own batch, without a word
            raise ValueError(f"expected a batch of {self._config.batch}, for which it was exported, got {len(images)}")
        return images

    def run(self, placed: Any) -> Any:
        return self._call(placed)

    def weights_bytes(self) -> int:
        """As they were exported."""
        return int(json.loads(self._call.get_metadata()[TOLD])["weights_bytes"]) if self._ahead else stored_bytes(self._call)

    def read_back(self) -> dict[str, Any]:
        import torch

        metadata = self._call.get_metadata() if self._ahead else {}
        backend = "aotinductor" if hasattr(self._call, "get_metadata") else "eager"
        kind = metadata.get("AOTI_CPU_ISA")
        # of the ranges of activations nothing is seen from outside; which they are stands in the artefact
        told_products = self._config.options["products"] if self._config.precision.integer else None
        return {"threads": torch.get_num_threads(), "backend": backend, "instructions": kind, "products": told_products}

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        """Of the graph; a package runs as one piece, of which torch's profiler sees nothing inside."""
        if self._ahead:
            raise NotImplementedError("a compiled package runs as one piece; exported+backend=eager shows its operators")
        return profiled(self.run, placed, repeats)

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """In integers, by the calls in the package's code; else by what comes out, as every layer is in one format."""
        if not self._ahead:
            return share_in(self._call, self._config.precision, layers)
        if self._config.precision.integer:
            with zipfile.ZipFile(self._file) as package:
                code = "".join(package.read(name).decode() for name in package.namelist() if name.endswith(".cpp"))
            calls = PRODUCTS.findall(code)
            return sum(call.startswith("q") for call in calls) / max(1, len(calls))
        return float(self.run(placed).dtype == self._dtype)
