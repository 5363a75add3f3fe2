"""torch, one operation after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.precisions import Precision
from harness.runtimes.adapter import Build

if TYPE_CHECKING:
    import torch
    from torch import nn


class Eager:
    """A torch module as it is; an `Executable`."""

    libraries = ("torch",)
    formats = ("torch",)
    precisions = ("fp32", "bf16", "fp16")
    targets = ("cpu", "cuda")
    keeps_memory: ClassVar[str | None] = None
    build: ClassVar[Build | None] = None

    def __init__(self, net: nn.Module, precision: Precision, device: torch.device) -> None:
        import torch

        # fp32 means fp32: TF32 is a precision of its own
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._device, self._dtype = device, getattr(torch, precision.dtype)
        self._net = net.eval().to(device=device, dtype=self._dtype)
        self.synchronize = _nothing if device.type == "cpu" else torch.cuda.synchronize

    def place(self, arguments: tuple[Any, ...]) -> Any:
        return _floats(arguments, self._device, self._dtype)

    def run(self, placed: Any) -> Any:
        return self._net(*placed)

    def fetch(self, outputs: Any) -> Any:
        import torch

        return _floats(outputs, torch.device("cpu"), torch.float32)

    def weights_bytes(self) -> int:
        held = [*self._net.parameters(), *self._net.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _floats(tree: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Every tensor of a structure on the device, those of floating point in `dtype`."""
    import torch
    from torch.utils._pytree import tree_map_only

    return tree_map_only(torch.Tensor, lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else t.dtype), tree)


def _nothing() -> None:
    """The CPU has done its work when the call returns."""
