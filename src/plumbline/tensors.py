"""What is said of a net's outputs, alike by who trains it and by who measures it. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def spread(outputs: Tensor) -> float:
    """Return the root mean square, over the outputs, of their standard deviation between the inputs (first axis)."""
    return float(outputs.double().var(dim=0).mean().sqrt())


def ranks(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return for each picture how many classes score as high as its own or higher: 0 is top-1; (n, classes) to (n,), int64.

    Ties and NaN count against the net.
    """
    own = outputs.gather(1, labels.unsqueeze(1))
    return (~(outputs < own)).sum(dim=1) - 1
