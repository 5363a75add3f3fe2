"""What a terminal shows that has not all of our characters: one of Windows' code pages, or of LC_ALL=C."""

from __future__ import annotations

import codecs
from typing import Any

INSTEAD = {"±": "+-", "×": "x", "≤": "<=", "≥": ">=", "µ": "u", "–": "-", "…": "..."}


def readable(stream: Any) -> None:
    """Let a text stream write what its encoding lacks in other characters, instead of raising UnicodeEncodeError."""
    if hasattr(stream, "reconfigure"):  # pytest and others put their own in the place of a terminal
        stream.reconfigure(errors=NAME)


def _instead(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(INSTEAD.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


NAME = "plumbline"
codecs.register_error(NAME, _instead)
