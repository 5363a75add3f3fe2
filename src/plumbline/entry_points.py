"""What installed packages announce: entry points by group, and the one way in which one is loaded."""

from __future__ import annotations

import sys
from collections.abc import Container
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from plumbline import UnknownName


def announced(group: str, ours: Container[str] = ()) -> dict[str, EntryPoint]:
    """The entry points of a group, by name; a name of ours is ours."""
    return {entry.name: entry for entry in _entries(group, tuple(sys.path)) if entry.name not in ours}


@cache
def _entries(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(_all(path).select(group=group))


@cache
def _all(path: tuple[str, ...]) -> Any:  # what it is called differs between Pythons
    """Looked up once for a path: reading what all packages say takes 30 ms, and a matrix asks for every cell."""
    return entry_points()


def look_up() -> None:
    """Read what all packages say now, before a process is forked that would each time."""
    _all(tuple(sys.path))


def load(kind: str, entry: EntryPoint) -> Any:
    """What an entry point names. Raises `UnknownName` where it cannot be loaded."""
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UnknownName(f"{kind} {entry.name!r}: its entry point {entry.value!r} cannot be loaded: {error}") from error
