"""What a cell has loaded: files of its revision, and packages. If they are the same on both sides of a gate, both do the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from plumbline.harness.environment import IMPORT, TREE

ENDING = ".sources"  # of files in the folder of a cell's model: what each of the jobs before the cell's process has loaded


def loaded(tree: Path, more: Iterable[str | Path] = ()) -> set[str]:
    """Return the files of this process's modules, and of `more`, that lie in a folder, from there."""
    files = [*map(os.path.abspath, more), *(str(getattr(module, "__file__", "")) for module in list(sys.modules.values()))]
    part = f"{os.sep}{tree.name}{os.sep}"  # to look up the links of thousands of files would take as long as to fork a process
    found = {path for file in files if part in file for path in (file, os.path.realpath(file))}
    roots = {f"{root}{os.sep}" for root in (tree, tree.resolve())}
    return {path.removeprefix(root) for path in found for root in roots if path.startswith(root)}


def packages() -> set[str]:
    """Return the packages of this process's modules, but for Python's own, each as `import NAME`."""
    return {f"{IMPORT}{name}" for name in {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names}


def note(folder: Path, job: str) -> None:
    """Note in a folder what this process, which did a job, has loaded; where a session runs no revision, nothing."""
    if TREE in os.environ:
        (folder / f"{job}{ENDING}").write_text("\n".join(sorted(loaded(Path(os.environ[TREE])) | packages())))


def of_cell(folder: Path, jobs: Collection[str], *more: str | Path) -> list[str]:
    """Return what this process and the jobs before it have loaded: files of a revision, from its folder, and `import NAME`.

    Of `more` files, what lies in the revision's folder. The other cells of a model have jobs in the same `folder`, which say
    nothing of this one.
    """
    files = [folder / f"{job}{ENDING}" for job in jobs]
    noted = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return sorted({*noted, *loaded(Path(os.environ[TREE]), more), *packages()})
