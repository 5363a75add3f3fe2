"""What executes a model. One small adapter each, its library imported only when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from harness.precisions import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Executable(Protocol):
    """A model ready to run. Host tensors are float32 on the CPU; what `place` returns is the runtime's own."""

    def place(self, images: Tensor) -> Tensor:
        """Host images, shape (batch, channels, height, width), on the device and in the precision."""

    def run(self, inputs: Tensor) -> Tensor:
        """One inference; returns as soon as the work is queued."""

    def fetch(self, outputs: Tensor) -> Tensor:
        """The logits on the host, float32, shape (batch, classes)."""

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""

    def weights_bytes(self) -> int:
        """Bytes of parameters and buffers as they are executed."""


class Eager:
    """torch, one operation after the other."""

    precisions = ("fp32", "bf16", "fp16")
    targets = ("cpu", "cuda")

    def __init__(self, net: nn.Module, precision: Precision, device: torch.device) -> None:
        import torch

        # fp32 means fp32: TF32 is a precision of its own
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._device, self._dtype = device, getattr(torch, precision.dtype)
        self._net = net.eval().to(device=device, dtype=self._dtype)
        self.run = self._net.__call__
        self.synchronize = _nothing if device.type == "cpu" else torch.cuda.synchronize

    def place(self, images: Tensor) -> Tensor:
        return images.to(device=self._device, dtype=self._dtype)

    def fetch(self, outputs: Tensor) -> Tensor:
        import torch

        return outputs.to(device="cpu", dtype=torch.float32)

    def weights_bytes(self) -> int:
        held = [*self._net.parameters(), *self._net.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _nothing() -> None:
    """The CPU has done its work when the call returns."""


RUNTIMES: dict[str, type[Eager]] = {"eager": Eager}
