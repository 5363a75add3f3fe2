"""What a variant adds to training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of what an addition remembered whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


class Addition:
    """A term of the loss, a schedule of its own, a teacher. Each method may be left out.

    `done` is the share of all steps that lie behind, from 0 to 1. What an addition remembers between steps it must give away in
    `state`, and take back in `restore`, so that an interrupted training goes on as if nothing had happened.
    """

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        """Prepare, before the first step, and before `restore` when training goes on; a teacher is built here.

        `net` is the variant as it was made of `parent`, the dense net in its first weights, on the device of the training.
        """

    def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
        """Return the loss that is minimised, given that of the labels; add a penalty of the weights, or a teacher's, here.

        `inputs` are normalised pictures, float32, (n, channels, height, width); `outputs` float32, (n, classes); `labels` int64,
        (n,), or after mixup or cutmix their shares, float32, (n, classes). It is called under the training's own autocast.
        """
        return loss

    def stepped(self, net: nn.Module, done: float) -> None:
        """Change weights in place after every step of the optimiser, as a pruning schedule does."""

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers between steps, by name."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave away; tensors come back on the CPU."""
