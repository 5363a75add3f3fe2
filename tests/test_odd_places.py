"""Places that are not as usual: editors of other systems, terminals with few characters, users without a home."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from plumbline.files import NoCache, cache_folder
from plumbline.harness.session import matrix
from plumbline.harness.views import terminal

TIER = '[tier.one]\n[[tier.one.cells]]\nmodel = ["mlp"]  # größer\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_matrix_file_as_any_editor_saves_it(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "matrix.toml"
    file.write_bytes(TIER.encode(encoding))
    assert [cell.model for cell in matrix.expand(matrix.load(file)["one"], {})] == ["mlp"]


def test_a_matrix_file_that_is_no_text_is_refused_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "matrix.toml"
    file.write_bytes(TIER.encode("latin-1"))
    with pytest.raises(matrix.MatrixError, match=r"matrix\.toml, line 3: expected text in UTF-8"):
        matrix.load(file)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "+-3% <=5 2x ?"), ("cp1252", "±3% <=5 2× ?"), ("utf-8", "±3% ≤5 2× 世")]
)
def test_a_terminal_shows_what_it_can(encoding: str, shown: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    terminal.readable(stream)
    stream.write("±3% ≤5 2× 世")
    stream.flush()
    assert written.getvalue().decode(encoding) == shown


def test_without_a_home_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(NoCache, match=r"this user has none; set \$XDG_CACHE_HOME"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there" / "yet"))
    assert cache_folder() == tmp_path / "not" / "there" / "yet" / "plumbline"


def test_a_home_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(NoCache, match=r"cannot be written to .*plumbline; set \$XDG_CACHE_HOME"):
        cache_folder()


def test_without_a_terminal_what_goes_on_is_said_at_once_and_then_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = terminal.Progress(clock=lambda: now)
    told = []
    steps = (
        (0, "one of two"),
        (30, "two of two"),
        (30, None),
        (59, None),
        (1, None),
        (0, ""),
        (50, "soon"),
        (5, ""),
        (90, "next"),
    )
    for step, text in steps:
        now += step
        if text is not None:
            progress(text)
        progress.remind()
        told.append(capsys.readouterr().err)
    words = ["... one of two\n", "... two of two (for 1 min now)\n", "... two of two (for 2 min now)\n", "... next\n"]
    assert told == [words[0], "", words[1], "", words[2], "", "", "", words[3]]


def test_a_long_step_is_told_of_while_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """By a thread, as the one that waits cannot."""
    said = threading.Event()

    def clock() -> float:
        said.set()
        return 0.0

    with terminal.Progress(every_s=0.0, clock=clock) as progress:
        progress("waiting")
        said.clear()
        assert said.wait(60)
    assert capsys.readouterr().err.startswith("... waiting\n")
