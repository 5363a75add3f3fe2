"""What the pages say of files, commands and each other is so. That the site builds without a warning, `tox -e docs` sees."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.harness.cli import COMMANDS, parsers

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:harness|models|benchmarks|tests|docker|agent|docs)/[\w./-]+)`")
TITLED = re.compile(r"^.+ <(.+)>$")
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead(page: Path) -> Iterator[str]:
    """Relative links of a page that lead nowhere."""
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists():
            yield f"{page.name}: {link}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{page.name}: {link}: no such heading"


def reached(page: Path) -> set[Path]:
    """The pages below a page, by its tables of contents, and itself."""
    found = {page}
    for tree in TOCTREE.findall(page.read_text()):
        for entry in (TITLED.sub(r"\1", line) for line in tree.splitlines() if line and not line.startswith(":")):
            for below in page.parent.glob(f"{entry}.md"):
                found |= reached(below)
    return found


def test_no_page_waits_for_a_figure() -> None:
    """A name between two @ stands for output that is still to be pasted."""
    assert [page.name for page in READ if re.search(r"^@[A-Z]+@$|`@[A-Z]+@`", page.read_text(), re.MULTILINE)] == []


def test_every_page_is_reached_from_the_index() -> None:
    assert reached(DOCS / "index.md") == set(PAGES)


def test_the_index_has_four_parts() -> None:
    captions = re.findall(r"^:caption: (.+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert captions == ["Tutorial", "How to", "Method", "Reference"]


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(dead(page)) == []


@pytest.mark.parametrize(
    "page", [page for page in READ if "results" not in page.parts], ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_that_are_named_are_there(page: Path) -> None:
    """Pages of results name files as they were; what a person is to write is in a package of theirs."""
    assert [name for name in PATH.findall(page.read_text()) if not (ROOT / name).exists()] == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`\n[a](#one-two) [b](#three) [c](nowhere.md) [d](https://example.org)\n```\n[e](code.md)\n```\n")
    assert list(dead(page)) == ["page.md: #three: no such heading", "page.md: nowhere.md: no such file"]


def test_every_command_is_explained_somewhere() -> None:
    """In a page that a person wrote; the reference has all of them by itself."""
    text = "".join(page.read_text() for page in READ)
    assert [name for name in COMMANDS if f"plumbline {name}" not in text] == []
    assert list(parsers()[1]) == list(COMMANDS)


def test_commands_that_are_named_exist() -> None:
    pattern = re.compile(r"(?:`|^(?:\.venv/bin/)?)plumbline ([a-z][a-z-]*)", re.MULTILINE)
    named = {name for page in READ for name in pattern.findall(page.read_text())}
    assert "gate" in named
    assert named - set(COMMANDS) == set()


def test_links_to_code() -> None:
    pytest.importorskip("sphinx")  # `tox -e docs` has it
    spec = importlib.util.spec_from_file_location("links", DOCS / "extensions" / "links.py")
    assert spec is not None
    assert spec.loader is not None
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    text = "[a](../harness/cell.py) and [b](../load.md#camera), [c](own.md) and ![d](../x.png)"
    assert links.resolved("results/load", text.replace("../harness", "../../harness"), None) == text.replace(
        "[a](../harness/cell.py)", "a"
    )
    url = "https://example.org/plumbline"
    assert links.resolved("record", "[`x`](../harness/cell.py#L3)", url) == f"[`x`]({url}/blob/HEAD/harness/cell.py)"
