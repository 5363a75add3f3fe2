"""What installed packages announce: entry points by group, and the one way in which one is loaded."""

from __future__ import annotations

from collections.abc import Container
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from models.model import UnknownName


def announced(group: str, ours: Container[str] = ()) -> dict[str, EntryPoint]:
    """The entry points of a group, by name; a name of ours is ours."""
    return {entry.name: entry for entry in entry_points(group=group) if entry.name not in ours}


def load(kind: str, entry: EntryPoint) -> Any:
    """What an entry point names. Raises `UnknownName` where it cannot be loaded."""
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UnknownName(f"{kind} {entry.name!r}: its entry point {entry.value!r} cannot be loaded: {error}") from error
