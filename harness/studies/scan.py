"""Read journals as rows: one record at a time, without its samples, and with a word about each line that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import field

from plumbline.harness import journal
from plumbline.harness.facts import Latency, Timing
from plumbline.harness.journal import NotRead
from plumbline.harness.machine import Machine
from plumbline.harness.record import Record
from plumbline.harness.rows import Row, row_of
from plumbline.harness.verdicts.realised import verdict
from plumbline.texts import number_of


class _Timing(Timing, frozen=True, kw_only=True, rename={"samples_s": "not read"}):
    samples_s: list[float] = field(default_factory=list)


class _Latency(Latency, frozen=True, kw_only=True):
    model: _Timing
    with_transfer: _Timing


class Slim(Record, frozen=True, kw_only=True):
    """A record without the samples of its latencies: they are most of it, and no row needs them."""

    latency: _Latency | None = None


class Place(NamedTuple):
    """Where a record is: which journal, and its line there."""

    folder: Path
    number: int
    offset: int
    length: int


class Scan:
    """The first pass over journals: the row of each record, by its key, and where its line is, by the key of its row."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str | None, str], Row] = {}
        self.places: dict[str, Place] = {}
        self.machines: dict[str, Machine] = {}  # by their ids
        self.problems: list[str] = []

    def read(self, folder: Path) -> None:
        """Add a run."""
        unread: dict[int | None, list[tuple[int, str]]] = {}
        records = copies = 0
        try:
            for line in journal.lines(folder):
                if not line.whole:
                    words = f"line {line.number} has no end, and is left out: the session still writes it, or was cut off"
                    self.problems.append(f"{name_of(folder)}: {words}")
                    continue
                try:
                    record = journal.parsed(folder, line, Slim)
                except NotRead as error:
                    unread.setdefault(error.schema, []).append((line.number, error.why))
                    continue
                records += 1
                copies += self._keep(record, Place(folder, line.number, line.offset, len(line.text)))
        except NotRead as error:
            self.problems.append(f"{name_of(folder)}: {error.why}")
            return
        if not records and not unread:
            self.problems.append(f"{name_of(folder)}: holds no record; its session measured nothing")
        if copies:
            words = f"{number_of(copies, 'record')} of another run stand here again, and count as they are here"
            self.problems.append(f"{name_of(folder)}: {words}")
        self.problems += [counted(name_of(folder), lines) for lines in unread.values()]

    def _keep(self, record: Record, place: Place) -> bool:
        """Keep the row of a record, in the place of an earlier one. Return whether that was of another run."""
        earlier = self.rows.get(record.key)
        key = f"c{len(self.rows) + 1}" if earlier is None else earlier.key
        copied = earlier is not None and self.places[key].folder != place.folder
        self.rows[record.key], self.places[key] = row_of(record, key, verdict(record)), place
        self.machines.setdefault(record.machine.id, record.machine)
        return copied


def counted(name: str, unread: Sequence[tuple[int, str]]) -> str:
    """Say in one line which lines of a journal cannot be read, and why the first of them cannot."""
    (number, why), *others = unread
    more = f" and {number_of(len(others), 'more line')} like it" if others else ""
    numbers = ", ".join(str(other) for other, _ in others[:8]) + (", ..." if len(others) > 8 else "")
    return f"{name}: line {number}{more}{f' ({numbers})' if others else ''}: {why}"


def name_of(folder: Path) -> str:
    """Name a run by the last part of its path: the rest is about the person."""
    return folder.resolve().name
