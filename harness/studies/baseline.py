"""`plumbline gate --baseline DIR`: a new session against stored ones, and what is stored of a session.

A baseline is a folder with one small JSON file a session: its key, and of each cell median, date and revision.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from plumbline.harness import journal
from plumbline.harness.machine import Machine, described
from plumbline.harness.outcomes import OK, UNAVAILABLE, UNSUPPORTED
from plumbline.harness.record import Record
from plumbline.harness.settings import Settings
from plumbline.harness.studies.gate import GateError, Report, Row
from plumbline.harness.verdicts import baseline, regression
from plumbline.harness.verdicts.baseline import Kept, Session
from plumbline.harness.verdicts.comparison import differing, of_machine, of_settings
from plumbline.harness.verdicts.regression import MISSING, REGRESSED, Judgement
from plumbline.texts import number_of

NO_CANARY = "none"


def read(folder: Path) -> list[Session]:
    """Read the stored sessions. Raises GateError, which names file and line or key."""
    if not folder.is_dir():
        raise GateError(f"{str(folder)!r} is no baseline; begin one with --baseline {folder} --update RUN")
    found: dict[tuple[str, str], Path] = {}
    sessions = []
    for path in sorted(folder.glob("*.json")):
        session = _session(path)
        earlier = found.setdefault((session.session, session.name), path)
        if earlier != path:
            raise GateError(f"{path}: session {session.session} is stored in {earlier.name}, too; delete one of them")
        sessions.append(session)
    return sessions


def _session(path: Path) -> Session:
    try:
        plain: Any = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise GateError(f"{path}: expected JSON in UTF-8, got other bytes ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise GateError(f"{path}, line {error.lineno}: expected JSON, got {error.msg}; restore it") from error
    where = "the file"
    try:
        whole = msgspec.convert({**plain, "cells": {}} if isinstance(plain, dict) else plain, Session)
        if whole.schema != 1:
            raise GateError(f"{path}, key schema: expected 1, got {whole.schema}; read it with the plumbline that wrote it")
        where = "key cells"
        for name, cell in msgspec.convert(plain.get("cells"), dict[str, Any]).items():
            where = f"key cells.{name}"
            whole.cells[name] = msgspec.convert(cell, Kept)
            if not 0 < whole.cells[name].median_s < math.inf:
                raise msgspec.ValidationError(f"a median of {whole.cells[name].median_s} s")
    except msgspec.ValidationError as error:
        raise GateError(f"{path}, {where}: expected what --update wrote, got: {error}; restore it") from error
    # a field that plumbline did not know of yet is what it is by default
    for kind, usual in {**of_machine(Machine()), "settings": of_settings(Settings())}.items():
        whole.key[kind] = {**usual, **whole.key.get(kind, {})}
    if not whole.cells:
        raise GateError(f"{path}, key cells: expected one cell at least, got none; delete the file")
    return whole


def update(folder: Path, run: Path) -> list[str]:
    """Write the sessions of a run into a baseline, and say what changed. Raises RunError and GateError."""
    folder.mkdir(parents=True, exist_ok=True)
    stored, records, words = read(folder), journal.read(run), []
    for session in baseline.sessions_of(records):
        path, same = folder / session.name, baseline.alike(stored, session)
        if any(each == session for each in stored):
            words.append(f"{path.name} is stored already: nothing changed")
            continue
        path.write_bytes(msgspec.json.format(msgspec.json.encode(session), indent=1) + b"\n")
        words.append(
            f"{path.name}: {number_of(len(session.cells), 'cell')}, beside {number_of(len(same), 'session')} of the same key"
        )
        if stored and not same:
            words += [f"  a new key: {text}" for text in differing(stored[-1].key, session.key, baseline.KINDS).values()]
        for name, kept in session.cells.items():
            usual = baseline.typical(same, name)
            beside = "new" if usual is None else f"{kept.median_s / usual - 1:+.1%}"
            words.append(f"  {name}: {1e3 * kept.median_s:.4g} ms, {beside}")
    words += [f"  {record.id}: {record.outcome}, not stored" for record in records if record.outcome != OK]
    return words or ["the run holds no cell that was timed: nothing changed"]


def gate(
    folder: Path,
    runs: Sequence[Path],
    measure: Callable[[int], Path],
    *,
    canary: str | None = None,
    allowed: Collection[str] = (),
    say: Callable[[str], None] = print,
) -> Report:
    """Judge a new session against the stored ones. `runs`, or what `measure` makes of a number, are the first and the fresh ones.

    Raises RunError and GateError.
    """
    began, stored = time.monotonic(), read(folder)
    records = journal.read(runs[0] if runs else measure(1))
    first = _one(records)
    same = baseline.alike(stored, first)
    chosen = None if canary == NO_CANARY else canary or baseline.usual_canary(same, first)
    if chosen is not None and chosen not in first.cells:
        raise GateError(f"--canary: expected a cell that the run has measured, or {NO_CANARY}, got {chosen!r}")
    names = [name for name in first.cells if name != chosen]
    found = {name: baseline.undecided(stored, first, name, chosen) for name in names}
    known = {name: one for name in names if found[name] is None and (one := baseline.level(same, name, chosen))}
    logs = {name: log for name in known if (log := baseline.quotient(first, name, chosen)) is not None}
    suspects = [name for name in logs if baseline.suspicious(known[name], logs[name])]
    fresh: list[Session] = []
    if suspects:
        say(f"{len(suspects)} of {len(names)} cells may be slower: {baseline.CONFIRMING} more sessions")
        more = [*runs[1 : 1 + baseline.CONFIRMING]]
        more += [measure(number) for number in range(len(more) + 2, baseline.CONFIRMING + 2)]
        fresh = [_like(first, _one(journal.read(run))) for run in more]
    confirmed = {
        name: [log for session in fresh if (log := baseline.quotient(session, name, chosen)) is not None] for name in suspects
    }
    judged = baseline.judge(known, logs, confirmed)
    rows = [
        Row(name, judged.get(name) or found[name] or Judgement(MISSING), baseline.typical(same, name), first.cells[name].median_s)
        for name in names
    ]
    rows += _not_timed(records, same, first, allowed)
    control = None if chosen is None else baseline.canary_judgement(same, [first, *fresh], chosen)
    distrust = [] if rows else ["there is no cell to be judged beside the canary"]
    if control is not None and control[1]:
        distrust.append(f"the canary itself has changed by {control[0].effect:+.1%} ({chosen}); {baseline.INSTEAD}")
    return Report(
        base=f"{len(same)} of {len(stored)} stored sessions in {folder}",
        head=f"session {first.session}, revision {records[0].revision}",
        machine=described(records[0].machine),
        rows=sorted(rows, key=lambda row: regression.VERDICTS.index(row.judgement.verdict)),
        controls=[Row(f"canary: {chosen}", control[0])] if control is not None else [],
        skipped={
            record.id: f"{record.outcome}: {record.reason or 'not timed'}"
            for record in records
            if record.id not in first.cells and all(record.id not in session.cells for session in same)
        },
        distrust=distrust,
        seconds=time.monotonic() - began,
        planned_s=0.0,
        started_at=records[0].started_at,
    )


def _one(records: Sequence[Record]) -> Session:
    sessions = baseline.sessions_of(records)
    if len(sessions) != 1:
        raise GateError(f"expected a run of one session on one machine with a cell that is ok, got {len(sessions)}")
    return sessions[0]


def _like(first: Session, session: Session) -> Session:
    apart = differing(first.key, session.key, baseline.KINDS)
    if apart:
        raise GateError(f"a session to confirm has another key than the first ({'; '.join(apart.values())})")
    return session


def _not_timed(records: Sequence[Record], same: Sequence[Session], first: Session, allowed: Collection[str]) -> list[Row]:
    """Return what is stored and was not measured now: a check that fails is a regression, without a clock."""
    ended = {record.id: record for record in records if record.id not in first.cells}
    rows = []
    for name in dict.fromkeys(name for session in same for name in session.cells if name not in first.cells):
        record = ended.get(name)
        if record is not None and record.outcome not in (UNSUPPORTED, UNAVAILABLE, OK):
            rows.append(Row(name, Judgement(REGRESSED, f"{record.outcome}: {record.reason}")))
        elif "missing" not in allowed:
            why = "the run does not have it" if record is None else f"{record.outcome}: {record.reason}"
            rows.append(Row(name, Judgement(MISSING, why)))
    return rows
