"""A run: a folder with `records.jsonl`, one JSON line a cell, only ever appended to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness import messages
from plumbline.harness.record import SCHEMA, Record

NAME = "records.jsonl"
ROOM = 1 << 20  # bytes that must fit before the first cell
_BEGINS = b'{"schema":%d,' % SCHEMA  # as it is written: no need to look for the schema in the rest of a line
Found = TypeVar("Found", bound=Record)


class RunError(PlumblineError, OSError):
    """A run that cannot be written, or not continued."""


class NotRead(RunError):
    """A journal, or a line of one, that is not read: where it is, `why` not, and the `schema` of a line that has another one."""

    def __init__(self, where: str, why: str, schema: int | None = None) -> None:
        super().__init__(f"{where}: {why}")
        self.why, self.schema = why, schema


class Journal:
    """Appends records, each of them on the disk before the next cell starts."""

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        """Open a new run, or with `resume` an old one. Raises RunError where it cannot be written."""
        self.folder, self.path = folder, folder / NAME
        self.earlier = read(folder) if resume else []
        make_room(folder, resume=resume)
        self._file = self.path.open("ab", buffering=0)
        if resume:
            self._cut_torn_line()
        self._length = self.path.stat().st_size

    def append(self, record: Record) -> None:
        """Write a record. Raises RunError where the disk does not take it."""
        data = messages.encode(record) + b"\n"
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
            self._length += len(data)
        except OSError as error:
            self._file.truncate(self._length)  # no half line
            raise RunError(f"the record of {record.id} could not be written: {error.strerror}") from error

    def close(self) -> None:
        self._file.close()

    def _cut_torn_line(self) -> None:
        """Cut off half a line, which a session that lost its power may have left; the rest of the journal is whole."""
        whole = self.path.read_bytes().rpartition(b"\n")
        if whole[2]:
            self._file.truncate(len(whole[0]) + len(whole[1]))


def make_room(folder: Path, *, resume: bool = False) -> None:
    """Make a folder that holds no run, unless it is to be resumed. Raises RunError where it does, or cannot hold one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".room"
        with probe.open("wb") as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"the run directory {str(folder)!r} cannot hold a run: {error.strerror}; choose another with --run-dir"
        ) from error
    if not resume and (folder / NAME).exists() and (folder / NAME).stat().st_size:
        raise taken(folder)


def taken(folder: Path) -> RunError:
    """Return what is wrong with a folder in which another run shall begin."""
    return RunError(f"{str(folder)!r} holds a run already; continue it with --resume, or choose another --run-dir")


class _Header(Struct):
    """What tells which schema a line has; the first versions wrote none."""

    schema: int = 1


class Line(NamedTuple):
    """A line of a journal: its number, from 1, where it begins, in bytes, and its text."""

    number: int
    offset: int
    text: bytes

    @property
    def whole(self) -> bool:
        """Whether it was written to its end."""
        return self.text.endswith(b"\n")


def lines(folder: Path) -> Iterator[Line]:
    """Yield the lines of a run's journal, one after the other. Raises NotRead where there is none that can be read."""
    offset = 0
    try:
        with (folder / NAME).open("rb", buffering=ROOM) as file:
            for number, text in enumerate(file, start=1):
                yield Line(number, offset, text)
                offset += len(text)
    except OSError as error:
        raise NotRead(f"{str(folder)!r} holds no run", f"{NAME}: {error.strerror}") from error


def parsed(folder: Path, line: Line, kind: type[Found]) -> Found:
    """Read a line as a record, or as a kind of record that leaves something out.

    Raises NotRead where it is damaged, and where it has another schema.
    """
    why, schema = "", SCHEMA
    try:
        if not line.text.startswith(_BEGINS):
            schema = messages.decode(line.text, _Header).schema
        if schema == SCHEMA:
            return messages.decode(line.text, kind)
        advice = "read it with the plumbline that wrote it (its line names the revision), or measure anew"
        why = f"expected a record of schema {SCHEMA}, got {schema}; {advice}"
    except messages.BadMessage as error:
        why = f"not a record ({error}); was it edited by hand?"
    raise NotRead(f"{folder / NAME}, line {line.number}", why, None if schema == SCHEMA else schema)


def runs_in(path: Path) -> list[Path]:
    """Return the folders of runs at a path: itself, or where it is none, those that it holds."""
    return [path] if (path / NAME).exists() else sorted(each.parent for each in path.glob(f"*/{NAME}"))


def read(folder: Path) -> list[Record]:
    """Read the records of a run, the last one of each cell, revision and session.

    Raises RunError where there is no journal, where a line is damaged, and where a line has another schema.
    """
    records: dict[tuple[str, str | None, str], Record] = {}
    for line in lines(folder):
        if line.whole:  # what follows the last line break was never completed
            record = parsed(folder, line, Record)
            records[record.key] = record
    return list(records.values())
