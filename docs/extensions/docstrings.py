"""Docstrings of this project are plain text with `code` in backticks; Sphinx reads reStructuredText."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"([\\*|_])")


def as_rst(text: str) -> str:
    """Return plain text in reStructuredText: code as such, and all else as it is written."""
    parts = CODE.split(text)
    return "".join(f"\\ `{part}`\\ " if CODE.fullmatch(part) else MARKUP.sub(r"\\\1", part) for part in parts)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""

    def process(app: Sphinx, what: str, name: str, about: object, options: object, lines: list[str]) -> None:
        lines[:] = as_rst("\n".join(lines)).split("\n")

    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
