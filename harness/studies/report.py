"""Gather what a report shows: runs, what can be read of damaged ones, the history of several sessions, and what a gate found."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from plumbline.harness import journal, messages
from plumbline.harness.journal import NotRead
from plumbline.harness.record import Record
from plumbline.harness.rows import Row
from plumbline.harness.studies import gate
from plumbline.harness.studies.gate import Report as GateReport
from plumbline.harness.studies.scan import Scan, Slim, counted, name_of
from plumbline.harness.studies.stored import NotStored
from plumbline.harness.verdicts.changes import Found, Series, changes, hardware, series_of
from plumbline.harness.verdicts.choice import chosen

MOST = 5_000  # rows of which whole records are kept
SERIES = 500  # in which changes are looked for
GATE = (gate.REPORT, gate.JOURNAL)  # the first is written when it ends


class Evidence(Struct, frozen=True):
    """What a report is made of.

    `rows` are all records of all runs, `problems` what could not be read, in words. `records` are whole records by the key of
    their row: of all rows, or where there are more than MOST of those that are shown; `shown` are the rows of these. `history`
    has the series of cells that several sessions measured, `gates` what gates found.
    """

    rows: list[Row]
    records: dict[str, Record]
    problems: list[str] = []
    history: list[tuple[Series, Found]] = []
    gates: list[GateReport] = []

    @property
    def shown(self) -> list[Row]:
        return [row for row in self.rows if row.key in self.records]


def gather(paths: Sequence[Path]) -> Evidence:
    """Read runs, folders of runs, and folders that a gate has written. Raises NotStored where a path holds none of them.

    The last record of each cell, revision and session counts. What cannot be read is a line of `problems`, and the rest is there.
    """
    runs, gates = _found(paths)
    scan = Scan()
    for folder in runs:
        scan.read(folder)
    rows = list(scan.rows.values())
    problems, reports = scan.problems, _reports(gates, scan.problems)
    in_history = _several_sessions(rows, scan)
    records, sessions = _again(scan, {row.key for row in chosen(rows, MOST)}, in_history, problems)
    history = [(each, changes([session.median_s for session in each.sessions])) for each in series_of([sessions])]
    return Evidence([row for row in rows if row.key in scan.places], records, problems, history, reports)


def _found(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs and the files of gates at these paths, each once. Raises NotStored."""
    runs: dict[Path, Path] = {}
    gates: dict[Path, Path] = {}
    for path in paths:
        try:
            own, written = _at(path)
        except OSError as error:
            raise NotStored(f"{str(path)!r}: {error.strerror}") from error
        if not own and not written:
            got = f"no {journal.NAME} and no {gate.REPORT} in it" if path.exists() else "nothing, as it is not there"
            raise NotStored(f"{str(path)!r}: expected a run, a folder of runs, or what a gate has written, got {got}")
        runs |= {each.resolve(): each for each in own}
        gates |= {each.resolve(): each for each in written}
    return list(runs.values()), list(gates.values())


def _at(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs and the files of gates at a path: itself, or where it is neither, what it holds."""
    if path.is_file():
        return ([path.parent], []) if path.name == journal.NAME else ([], [path] if path.suffix == ".json" else [])
    for folders in ([path], sorted(each for each in path.glob("*/"))):
        runs = [folder for folder in folders if (folder / journal.NAME).exists()]
        gates = [folder / gate.REPORT for folder in folders if any((folder / name).exists() for name in GATE)]
        if runs or gates:
            return runs, gates
    return [], []


def _reports(files: Iterable[Path], problems: list[str]) -> list[GateReport]:
    """Read what gates have found; those that cannot be read become problems."""
    found = []
    for file in files:
        name = f"{name_of(file.parent)}: {file.name}"
        try:
            found.append(messages.decode(file.read_bytes(), GateReport))
        except OSError as error:
            why = "the gate has not ended" if isinstance(error, FileNotFoundError) else error.strerror
            problems.append(f"{name}: {why}")
        except messages.BadMessage as error:
            problems.append(f"{name}: not the report of a gate ({error})")
    return found


def _several_sessions(rows: Iterable[Row], scan: Scan) -> set[str]:
    """Return the keys of the rows whose cells several sessions have timed on one machine.

    Of more than SERIES such cells those in which most may be seen: those with the most sessions, and of these those whose medians
    are furthest apart.
    """
    series: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row.measured:
            series.setdefault((row.id, hardware(scan.machines[row.machine_id])), {})[row.session] = row
    several = [each for each in series.values() if len(each) > 1]
    if len(several) > SERIES:
        words = f"{len(several)} cells were measured by several sessions, and changes are looked for in {SERIES} of them"
        scan.problems.append(f"history: {words}; `plumbline history` looks at all")
        several = sorted(several, key=lambda each: (-len(each), -_apart(each.values())))[:SERIES]
    return {row.key for each in several for row in each.values()}


def _apart(rows: Collection[Row]) -> float:
    """By what factor the medians of rows differ, as a logarithm."""
    medians = [row.latency_s for row in rows if row.latency_s]
    return math.log(max(medians) / min(medians)) if medians else 0.0


def _again(
    scan: Scan, shown: Collection[str], in_history: Collection[str], problems: list[str]
) -> tuple[dict[str, Record], list[Record]]:
    """Make the second pass: whole records of the keys that are shown, in order, and those in the history without samples.

    A record whose samples are damaged becomes a problem, and is shown no more.
    """
    records: dict[str, Record] = {}
    sessions: list[Record] = []
    for key, place in list(scan.places.items()):
        if key not in shown and key not in in_history:
            continue
        try:
            with (place.folder / journal.NAME).open("rb") as file:
                file.seek(place.offset)
                line = journal.Line(place.number, place.offset, file.read(place.length))
            if key in shown:
                records[key] = journal.parsed(place.folder, line, Record)
            if key in in_history:
                sessions.append(journal.parsed(place.folder, line, Slim))
        except NotRead as error:
            problems.append(counted(name_of(place.folder), [(place.number, error.why)]))
            del scan.places[key]
        except OSError as error:
            problems.append(f"{name_of(place.folder)}: line {place.number} could not be read again: {error.strerror}")
            del scan.places[key]
    return records, sessions
