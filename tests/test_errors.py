"""Every error of ours has one base, so that a command can tell it from a mistake of its own."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

from plumbline.harness.session.session import REPOSITORY

BUILTIN = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)}


def without_base(source: str) -> list[str]:
    """The exception classes of a module that have only Python's own as bases."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            if bases and bases <= BUILTIN:
                found.append(node.name)
    return found


def test_every_error_is_a_plumbline_error() -> None:
    files = [path for folder in ("harness", "models") for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 100
    assert {str(path): found for path in files if (found := without_base(path.read_text()))} == {}


def test_one_that_is_not_is_seen(tmp_path: Path) -> None:
    assert without_base("class A(ValueError): pass\nclass B(PlumblineError, ValueError): pass\nclass C: pass") == ["A"]
