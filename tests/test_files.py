"""Users without a home for what is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plumbline.files import NoCache, cache_folder


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
