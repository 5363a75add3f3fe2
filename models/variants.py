"""Compressions: functions from a model and its options to a new model, never in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def _dense(net: nn.Module) -> nn.Module:
    return net


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {"dense": _dense}
