"""Compressions: functions from a model and its options to a new model, never in place; others by entry point."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from models import plugins
from models.model import UnknownName, nearest

if TYPE_CHECKING:
    from torch import nn

GROUP = "plumbline.variants"
Variant = Callable[["nn.Module"], "nn.Module"]


def _dense(net: nn.Module) -> nn.Module:
    return net


VARIANTS: dict[str, Variant] = {"dense": _dense}


def announced() -> dict[str, EntryPoint]:
    """The variants of installed packages."""
    return plugins.announced(GROUP, VARIANTS)


def find(name: str) -> Variant:
    """The function of a variant. Raises `UnknownName`; loads another package's."""
    if name in VARIANTS:
        return VARIANTS[name]
    others = announced()
    if name not in others:
        known = [*VARIANTS, *others]
        raise UnknownName(f"no variant {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    variant: Variant = plugins.load("variant", others[name])
    return variant
