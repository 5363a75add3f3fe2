"""Compressions: functions from a model and its options to a new model, never in place; others by entry point."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from models.model import UnknownName, nearest

if TYPE_CHECKING:
    from torch import nn

GROUP = "plumbline.variants"
Variant = Callable[["nn.Module"], "nn.Module"]


def _dense(net: nn.Module) -> nn.Module:
    return net


VARIANTS: dict[str, Variant] = {"dense": _dense}


def announced() -> dict[str, str]:
    """The variants that installed packages announce in the entry point group `plumbline.variants`: name and object."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in VARIANTS}


def find(name: str) -> Variant:
    """The function of a variant. Raises `UnknownName`; loads another package's."""
    if name in VARIANTS:
        return VARIANTS[name]
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                variant: Variant = entry.load()
            except (ImportError, AttributeError) as error:
                raise UnknownName(f"variant {name!r}: its entry point {entry.value!r} cannot be loaded: {error}") from error
            return variant
    known = [*VARIANTS, *announced()]
    raise UnknownName(f"no variant {name!r}{nearest(name, known)}; known: {', '.join(known)}")
