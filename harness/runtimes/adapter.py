"""What every runtime's adapter offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from harness.precisions import Precision

if TYPE_CHECKING:
    from torch import Tensor, nn


# net, an example of two pictures, those of the calibration if there is one, precision and file; what is to be told of it
Build = Callable[["nn.Module", "Tensor", "Tensor | None", "Precision", Path], "dict[str, Any]"]


class Executable(Protocol):
    """A model ready to run. Host tensors are float32 on the CPU; what `place` returns is the runtime's own."""

    keeps_memory: ClassVar[str | None]
    """Why nothing is learned from what another inference takes; None where it is."""

    def place(self, arguments: tuple[Any, ...]) -> Any:
        """The net's positional arguments, on the device and in the precision. Usually (images,), of shape
        (batch, channels, height, width)."""

    def run(self, placed: Any) -> Any:
        """One inference; returns as soon as the work is queued."""

    def fetch(self, outputs: Any) -> Any:
        """What the net returned, on the host and in float32; usually logits, of shape (batch, classes)."""

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""

    def weights_bytes(self) -> int:
        """Bytes of parameters and buffers as they are executed."""
