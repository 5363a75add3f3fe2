"""C that is compiled for this processor the first time it is needed, and kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plumbline import PlumblineError
from plumbline.files import cache_folder


class NoCompiler(PlumblineError, RuntimeError):
    """There is no C compiler."""


def compiler() -> list[str]:
    """Return the command of this machine's C compiler: $CC, or one of the usual names. Raises `NoCompiler`."""
    found = shlex.split(os.environ.get("CC", "")) or [next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")]
    if not found[0]:
        raise NoCompiler("there is no C compiler: install gcc, or name one in $CC")
    return found


def library(source: Path, command: Sequence[str], linker: Sequence[str]) -> ctypes.CDLL:
    """Load what a command makes of a file: from the cache, if the same command made it of the same file on such a processor.

    Raises OSError and subprocess.CalledProcessError, whose `stderr` is what the compiler said.
    """
    processor = Path("/proc/cpuinfo")
    flags = {platform.processor()}
    if processor.exists():
        lines = processor.read_text().splitlines()
        flags = {line for line in lines if line.startswith(("flags", "Features", "model name", "CPU implementer", "CPU part"))}
    parts = [source.read_text(), *command, platform.machine(), *sorted(flags)]
    place = cache_folder() / "kernels" / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made, done = Path(scratch, "kernel.o"), Path(scratch, place.name)
            for step in ([*command, "-c", str(source), "-o", str(made)], [*linker, "-shared", str(made), "-o", str(done)]):
                subprocess.run(step, check=True, capture_output=True, text=True)
            done.replace(place)
    return ctypes.CDLL(str(place))
