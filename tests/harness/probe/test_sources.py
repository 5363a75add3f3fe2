"""Which files of a revision a cell has loaded: by the jobs before its process, and by that itself."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from plumbline.harness.environment import TREE
from plumbline.harness.probe import sources


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which modules are imported, under another name, and two of them."""
    real, named = tmp_path / "real", tmp_path / "named"
    (real / "nets").mkdir(parents=True)
    named.symlink_to(real)
    for name in ("sources_one", "sources_two"):
        (real / "nets" / f"{name}.py").write_text("")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(named / "nets"))
    return named


def test_modules_that_lie_in_the_folder(tree: Path) -> None:
    assert sources.loaded(tree) == set()
    import_module("sources_one")
    assert sources.loaded(tree) == {"nets/sources_one.py"}
    assert sources.loaded(tree, [tree / "net.onnx", "/elsewhere/net.onnx"]) == {"nets/sources_one.py", "net.onnx"}


def test_what_several_jobs_have_loaded_adds_up(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that builds has loaded what the process of the cell never sees."""
    monkeypatch.setenv(TREE, str(tree))
    import_module("sources_one")
    sources.note(tmp_path, "count")
    del sys.modules["sources_one"]
    import_module("sources_two")
    sources.note(tmp_path, "reference")
    del sys.modules["sources_two"]

    def files(*jobs: str) -> list[str]:
        return [part for part in sources.of_cell(tmp_path, jobs) if not part.startswith("import ")]

    assert files("count", "reference") == ["nets/sources_one.py", "nets/sources_two.py"]
    assert files("count", "another") == ["nets/sources_one.py"], "the job of another cell"
    assert "import sources_two" in sources.of_cell(tmp_path, ["reference"]) and "import sources_two" not in sources.packages()


def test_packages_are_the_first_parts_of_what_is_not_pythons_own() -> None:
    import os.path as path

    assert {"import pytest", "import plumbline"} <= sources.packages()
    assert path and not sources.packages() & {"import os", "import json", "import pytest.mark"}


def test_nothing_is_noted_where_no_revision_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TREE, raising=False)
    sources.note(tmp_path, "count")
    assert list(tmp_path.iterdir()) == []
