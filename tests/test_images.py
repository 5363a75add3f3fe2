"""What an image says of itself, and what its files have to keep to; the images are built and run by `tox -e docker`."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness import machine, messages
from plumbline.harness.machine import BadImage, Image, Machine
from plumbline.harness.session.session import default_run_dir

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
FINGERPRINT = ROOT / "docker" / "fingerprint.py"
SAID = {
    "base": "python:3.12",
    "base_digest": "sha256:ab",
    "revision": "abcdef",
    "versions": {"python": "3.12.1", "torch": "2.15.0"},
}


@pytest.fixture
def no_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_git", lambda *arguments: None)


def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    (tmp_path / "image.json").write_text(text)
    monkeypatch.setattr(machine, "IMAGE", tmp_path / "image.json")


@pytest.mark.usefixtures("no_checkout")
def test_an_image_is_in_the_fingerprint_and_has_the_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outside = machine.fingerprint()
    assert (outside.image, outside.revision) == (None, None)
    say(monkeypatch, tmp_path, json.dumps(SAID))
    here = machine.fingerprint()
    assert here.image == Image("python:3.12", "sha256:ab", {"python": "3.12.1", "torch": "2.15.0"})
    assert (here.git_revision, here.git_dirty, here.revision) == ("abcdef", False, "abcdef")
    assert messages.decode(messages.encode(here), Machine) == here
    say(monkeypatch, tmp_path, json.dumps({**SAID, "revision": "123456+"}))
    changed = machine.fingerprint()
    assert (changed.git_revision, changed.git_dirty, changed.revision) == ("123456", True, "123456+")
    assert changed.id == here.id != outside.id
    assert machine.differences(changed, here) == []
    say(monkeypatch, tmp_path, json.dumps({**SAID, "base_digest": "sha256:cd"}))
    assert machine.fingerprint().id != here.id
    assert [text.partition(":")[0] for text in machine.differences(machine.fingerprint(), here)] == ["image"]


def test_a_checkout_that_is_mounted_has_its_own_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_git", lambda *arguments: "f00d" if "status" not in arguments else "")
    say(monkeypatch, tmp_path, json.dumps(SAID))
    here = machine.fingerprint()
    assert (here.git_revision, here.git_dirty) == ("f00d", False)
    assert here.image is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"base": 1}'])
def test_an_image_that_does_not_say_what_it_is_is_refused(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    say(monkeypatch, tmp_path, text)
    with pytest.raises(
        BadImage, match=r"image\.json: expected the JSON that the build of an image writes, got .*build the image again"
    ):
        machine.fingerprint()


def test_the_variable_says_where_runs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PLUMBLINE_RUNS", raising=False)
    assert default_run_dir(tmp_path).parent == tmp_path / "runs"
    monkeypatch.setenv("PLUMBLINE_RUNS", "/elsewhere")
    assert default_run_dir(tmp_path).parent == Path("/elsewhere")


def test_what_the_build_writes_is_what_the_harness_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = write("--base", "b", "--base-digest", "sha256:ab", "--revision", "abc+", "--file", str(tmp_path / "image.json"))
    assert (written.returncode, written.stderr) == (0, "")
    monkeypatch.setattr(machine, "IMAGE", tmp_path / "image.json")
    image = machine.fingerprint().image
    assert image is not None
    assert (image.base, image.base_digest) == ("b", "sha256:ab")
    assert image.versions["python"].startswith("3.")
    assert {"torch", "numpy", "pytest"} <= set(image.versions)


def test_an_argument_that_was_left_out_is_null_and_said(tmp_path: Path) -> None:
    written = write("--base", "b", "--file", str(tmp_path / "image.json"))
    assert written.returncode == 0
    assert written.stderr.splitlines() == [
        f"expected --build-arg {name}=..., got none; records will say null for it" for name in ("BASE_DIGEST", "REVISION")
    ]
    said = json.loads((tmp_path / "image.json").read_text())
    assert (said["base_digest"], said["revision"]) == (None, None)


@pytest.mark.parametrize(
    ("torch", "cuda", "code", "words"),
    [
        ("2.8.0", "12.6", 0, ""),
        ("2.8.1", "12.6", 1, "after the last install: expected torch 2.8.1 with CUDA 12.6, got torch 2.8.0 with CUDA 12.6; set "),
        ("2.8.0", "none", 1, "after the last install: expected torch 2.8.0 with CUDA none, got torch 2.8.0 with CUDA 12.6; set "),
    ],
)
def test_another_torch_than_expected_is_red(tmp_path: Path, torch: str, cuda: str, code: int, words: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('a build has no GPU')")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.8.0'\ncuda = '12.6'\n")
    options = ("--expect-torch", torch, "--expect-cuda", cuda, "--after", "the last install")
    done = write(*options, PYTHONPATH=str(tmp_path))
    assert done.returncode == code
    assert done.stderr.startswith(words)
    assert bool(done.stderr) == bool(code)


def test_no_torch_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    own = runpy.run_path(str(FINGERPRINT))
    monkeypatch.setitem(own["unexpected"].__globals__, "find_spec", lambda name: None)
    assert "expected torch 2.8.0 with CUDA 12.6, got no torch" in own["unexpected"]("2.8.0", "12.6", "it")


@pytest.mark.parametrize("file", [FINGERPRINT, ROOT / "agent" / "plumbline_agent.py"], ids=lambda file: file.name)
def test_what_old_boards_run_is_python_3_6_and_imports_the_standard_library(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 6))
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]  # what it runs a net by comes later
    assert imported
    for node in imported:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_dockerfile_builds_anywhere_and_ends_as_nobody(file: Path) -> None:
    """On the base it is told, with an engine of 2020 as with one of today."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("ARG BASE_IMAGE=")
    assert lines[1].startswith("FROM ${BASE_IMAGE}")
    assert [line for line in lines if line.startswith("FROM")] == [
        line for line in lines if line.startswith("FROM ${BASE_IMAGE}")
    ]
    assert "# syntax=" not in file.read_text()
    assert not any(word in file.read_text() for word in ("<<", "--link ", "--chmod"))
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:10001"
    assert sum("fingerprint.py --base " in line for line in lines) == 1


def test_there_is_a_dockerfile_for_each_place() -> None:
    assert [file.name for file in DOCKERFILES] == ["agent.Dockerfile", "l4t-r36.Dockerfile", "plumbline.Dockerfile"]


def write(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"env": environment} if environment else {}
    return subprocess.run([sys.executable, str(FINGERPRINT), *arguments], capture_output=True, text=True, **given)
