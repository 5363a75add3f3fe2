"""Links of a page to what is no page: to code, which lies beside docs/.

On GitHub `[text](../harness/record.py)` leads to the file. In the site it leads to the file in the repository that pyproject.toml
names as `Repository`; where it names none, the text stands alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath

from sphinx.application import Sphinx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>\.\.?/[^)\s]+)\)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository")


def outside(docname: str, target: str) -> str | None:
    """Return the path from the root of what a page links to, where that is no part of docs/; else None."""
    path = normpath(PurePosixPath("docs", docname).parent / target.partition("#")[0])
    return None if path.split("/")[0] == "docs" else path


def resolved(docname: str, text: str, repository: str | None = REPOSITORY) -> str:
    """Return a page's text, in which links to code lead to the repository, or are plain where that has no address."""

    def link(found: re.Match[str]) -> str:
        path = outside(docname, found["target"])
        if path is None:
            return found[0]
        return found["text"] if repository is None else f"[{found['text']}]({repository}/blob/HEAD/{path})"

    return LINK.sub(link, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""

    def read(app: Sphinx, docname: str, source: list[str]) -> None:
        source[0] = resolved(docname, source[0])

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
