"""The lock of a machine: two sessions on one machine would ruin each other's numbers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from plumbline import PlumblineError

BUSY = (
    "another session is measuring on this machine, and two at once would ruin both their numbers; "
    "wait for it, or let this one wait: --wait SECONDS"
)


class Busy(PlumblineError, RuntimeError):
    """Somebody else measures on this machine."""


def lock_machine(wait_s: float) -> BaseFileLock:
    """Take this machine's lock. Raises Busy after `wait_s` seconds.

    There is one lock a machine, whoever measures and whatever TMPDIR says; $PLUMBLINE_LOCK names another file.
    """
    usual = Path("/tmp" if os.name == "posix" else tempfile.gettempdir()) / "plumbline.lock"
    path = Path(os.environ.get("PLUMBLINE_LOCK") or usual)
    lock = FileLock(path, timeout=wait_s, mode=0o666)
    try:
        lock.acquire()
    except OSError as error:  # Timeout is one too
        if isinstance(error, Timeout):
            raise Busy(BUSY) from None
        raise Busy(f"the lock {str(path)!r} cannot be taken: {error.strerror}; name another with $PLUMBLINE_LOCK") from error
    return lock
