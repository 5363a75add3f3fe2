"""Places that are not as usual: editors of other systems, terminals with few characters, users without a home."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from harness import matrix, terminal
from models.weights import NoCache, cache_folder

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
