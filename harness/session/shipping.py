"""Folders that another machine needs, copied there once: each under the digest of what is in it, and checked there."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline import PlumblineError
from plumbline.files import cache_folder, sha256
from plumbline.texts import not_started, size

Ssh = Callable[[str], list[str]]  # from a command of a POSIX shell to the command that runs it there
Say = Callable[[str], None]
Hold = Callable[[], AbstractContextManager[object]]  # keeps the lock there, so that nothing is copied beside a measurement
# Where copies are kept there. What is being copied is kept beside, and moved when it is whole.
SHIPPED = 'd="${XDG_CACHE_HOME:-$HOME/.cache}/plumbline/shipped" && mkdir -p "$d" && cd "$d"'
FREE = "df -Pk . | sed -n 2p | tr -s ' ' | cut -d' ' -f4"  # kB
DIGEST = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum | cut -c1-64"
IGNORED = ("__pycache__", ".git", ".venv", "node_modules")
NO_SPACE = "No space left on device"
SPARE_BYTES = 1 << 28  # that stay free on the disk there


class NotShipped(PlumblineError, OSError):
    """A folder that could not be copied to where it is needed; the message says why."""


@dataclass(frozen=True)
class Revision:
    """The files of a side of a gate. From `root`, a probe starts in `folder`, and finds modules in those of `path` first."""

    root: Path
    folder: Path
    path: tuple[Path, ...]


@dataclass(frozen=True)
class Needed:
    """What the cells of a session need at a place: folders of data sets and of weights, models from outside.

    `revision` has all that probes there run, models from outside, too.
    `built_bytes` is what the largest file takes that a runtime builds there.
    """

    data: tuple[Path, ...] = ()
    weights: Path | None = None
    outside: tuple[str, ...] = ()
    revision: Revision | None = None
    built_bytes: int = 0


def copy(
    folders: Iterable[Path], ssh: Ssh, say: Say, name: str = "", hold: Hold = nullcontext, built_bytes: int = 0
) -> dict[Path, str]:
    """Copy what is not there yet; returns where each folder is there. Of folders that have another `name` nothing is remembered.

    Before the first byte, the disk there has to have room for all of it, and for `built_bytes` besides. Raises NotShipped.
    """
    found = {}
    for folder in folders:
        say(f"looking through {name or folder.name}")
        try:
            found[folder] = _digest(folder, remember=not name)
        except OSError as error:
            raise NotShipped(f"{folder.name} cannot be read: {error}") from error
    if not found:
        return {}
    told = _asked(ssh, f'{SHIPPED} && echo "plumbline $({FREE}) $d" && ls | sed "s/^/plumbline: /"')
    marked = re.search(r"^plumbline (\d+) (.+)$", told, re.M)
    if marked is None:
        raise NotShipped(f"expected the free space there, got {told.strip()[-200:]!r}")
    free, base, there = int(marked[1]) * 1024, marked[2], set(re.findall(r"^plumbline: (.+)$", told, re.M))
    missing = {folder: each for folder, each in found.items() if each[0] not in there}
    takes = {name or folder.name: total for folder, (_, _, total) in missing.items()}
    if built_bytes:
        takes["the largest file that is built there"] = built_bytes
    each = ", ".join(f"{what} takes {size(count)}" for what, count in takes.items())
    full = NotShipped(f"its disk is full: {each}, and {size(free)} are free in {base}; make room")
    if missing and free < sum(takes.values()) + SPARE_BYTES:
        raise full
    with hold() if missing else nullcontext():
        for folder, (digest, files, total) in missing.items():
            try:
                _send(folder, name or folder.name, files, digest, total, ssh, say)
            except NotShipped as error:
                raise (full if NO_SPACE in str(error) else error) from None
    return {folder: f"{base}/{digest}" for folder, (digest, _, _) in found.items()}


def remove(folder: str, ssh: Ssh) -> None:
    """Remove a folder there that `copy` has returned. Raises NotShipped."""
    _asked(ssh, f"{SHIPPED} && rm -rf {shlex.quote(folder)}")


def link(folders: Mapping[str, str], ssh: Ssh) -> str:
    """Make a folder there that shows others, each under a name; returns its path. Raises NotShipped."""
    key = hashlib.sha256(json.dumps(sorted(folders.items())).encode()).hexdigest()[:16]
    links = " && ".join(f"ln -sfn {shlex.quote(target)} roots/{key}/{shlex.quote(name)}" for name, target in folders.items())
    told = _asked(ssh, f'{SHIPPED} && mkdir -p roots/{key} && {links} && echo "plumbline $d/roots/{key}"')
    return told.rpartition("plumbline ")[2].strip()


def copy_files(folder: Path, files: Sequence[Path], ssh: Ssh, say: Say, name: str, hold: Hold = nullcontext) -> str:
    """Copy some of the files and packages that lie in a folder here; returns the folder there in which they have the same names.

    Raises NotShipped.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for path in files:
            to = Path(scratch) / path.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, to, ignore=shutil.ignore_patterns(*IGNORED))
            else:
                shutil.copyfile(path, to)
        (there,) = copy([Path(scratch)], ssh, say, name, hold).values()
    return there


def files_of(folder: Path, references: Sequence[str]) -> list[Path]:
    """Return the files and packages in a folder that models from outside are made of. Raises NotShipped.

    With an ONNX file go those that begin with its name, where its numbers may be; with a module go the other modules of the
    folder. What is installed (timm, torchvision, a package with an entry point) is expected to be installed there, too.
    """
    found: list[Path] = []
    for reference in references:
        name = reference.partition("+")[0]
        if name.lower().endswith(".onnx"):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise NotShipped(f"{name!r}: expected an ONNX file named from the current folder, to be copied; got another")
            path = folder / name
            found += [path, *sorted(path.parent.glob(f"{glob.escape(path.stem)}*data*"))]
        elif ":" in name:
            top = name.partition(":")[0].partition(".")[0]
            own = [path for path in (folder / top, folder / f"{top}.py") if path.exists()]
            found += [*own, *sorted(folder.glob("*.py"))] if own else []
    return list(dict.fromkeys(found))


def _digest(folder: Path, remember: bool) -> tuple[str, list[Path], int]:
    """Return the digest of a folder, as DIGEST says it there; its files, and their bytes."""
    files = sorted(
        (Path(root) / name for root, folders, names in os.walk(folder, followlinks=True) for name in names),
        key=lambda path: os.fsencode(f"./{path.relative_to(folder).as_posix()}"),
    )
    known, cache = _known()
    lines, total, new = [], 0, False
    for path in files:
        seen = path.stat()
        key = str(path.resolve())
        if known.get(key, [])[:2] != [seen.st_size, seen.st_mtime_ns]:
            known[key], new = [seen.st_size, seen.st_mtime_ns, sha256(path)], True
        lines.append(f"{known[key][2]}  ./{path.relative_to(folder).as_posix()}\n")
        total += seen.st_size
    if remember and new:
        cache.write_text(json.dumps(known))
    return hashlib.sha256("".join(lines).encode()).hexdigest(), files, total


def _known() -> tuple[dict[str, Any], Path]:
    """Return the digests of files that were taken before: size, time of the last change, SHA-256; and where they are kept."""
    cache = cache_folder() / "digests.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        return json.loads(cache.read_text()), cache
    except (OSError, json.JSONDecodeError):
        return {}, cache


def _send(folder: Path, name: str, files: Sequence[Path], digest: str, total: int, ssh: Ssh, say: Say) -> None:
    """Unpack beside, check, and move: whoever copies the same at the same time does not get in the way."""
    part = f'part="$PWD/{digest}.$$" && trap \'rm -rf "$part"\' EXIT && mkdir "$part" && cd "$part"'
    # tar may only say how much of a block it has written
    unpack = f'tar -xf - || {{ [ "$({FREE})" -gt 1024 ] || echo "{NO_SPACE}" >&2; exit 1; }}'
    check = f'[ "$({DIGEST})" = {digest} ] || {{ echo "it arrived damaged" >&2; exit 1; }}'
    move = f'cd .. && {{ [ -e {digest} ] || mv -T "$part" {digest}; }}'
    command = ssh(_sh(f"{SHIPPED} && {part} || exit 1; {unpack}; {check}; {move}"))
    sent = 0
    with tempfile.TemporaryFile() as errors, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors) as process:
        assert process.stdin is not None
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|", dereference=True, format=tarfile.PAX_FORMAT) as archive:
                for path in files:
                    archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
                    sent += path.stat().st_size
                    say(f"copying {name}: {size(sent)} of {size(total)}")
            process.stdin.close()
        except BrokenPipeError:
            pass  # what it says below
        code = process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if code != 0:
        raise NotShipped(said or f"exit code {code}")


def _asked(ssh: Ssh, command: str) -> str:
    asking = ssh(_sh(command))
    try:
        done = subprocess.run(asking, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise NotShipped(not_started(asking, error)) from error
    if done.returncode != 0:
        raise NotShipped(done.stderr or f"exit code {done.returncode}")
    return done.stdout


def _sh(command: str) -> str:
    """For a login shell that is no POSIX shell."""
    return f"exec sh -c {shlex.quote(command)}"
