"""Which files of a revision a cell has loaded: where they are the same on both sides of a gate, both do the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from plumbline.harness.environment import TREE

ENDING = ".sources"  # of files in the folder of a cell's model: what each of the jobs before the cell's process has loaded


def loaded(tree: Path, more: Iterable[str | Path] = ()) -> set[str]:
    """Return the files of this process's modules, and of `more`, that lie in a folder, from there."""
    files = [*map(os.path.abspath, more), *(str(getattr(module, "__file__", "")) for module in list(sys.modules.values()))]
    part = f"{os.sep}{tree.name}{os.sep}"  # to look up the links of thousands of files would take as long as to fork a process
    found = {path for file in files if part in file for path in (file, os.path.realpath(file))}
    roots = {f"{root}{os.sep}" for root in (tree, tree.resolve())}
    return {path.removeprefix(root) for path in found for root in roots if path.startswith(root)}


def note(folder: Path, job: str) -> None:
    """Note in a folder what this process, which did a job, has loaded of a revision; in a session without revisions nothing."""
    if TREE in os.environ:
        (folder / f"{job}{ENDING}").write_text("\n".join(sorted(loaded(Path(os.environ[TREE])))))


def of_cell(folder: Path, jobs: Collection[str], *more: str | Path) -> list[str]:
    """Return what this process and the jobs before it have loaded of a revision, from its folder; of `more`, what lies there.

    The other cells of a model have jobs in the same folder, which say nothing of this one.
    """
    files = [folder / f"{job}{ENDING}" for job in jobs]
    noted = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return sorted({*noted, *loaded(Path(os.environ[TREE]), more)})
