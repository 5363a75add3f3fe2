"""The digest of a file, and the folder of what is kept between sessions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from plumbline import PlumblineError


class NoCache(PlumblineError, LookupError):
    """There is no place for what is kept between sessions; the message names the variable that says another one."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/plumbline`, in the home directory's .cache where that is not set. Raises `NoCache`."""
    named, unwritable = os.environ.get("XDG_CACHE_HOME"), "set $XDG_CACHE_HOME to a folder that can be written"
    try:
        folder = Path(named or Path.home() / ".cache") / "plumbline"
    except RuntimeError as error:  # a user without a name, as `docker run --user` makes one, and no $HOME
        raise NoCache(f"expected a home directory for what is kept between sessions, this user has none; {unwritable}") from error
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise NoCache(f"what is kept between sessions cannot be written to {folder}; {unwritable}")
    return folder


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


SHARED = Path(__file__).resolve().parent  # what models and harness share decides, too, what comes of both


def code_digest(folder: Path) -> str:
    """Return a digest of the source files of a package's folder, and of what all packages share: 12 hexadecimal digits.

    What a runtime built, or a training that was begun, with other code is not taken from a cache. Finished weights are: their
    record names the code, and a floor holds their accuracy to account.
    """
    digest = hashlib.sha256()
    for path in (*sorted(folder.rglob("*.py")), *sorted(folder.rglob("*.c")), *sorted(SHARED.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
