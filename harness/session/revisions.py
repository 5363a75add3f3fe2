"""Two revisions of a repository, each in a folder and with a command that starts its probe.

Of plumbline itself, a folder has the models and runtimes of its revision and, for both, the measuring code that is running. Of
any other repository it has that repository's files, whose nets are measured by plumbline as it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from copy import copy
from filecmp import cmp
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

import plumbline
from plumbline import PlumblineError
from plumbline.harness import messages
from plumbline.harness.boot import BOOT
from plumbline.harness.environment import IMPORT, TREE
from plumbline.harness.nursery import PACKAGES
from plumbline.harness.session import environments, shipping
from plumbline.harness.session.places import IN_FOLDER, Here
from plumbline.harness.session.selection import Selected, Selection

WORKING = "."  # the files as they lie there, committed or not
CHANGING = ("models", "harness/runtimes")  # of plumbline: what each side has of its own revision
OURS = "src/plumbline/__init__.py"  # whose presence tells this repository from others
SELECT = BOOT[2].partition("from ")[0] + "from plumbline.harness.session import selection; sys.exit(selection.main())"
PROSE = (".md", ".rst")  # endings of files on which nothing computed depends
FILES = "files"  # in the folder of a side: those of its repository


class BadRevision(PlumblineError, ValueError):
    """A revision that is not there, or that no probe can be made of; the message says what to do."""


class Revision(Struct, frozen=True):
    """What a side is: its commit, for people its name, and how many files differ from it."""

    name: str
    commit: str
    changed: int = 0

    @property
    def shown(self) -> str:
        """For people: `main (f2ae737)`, `the working tree (f2ae737 and 3 changed files)`."""
        short = self.commit[:9]
        if self.name == WORKING:
            more = f" and {self.changed} changed file{'s' if self.changed != 1 else ''}" if self.changed else ""
            return f"the working tree ({short}{more})"
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


class Tree(Here):
    """A side on this machine: a probe started in its folder, by its Python. `root` holds all files that are of its revision."""

    def __init__(
        self, folder: Path, path: Sequence[Path], python: str, matrix: Path | None = None, root: Path | None = None
    ) -> None:
        super().__init__()
        self.matrix, self.root, self.python = matrix, root, python
        self._folder, self._path = folder, path
        search = os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH", "")])])
        told = [] if root is None else [f"{TREE}={root}"]
        self._before = ("sh", "-c", IN_FOLDER, "sh", str(folder), "env", f"PYTHONPATH={search}", *told)
        self.command = (*self._before, python, *BOOT[1:])

    def started_by(self, python: str, packages: Sequence[str] | None = None) -> Tree:
        """Return the same side with the executable of a nursery for its Python; `packages` is where a fork looks for them."""
        found = copy(self)
        elsewhere = [] if packages is None else [f"{PACKAGES}={os.pathsep.join(packages)}"]
        found.command = (*self._before, *elsewhere, python, *BOOT[1:])
        return found

    def files(self) -> shipping.Revision:
        """Return what another machine needs for the same side, where plumbline itself is installed."""
        assert self.root is not None
        path = tuple(each.relative_to(self.root) for each in self._path if each.is_relative_to(self.root))
        return shipping.Revision(self.root, self._folder.relative_to(self.root), path)

    def select(self, asked: Selection) -> Selected:
        """Ask which cells this side has. Raises BadRevision where it cannot say."""
        command = [*self._before, self.python, "-c", SELECT, messages.encode(asked).decode()]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        try:
            found = messages.decode(done.stdout.strip().rpartition(b"\n")[2], Selected)
        except messages.BadMessage as error:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise BadRevision(said[0]) from error
        if found.wrong:
            raise BadRevision(found.wrong)
        return found


class Repository:
    """The git repository around a folder. Raises BadRevision where there is none."""

    def __init__(self, folder: Path) -> None:
        self._at = folder
        self.root = Path(self._git("rev-parse", "--show-toplevel", wrong=f"{folder} is in no git repository"))
        self.inside = folder.resolve().relative_to(self.root.resolve())
        self.is_plumbline = (self.root / OURS).is_file()

    def find(self, name: str) -> Revision:
        """Return a revision by what git calls it, or WORKING. Raises BadRevision."""
        if name == WORKING:
            changed = self._git("status", "--porcelain").splitlines()
            return Revision(name, self._git("rev-parse", "HEAD"), len(changed))
        shallow = self._git("rev-parse", "--is-shallow-repository") == "true"
        advice = "; this clone is shallow: git fetch --unshallow" if shallow else "; see git log --all"
        asked = ("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return Revision(name, self._git(*asked, wrong=f"no revision {name!r}{advice}"))

    def usual_base(self) -> Revision:
        """Return where this branch left the default one of origin, else the first parent. Raises BadRevision."""
        for name in ("origin/HEAD", "origin/main", "origin/master"):
            found = self._try("merge-base", name, "HEAD")
            if found and found != self._git("rev-parse", "HEAD"):
                return Revision(f"the merge base with {name}", found)
        found = self._try("rev-parse", "--verify", "--quiet", "HEAD^")
        if not found:
            raise BadRevision("no revision to compare with: this is the first commit, or a shallow clone; name one with --base")
        return Revision("the first parent", found)

    def write(self, revision: Revision, folder: Path) -> None:
        """Write the files of a revision into an empty folder. Raises BadRevision."""
        if revision.name == WORKING:
            names = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard", at=self.root).split("\0")
            for name in filter(None, names):
                source, there = self.root / name, folder / name
                if source.is_symlink() or source.is_file():  # what was deleted is still listed
                    there.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, there, follow_symlinks=False)
            return
        index = {"GIT_INDEX_FILE": str(folder.with_name(f"{folder.name}.index"))}
        self._git("read-tree", revision.commit, more=index, at=self.root)
        self._git("checkout-index", "--all", f"--prefix={folder}/", more=index, at=self.root)
        Path(index["GIT_INDEX_FILE"]).unlink()

    def tree(self, revision: Revision, folder: Path, python: str = sys.executable) -> Tree:
        """Make a side of the files that were `written` into a folder. Raises BadRevision."""
        files, here = folder / FILES, folder / FILES / self.inside
        if not here.is_dir():
            raise BadRevision(f"{revision.shown} has no folder {self.inside}")
        if not self.is_plumbline:
            return Tree(here, [here / "src", _installed()], python, root=folder)
        ours, running = folder / "plumbline", Path(plumbline.__file__).parent
        unlike = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(running, ours, ignore=lambda at, names: {*unlike(at, names), "models"} & set(names))
        shutil.rmtree(ours / "harness" / "runtimes")
        for part in CHANGING:
            if not (files / part).is_dir():
                raise BadRevision(f"{revision.shown} has no {part}/: it is from before the face by which these are measured")
            shutil.copytree(files / part, ours / part, ignore=unlike)
        return Tree(here, [folder], python, files / "benchmarks" / "matrix.toml", root=folder)

    def difference(self, base: Path, head: Path) -> Difference:
        """Compare what was `written` into the folders of two sides, and is of their revisions."""
        old, new = _files(base), _files(head)
        changed = {name for name in old & new if not cmp(base / name, head / name, shallow=False)}
        data = {name for name in changed | (old ^ new) if not name.endswith(".py") or name not in new}
        if self.is_plumbline:  # whose checkout no net reads anything from
            data = {name for name in data if not name.startswith(f"{FILES}{os.sep}")}
        return Difference(frozenset(changed | (new - old)), frozenset(data))

    def _try(self, *arguments: str) -> str:
        try:
            return self._git(*arguments)
        except BadRevision:
            return ""

    def _git(self, *arguments: str, wrong: str = "", more: dict[str, str] | None = None, at: Path | None = None) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(at or self._at), *arguments], capture_output=True, text=True, env={**os.environ, **(more or {})}
            )
        except FileNotFoundError as error:
            raise BadRevision("git is not installed; it is needed to compare two revisions") from error
        if done.returncode:
            raise BadRevision(wrong or f"git {arguments[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout.strip("\n")


def written(repository: Repository, revision: Revision, folder: Path) -> Path:
    """Write the files of a revision, and return the folder that they are in. Raises BadRevision."""
    files = folder / FILES
    files.mkdir(parents=True)
    repository.write(revision, files)
    return files


class Difference(Struct, frozen=True):
    """What of a head is not that of its base: `parts` are files and `import NAME` of packages, whichever a cell may have loaded.

    Of `anyones` nobody can say which cells depend on them: files that the head does not have any more, those that are no Python
    code, which whatever there is may read, and packages without a module. `revisions`: whether files are compared at all.
    """

    parts: frozenset[str]
    anyones: frozenset[str]
    revisions: bool = True

    def concerns(self, loaded: Collection[str]) -> bool:
        """Whether a cell that has loaded this on the head may do something else on the base."""
        return bool(self.anyones) or not self.parts.isdisjoint(loaded)

    def and_of_packages(self, base: str, head: str) -> Difference:
        """Return this with what differs between the packages of two Pythons. Raises BadEnvironment."""
        if base == head:
            return self
        names, unknown = environments.difference(base, head)
        parts = self.parts | {f"{IMPORT}{name}" for name in names}
        # what these say of packages is compared as what is installed
        anyones = {name for name in self.anyones if name not in {f"{FILES}{os.sep}{each}" for each in environments.SAYING}}
        return replace(self, parts=parts, anyones=frozenset(anyones | unknown))


def _files(folder: Path) -> set[str]:
    """Return what lies in a folder, from there, but what is hidden, compiled or prose."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    kept = (path for path in found if not any(part.startswith(".") or part == "__pycache__" for part in path.parts))
    return {str(path) for path in kept if path.suffix not in PROSE}


def as_it_is(python: str = sys.executable) -> Tree:
    """Return this folder as a side, with plumbline as it is installed."""
    return Tree(Path.cwd(), [_installed()], python, root=Path.cwd())


def _installed() -> Path:
    """Return the folder from which `plumbline` is imported."""
    return Path(plumbline.__file__).resolve().parent.parent
