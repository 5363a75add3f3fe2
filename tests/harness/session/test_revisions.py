"""Two revisions of a repository, written beside each other; and the environment of a side that needs other packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from plumbline.harness.session import environments, revisions
from plumbline.harness.session.environments import BadEnvironment
from plumbline.harness.session.revisions import WORKING, BadRevision, Difference, Repository
from plumbline.harness.session.selection import Selection
from plumbline.harness.session.session import REPOSITORY

NET = "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with two commits, and a folder in it with a space in its name."""
    root = tmp_path / "my project"
    (root / "nets").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "nets" / "mynets.py").write_text(NET)
    (root / "gone.py").write_text("")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    (root / "nets" / "mynets.py").write_text(NET.replace("10", "11"))
    git(root, "commit", "-qam", "two")
    return root


def test_revisions_are_found_and_named(folder: Path) -> None:
    repository = Repository(folder)
    assert not repository.is_plumbline and Repository(REPOSITORY).is_plumbline
    head = git(folder, "rev-parse", "HEAD")
    assert repository.find("main").shown == f"main ({head[:9]})"
    assert repository.find(head[:12]).shown == head[:9]
    (folder / "gone.py").unlink()
    (folder / "new.py").write_text("")
    assert repository.find(WORKING).shown == f"the working tree ({head[:9]} and 2 changed files)"
    with pytest.raises(BadRevision, match="no revision 'nowhere'"):
        repository.find("nowhere")


def test_the_usual_base(folder: Path, tmp_path: Path) -> None:
    """The first parent, said so; in a clone with a branch of its own, where that left the default branch of origin."""
    assert (usual := Repository(folder).usual_base()).commit == git(folder, "rev-parse", "HEAD^")
    assert "first parent" in usual.shown
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(folder), str(clone))
    git(clone, "switch", "-qc", "mine")
    git(clone, "commit", "-q", "--allow-empty", "-m", "three")
    found = Repository(clone).usual_base()
    assert found.commit == git(folder, "rev-parse", "main") and "merge base with origin" in found.shown


def test_a_shallow_clone_and_a_first_commit_have_no_base(folder: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{folder}", str(clone))
    with pytest.raises(BadRevision, match="--base"):
        Repository(clone).usual_base()
    with pytest.raises(BadRevision, match="shallow: git fetch --unshallow"):
        Repository(clone).find("HEAD~1")


def test_a_folder_without_git(tmp_path: Path) -> None:
    with pytest.raises(BadRevision, match="in no git repository"):
        Repository(tmp_path)


def test_files_of_a_revision_and_of_the_working_tree(folder: Path, tmp_path: Path) -> None:
    (folder / "gone.py").unlink()
    (folder / "new.py").write_text("new")
    (folder / "link.py").symlink_to("new.py")
    repository = Repository(folder)
    old = revisions.written(repository, repository.find("HEAD^"), tmp_path / "old")
    now = revisions.written(repository, repository.find(WORKING), tmp_path / "now")
    assert (old / "nets" / "mynets.py").read_text() == NET
    assert sorted(path.name for path in old.iterdir()) == ["gone.py", "nets"]
    assert sorted(path.name for path in now.iterdir()) == ["link.py", "nets", "new.py"] and (now / "link.py").is_symlink()
    assert git(folder, "status", "--porcelain").splitlines() == ["D gone.py", "?? link.py", "?? new.py"], "untouched"


def test_by_which_files_two_revisions_differ(folder: Path, tmp_path: Path) -> None:
    """Of what is no code, or gone, nobody can say who depends on it; of prose nobody does."""

    def difference(repository: Repository, name: str) -> Difference:
        sides = [tmp_path / f"{name}-{side}" for side in ("base", "head")]
        for revision, side in zip(("HEAD", WORKING), sides):
            revisions.written(repository, repository.find(revision), side)
        return repository.difference(*sides)

    repository = Repository(folder)
    assert difference(repository, "nothing") == Difference(frozenset(), frozenset())
    (folder / "nets" / "mynets.py").write_text(NET)
    (folder / "new.py").write_text("")
    (folder / "README.md").write_text("words")
    (folder / ".github").mkdir()
    (folder / ".github" / "ci.yml").write_text("words")
    found = difference(repository, "code")
    assert found == Difference(frozenset({"files/nets/mynets.py", "files/new.py"}), frozenset())
    assert found.concerns(["files/gone.py", "files/new.py"]) and not found.concerns(["files/gone.py"])
    (folder / "labels.txt").write_text("cat")
    (folder / "gone.py").unlink()
    found = difference(repository, "data")
    assert found.anyones == {"files/labels.txt", "files/gone.py"} and found.concerns(["files/other.py"])
    (folder / "src" / "plumbline").mkdir(parents=True)
    (folder / "src" / "plumbline" / "__init__.py").write_text("")
    assert difference(Repository(folder), "ours").anyones == set(), (
        "of a checkout of plumbline nets read what lies beside the code"
    )


def test_each_side_is_asked_for_its_own_cells(folder: Path, tmp_path: Path) -> None:
    """A user's net, from a folder inside the repository; a net that is not there is said so."""
    repository = Repository(folder / "nets")
    revision = repository.find("HEAD^")
    revisions.written(repository, revision, tmp_path / "old")
    tree = repository.tree(revision, tmp_path / "old")
    found = tree.select(Selection("smoke", {"model": ["mynets:make"], "image_size": [8], "runtime": ["eager"]}))
    assert {cell.model for cell in found.cells} == {"mynets:make"} and not found.impossible
    with pytest.raises(BadRevision, match="mynets:other"):
        tree.select(Selection("smoke", {"model": ["mynets:other"]}))
    with pytest.raises(BadRevision, match="no tier 'none'"):
        tree.select(Selection("none", {}))


def test_plumblines_own_side_has_its_models_and_the_running_measuring_code(tmp_path: Path) -> None:
    repository = Repository(REPOSITORY)
    revision = repository.find(WORKING)
    files = revisions.written(repository, revision, tmp_path / "side")
    marked = files / "models" / "marked.py"
    marked.write_text("")
    tree = repository.tree(revision, tmp_path / "side")
    ours = tmp_path / "side" / "plumbline"
    assert (ours / "models" / "marked.py").exists() and (ours / "harness" / "timing.py").exists()
    assert tree.select(Selection("smoke", {"model": ["mlp"]})).cells


def test_a_revision_from_before_the_face(folder: Path, tmp_path: Path) -> None:
    """A repository that is plumbline, and has no runtimes yet."""
    (folder / "src" / "plumbline").mkdir(parents=True)
    (folder / "src" / "plumbline" / "__init__.py").write_text("")
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "three")
    repository = Repository(folder)
    revision = repository.find("HEAD")
    revisions.written(repository, revision, tmp_path / "side")
    with pytest.raises(BadRevision, match="harness/runtimes/: it is from before the face"):
        repository.tree(revision, tmp_path / "side")


def test_what_a_project_needs(tmp_path: Path) -> None:
    """Another version of the project is no other environment, another dependency is, and so is another constraint."""
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\nversion = "1"\ndependencies = ["torch"]\n')
    before = environments.needed(tmp_path)
    project.write_text('[project]\nname = "x"\nversion = "2"\ndependencies = ["torch"]\n[tool.ruff]\nline-length = 1\n')
    assert environments.needed(tmp_path) == before
    project.write_text('[project]\nname = "x"\nversion = "2"\ndependencies = ["torch>=2.9"]\n')
    assert environments.needed(tmp_path) != before
    project.write_text('[project]\nname = "x"\nversion = "1"\ndependencies = ["torch"]\n')
    (tmp_path / "constraints.txt").write_text("torch==2.5\n")
    assert environments.needed(tmp_path) != before


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a uv notes that it was asked for."""
    uv, log = tmp_path / "uv", tmp_path / "log"
    uv.write_text(f'#!/bin/sh\necho "$@" >> {log}\ncase "$1" in venv) for last; do :; done; mkdir -p "$last/bin";; esac\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return log


@pytest.mark.parametrize(("project", "of_ours"), [("plumbline", False), ("mine", True)])
def test_another_revision_of_plumbline_may_need_another_version(tmp_path: Path, log: Path, project: str, of_ours: bool) -> None:
    """What the running one needs is not asked for beside it; of another project both are, and where they differ uv says so."""
    needs = next(text for text in requires("plumbline") or () if text.startswith("filelock"))
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{project}"\ndependencies = ["FileLock==1"]\n')
    environments.of_project(tmp_path, [], tmp_path, lambda text: None)
    asked = log.read_text().splitlines()[-1].split()
    assert (needs in asked) == of_ours
    assert any(text.startswith("psutil") for text in asked), (
        "what that revision does not name the measuring code needs all the same"
    )


def test_by_which_modules_the_packages_of_two_pythons_differ(tmp_path: Path) -> None:
    """Of a package without a module, or one that runs whenever Python starts, nobody can say who depends on it."""
    odd = {"bare": ["../../lib/bare.so"], "eager": ["eager.pth", "eager/__init__.py"]}
    old = {"one": 1, "two": 1, "bare": 1, "eager": 1}
    pythons = []
    for side, versions in (("base", old), ("head", {"one": 1, "two": 2, "bare": 2, "eager": 2, "new": 1})):
        for name, version in versions.items():
            about = tmp_path / side / f"{name}-{version}.dist-info"
            about.mkdir(parents=True)
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            files = odd.get(name, [f"{name}/a.py", f"_{name}.so"])
            (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        python = tmp_path / f"python-{side}"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / side} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        pythons.append(str(python))
    modules, unknown = environments.difference(*pythons)
    assert (modules, unknown) == ({"two", "_two", "new", "_new", "eager"}, {"bare", "eager"})
    assert environments.difference(pythons[0], pythons[0]) == (set(), set())
    none = Difference(frozenset({"a.py"}), frozenset({"files/pyproject.toml", "files/table.csv"}))
    found = none.and_of_packages(*pythons)
    assert found.parts >= {"a.py", "import two"} and found.anyones == {"files/table.csv", "bare", "eager"}
    assert none.and_of_packages(pythons[0], pythons[0]) is none
    with pytest.raises(BadEnvironment, match="does not say"):
        environments.difference("/bin/false", pythons[0])


def test_an_environment_is_made_once(tmp_path: Path, log: Path) -> None:
    """By a uv that notes what it was asked for; other packages are another environment."""
    wheel = tmp_path / "small-1.whl"
    wheel.write_text("one")
    assert environments.running([], tmp_path, lambda text: None) == sys.executable
    first = environments.running([str(wheel)], tmp_path, lambda text: None)
    asked = log.read_text()
    assert "venv" in asked and "torch==" in asked and asked.splitlines()[-1].endswith(str(wheel)) and "plumbline==" not in asked
    assert environments.running([str(wheel)], tmp_path, lambda text: None) == first and log.read_text() == asked
    wheel.write_text("two")
    assert environments.running([str(wheel)], tmp_path, lambda text: None) != first


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'no version of nothing==1' >&2\nexit 1\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BadEnvironment, match="no version of nothing==1"):
        environments.running(["nothing==1"], tmp_path, lambda text: None)
