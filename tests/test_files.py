"""Users without a home for what is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plumbline.files import NoCache, cache_folder, code_digest


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


def test_the_digest_of_code_is_of_all_its_sources(tmp_path: Path) -> None:
    """A kernel in C decides as much as Python does; a page about it does not."""
    (tmp_path / "deep").mkdir()
    seen = [code_digest(tmp_path)]
    for name in ("deep/one.py", "deep/kernel.c"):
        (tmp_path / name).write_text("one")
        seen.append(code_digest(tmp_path))
        (tmp_path / name).write_text("another")
        seen.append(code_digest(tmp_path))
    assert len(set(seen)) == 5
    (tmp_path / "README.md").write_text("words")
    assert code_digest(tmp_path) == seen[-1]
