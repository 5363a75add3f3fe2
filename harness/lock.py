"""The lock of a machine: two sessions on one machine would ruin each other's numbers."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import stat
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from filelock import BaseFileLock, FileLock, Timeout

from plumbline import PlumblineError

# A container shares it with its machine (docker-run.sh). A folder of its own: in /tmp and /run/lock themselves the kernel keeps
# one user from opening the file of another (fs.protected_regular).
USUAL = Path("/run/lock/plumbline")


SESSION = ", session "  # between the holder and the name of its session


class Busy(PlumblineError, RuntimeError):
    """Somebody else measures on this machine."""


def holder() -> str:
    """Say who takes a lock: the user and the machine on which the session runs."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as `docker run --user` makes one
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node() or 'unknown'}"


def of_session(name: str | None = None) -> str:
    """As `holder`, and names one session: its probes at two places of a machine share the lock, as it runs one cell at a time."""
    return f"{holder()}{SESSION}{name or uuid4().hex[:8]}"


def lock_machine(wait_s: float, who: str) -> BaseFileLock:
    """Take this machine's lock, and leave a note of who has it. Raises Busy after `wait_s` seconds.

    Where the same session has it (`of_session`), what is returned is not locked. There is one lock a machine, whoever measures
    and whatever TMPDIR says; $PLUMBLINE_LOCK names another file.
    """
    path = _path()
    lock = FileLock(path, timeout=wait_s, mode=0o666)
    note = path.with_name(f"{path.name}.holder")
    if path.is_symlink():  # the folder is everybody's: a link leads to a file that is somebody's
        raise Busy(f"expected the lock {str(path)!r} to be a file, got a link; remove it")
    try:
        lock.acquire(timeout=0 if SESSION in who and _said(note).startswith(f"{who}, ") else wait_s)
    except OSError as error:  # Timeout is one too
        if isinstance(error, Timeout) and SESSION in who and _said(note).startswith(f"{who}, "):
            return lock
        if isinstance(error, Timeout):
            raise Busy(_busy(_said(note))) from None
        raise Busy(f"the lock {str(path)!r} cannot be taken: {error.strerror}; name another with $PLUMBLINE_LOCK") from error
    now = datetime.now(timezone.utc)
    for file, text in ((path, None), (note, f"{who}, since {now:%Y-%m-%d %H:%M} UTC, process {os.getpid()}")):
        with contextlib.suppress(OSError):  # a refusal says less then
            _write_for_all(file, text)
    return lock


def _write_for_all(path: Path, text: str | None) -> None:
    """Let every user open a file, and write a text into it; never through a link."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return
        with contextlib.suppress(PermissionError):  # another user's: who may open it may write it
            os.fchmod(file, 0o666)
        if text is not None:
            os.ftruncate(file, 0)
            os.write(file, text.encode())
    finally:
        os.close(file)


def _path() -> Path:
    if named := os.environ.get("PLUMBLINE_LOCK"):
        return Path(named)
    if os.name != "posix":
        return Path(tempfile.gettempdir()) / "plumbline.lock"
    for folder in (USUAL, Path("/tmp/plumbline-lock")):
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            if folder.is_symlink():
                continue
            with contextlib.suppress(PermissionError):  # another user has made it
                folder.chmod(0o777)
            if os.access(folder, os.W_OK):
                return folder / "machine"
    return Path("/tmp/plumbline.lock")


def _said(note: Path) -> str:
    try:
        return note.read_text()
    except OSError:
        return ""


def _busy(note: str) -> str:
    return (
        f"another session{note and f' ({note})'} is measuring on this machine, and two at once would ruin both their numbers; "
        "wait for it, or let this one wait: --wait SECONDS"
    )
