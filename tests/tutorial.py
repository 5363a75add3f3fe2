"""The tutorial's commands and what they print. `python -m tests.tutorial` runs them and writes their output into the page.

Every `sh` block is run exactly as it is written, in a folder that has benchmarks/ and .venv/ as a clone has. A comment
`<!-- output from "A" to "B" lines PATTERN -->` before a `text` block says which part of the last command's output stands there:
from the first line with A to the last one before B, and of those the ones in which the pattern is found. Each may be left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import browser

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
COMMAND = r"```sh\n(?P<commands>.*?)```"
OUTPUT = (
    r'<!-- output(?: from "(?P<first>[^"]+)")?(?: to "(?P<end>[^"]+)")?(?: lines (?P<lines>.+?))? -->\n```text\n(?P<text>.*?)```'
)
PART = re.compile(f"{COMMAND}|{OUTPUT}", re.DOTALL)
IMAGE = re.compile(r"!\[[^\]]*\]\(pictures/([\w-]+\.png)\)")
SHOT = "report.png"  # of report.html, beside the pictures that the report writes


def excerpt(printed: str, first: str | None, end: str | None, pattern: str | None) -> str:
    """Return the part of an output that the page shows. Raises ValueError where the output has no such part."""
    rows = [row.rstrip() for row in printed.strip("\n").splitlines()]
    begin = next((number for number, row in enumerate(rows) if first is None or first in row), None)
    if begin is None:
        raise ValueError(f"expected a line with {first!r}, got:\n{printed}")
    until = next((number for number, row in enumerate(rows) if number > begin and end is not None and end in row), len(rows))
    found = [row for row in rows[begin:until] if pattern is None or re.search(pattern, row)]
    if not any(found):
        raise ValueError(f"expected lines with {pattern!r}, got:\n{printed}")
    return "\n".join(found).strip("\n") + "\n"


def folder_like_a_clone(folder: Path) -> Path:
    """Make what the commands find in a clone."""
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run(commands: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a block as a person would type it; return what it prints. Raises CalledProcessError."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=dict(environment), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, commands, done.stdout)
    return done.stdout


def followed(page: str, runs: Callable[[str], str]) -> str:
    """Run every block of the page, and return the page with what they print."""
    printed = ""

    def part(found: re.Match[str]) -> str:
        nonlocal printed
        if found["commands"] is not None:
            printed = runs(found["commands"])
            return found[0]
        shown = excerpt(printed, found["first"], found["end"], found["lines"])
        return found[0][: found.start("text") - found.start()] + shown + "```"

    return PART.sub(part, page)


def main() -> None:
    """Follow the tutorial here, and write the page and its pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = folder_like_a_clone(Path(name))
        PAGE.write_text(followed(PAGE.read_text(), lambda commands: run(commands, folder, os.environ)))
        pictures = PAGE.parent / "pictures"
        for name in IMAGE.findall(PAGE.read_text()):
            if name != SHOT:
                shutil.copy(folder / "pictures" / name, pictures / name)
        browser.screenshot(folder / "report.html", pictures / SHOT)


if __name__ == "__main__":
    main()
