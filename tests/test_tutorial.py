"""Whoever follows the tutorial gets what it shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import tutorial
from tests.conftest import HOUR_S, where

TEXT = tutorial.PAGE.read_text()


@pytest.mark.slow
def test_every_command_runs_as_it_is_written(tmp_path: Path, cache: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    tutorial.folder_like_a_clone(clone)
    ran = []
    patient = {"PYTEST_ADDOPTS": f"--time-limit {HOUR_S:g}"}  # how fast this machine is at the moment is no matter of a test

    def run(commands: str) -> str:
        ran.append(commands)
        try:
            return tutorial.run(commands, clone, where(tmp_path, cache)["env"] | patient)
        except subprocess.CalledProcessError as error:
            if error.returncode == 1 and "recommend" in commands:  # nothing fits, as on a busy machine
                return str(error.stdout)
            raise AssertionError(f"{commands}{error.stdout}") from error

    followed = tutorial.followed(TEXT, run)
    assert len(ran) == TEXT.count("```sh\n") >= 5
    assert followed.splitlines()[0] == TEXT.splitlines()[0]
    assert (clone / "report.html").stat().st_size > 0
    for name in tutorial.IMAGE.findall(TEXT):
        assert name == tutorial.SHOT or (clone / "pictures" / name).is_file()


def test_what_is_installed_is_what_the_readme_installs() -> None:
    """That line is run by CI, on a clean clone."""
    (block,) = [part.partition("```")[0] for part in TEXT.split("```console\n")[1:]]
    commands = " && ".join(line.removeprefix("$ ") for line in block.splitlines())
    assert f"\n{commands} && " in (tutorial.ROOT / "README.md").read_text()


def test_no_output_is_left_out() -> None:
    parts = list(tutorial.PART.finditer(TEXT))
    outputs = [part["text"] for part in parts if part["commands"] is None]
    assert len(outputs) == TEXT.count("```text\n") > 0, "each output says where it comes from"
    assert all(text.strip() for text in outputs), "python -m tests.tutorial"


def test_an_excerpt() -> None:
    printed = "a\nstart\n[1/2] b\nc\nend\nd\n"
    assert tutorial.excerpt(printed, None, None, None) == printed
    assert tutorial.excerpt(printed, "start", "end", None) == "start\n[1/2] b\nc\n"
    assert tutorial.excerpt(printed, "start", "end", r"\[\d/") == "[1/2] b\n"
    with pytest.raises(ValueError, match="expected a line with 'nowhere', got"):
        tutorial.excerpt(printed, "nowhere", None, None)
    with pytest.raises(ValueError, match=r"expected lines with 'e\{3\}', got"):
        tutorial.excerpt(printed, None, None, "e{3}")


def test_a_command_that_fails_is_seen(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin"}
    page = "```sh\necho one\n```\n\n<!-- output -->\n```text\n```\n\n```sh\nfalse | cat\n```\n"
    with pytest.raises(subprocess.CalledProcessError):
        tutorial.followed(page, lambda commands: tutorial.run(commands, tmp_path, environment))
    shown = tutorial.followed(page.replace("false", "true"), lambda commands: tutorial.run(commands, tmp_path, environment))
    assert "```text\none\n```" in shown
