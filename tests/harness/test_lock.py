"""The lock of a machine: whose it is, and what a stranger may not do with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.harness.lock import Busy, lock_machine, of_session


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    return tmp_path / "lock"


def test_who_has_it_is_named(path: Path) -> None:
    held = lock_machine(0, "ann@desk")
    with pytest.raises(Busy, match=r"another session \(ann@desk, since \d{4}-.* UTC, process \d+\) is measuring"):
        lock_machine(0, "bob@desk")
    held.release()
    lock_machine(0, "bob@desk").release()
    assert path.with_name("lock.holder").read_text().startswith("bob@desk")


def test_a_session_shares_it_with_itself(path: Path) -> None:
    """With a container and the machine beside it, two names of one board: no cell runs beside another."""
    first, other = of_session(), of_session()
    assert first != other
    held = lock_machine(0, first)
    lock_machine(3600, first).release()
    assert held.is_locked
    with pytest.raises(Busy, match=r"another session \(\S+, session \w{8}, since .* UTC, process \d+\) is measuring"):
        lock_machine(0, other)
    held.release()
    lock_machine(0, other).release()
    with pytest.raises(Busy), lock_machine(0, "ann@desk"):
        lock_machine(0, "ann@desk")


def test_it_can_be_taken_by_every_user(path: Path) -> None:
    lock_machine(0, "ann@desk").release()
    assert path.stat().st_mode & 0o777 == 0o666
    assert path.with_name("lock.holder").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("name", ["lock", "lock.holder"])
def test_a_link_is_not_followed(path: Path, tmp_path: Path, name: str) -> None:
    """The folder is everybody's, and so anybody can put a link there."""
    private = tmp_path / "private"
    private.write_text("secret")
    private.chmod(0o600)
    path.with_name(name).symlink_to(private)
    if name == "lock":
        with pytest.raises(Busy, match="to be a file, got a link"):
            lock_machine(0, "ann@desk")
    else:
        lock_machine(0, "ann@desk").release()
    assert private.read_text() == "secret"
    assert private.stat().st_mode & 0o777 == 0o600
