"""`plumbline load`: cells under the loads that the field defines, each on the very object that qualified."""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness import messages, runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Agreement
from plumbline.harness.journal import RunError
from plumbline.harness.load import SERVER, Loaded, Scenario
from plumbline.harness.lock import holder, lock_machine
from plumbline.harness.machine import Machine, described
from plumbline.harness.outcomes import OK, CellEnded
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.session import learn, needed
from plumbline.harness.settings import Settings
from plumbline.harness.target import HERE
from plumbline.harness.verdicts.qualification import qualify
from plumbline.harness.views import load as view
from plumbline.models.compression.variants import DENSE

SCHEMA = 1
COOL_S = 60.0  # that a machine has to cool down before a cell, where a temperature is not to be exceeded
PREPARATION_S, TRIES = 900.0, 12  # of a cell beside its loads, and of the search of `server` at most


class LoadError(PlumblineError, ValueError):
    """A load that cannot be asked for so."""


class LoadRecord(Struct, frozen=True, kw_only=True):
    """A cell under loads: one line of the file that `-o` names. `agreement` is what qualified the object."""

    schema: int = SCHEMA
    id: str
    session: str
    revision: str | None
    cell: Cell
    outcome: str
    reason: str | None = None
    agreement: Agreement | None = None
    loads: list[Loaded] = []
    machine: Machine
    started_at: str
    seconds: float
    settings: Settings


@dataclass(frozen=True)
class Question:
    """What to load, and how: `axes` names values besides the usual ones, by axis; `out` takes a record a line.

    Above `max_temperature` (°C) a soak is stopped, and no cell begins before the machine has cooled down.
    """

    models: Sequence[str]
    scenarios: Sequence[Scenario]
    axes: Mapping[str, Sequence[Any]]
    data: Path | None = None
    time_limit_s: float | None = None
    max_temperature: float | None = None
    out: Path | None = None

    def settings(self) -> Settings:
        """Return those of all cells. Raises NoFolder where there is no such folder of data."""
        limit_s = self.time_limit_s or PREPARATION_S + sum(_allowed_s(scenario) for scenario in self.scenarios)
        return Settings.here(
            self.data,
            inputs_seed=secrets.randbelow(2**31),
            energy_s=0.0,  # no latency is asked for, and energy would be that of none
            cool_s=0.0 if self.max_temperature is None else COOL_S,
            max_temperature=self.max_temperature,
            time_limit_s=limit_s,
        )

    def cells(self) -> list[Cell]:
        """Return a cell for each combination; the usual ones are dense, fp32, batch 1, here. Raises MatrixError."""
        learn(self.models)
        matrix.check_all({**self.axes, "model": self.models})
        cells: list[Cell] = []
        for name in self.models:
            found = matrix.find(name)
            usual: dict[str, Sequence[Any]] = {
                "variant": [DENSE],
                "runtime": [runtimes.usual(found.format)],
                "precision": ["fp32"],
                "batch": [found.batch or 1],
                "image_size": [found.image_size],
                "target": ["cpu"],
            }
            axes = matrix.canonical({**usual, **{axis: values for axis, values in self.axes.items() if values}})
            cells += [Cell(found.name, **dict(zip(axes, values))) for values in itertools.product(*axes.values())]
        return cells


def _allowed_s(scenario: Scenario) -> float:
    """Return the time that a scenario may take: LoadGen goes on until it has had its queries."""
    return (TRIES if scenario.name == SERVER else 2) * scenario.seconds


def report(asked: Question, style: str, progress: Callable[[str], None]) -> int:
    """Load the cells one after the other, and print a table. Returns 1 where one is no pass. Raises `Busy` and `LoadError`."""
    if any(scenario.name == SERVER and scenario.limit_s is None for scenario in asked.scenarios):
        raise LoadError(f"{SERVER}: expected the latency that its p99 is kept under, got none; say --limit-ms MS")
    settings, cells, session = asked.settings(), asked.cells(), uuid4().hex[:12]
    print(f"inputs: seed {settings.inputs_seed}", flush=True)
    records: list[LoadRecord] = []
    _keep(records, asked.out)  # before anything is measured
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        for target, group in itertools.groupby(sorted(cells, key=lambda cell: cell.place), key=lambda cell: cell.place):
            with lock_machine(0, holder()) if target == HERE else nullcontext():
                for record in _at(list(group), asked, settings, session, log, progress):
                    records.append(record)
                    _keep(records, asked.out)
    progress("")
    for machine in dict.fromkeys(described(record.machine) for record in records if record.machine.cpu_model):
        print(machine)
    print()
    print(view.table(((record.cell, loaded) for record in records for loaded in record.loads), style))
    return int(any(loaded.wrong for record in records for loaded in record.loads))


def _keep(records: Iterable[LoadRecord], out: Path | None) -> None:
    if out is None:
        return
    try:
        out.write_bytes(b"".join(messages.encode(record) + b"\n" for record in records))
    except OSError as error:
        raise RunError(f"{str(out)!r} cannot hold the records: {error.strerror}; choose another file with -o") from error


def _at(
    cells: Sequence[Cell], asked: Question, settings: Settings, session: str, log: IO[bytes], progress: Callable[[str], None]
) -> Iterable[LoadRecord]:
    """Load the cells of one place."""
    place = places.of(cells[0].target)
    words = [""]
    server = Connection(
        log, progress=lambda text: progress(f"{words[0]}: {text}"), place=place, lock_s=None if place.name == HERE else 0.0
    )
    try:
        possible = [cell for cell in cells if matrix.impossible(cell) is None]
        place.prepare(needed(possible, settings), progress, server.holding)
        for number, cell in enumerate(cells, 1):
            words[0] = f"{cell.id}, {number} of {len(cells)}"
            yield load(server, cell, asked.scenarios, settings, session)
    finally:
        server.close()


def load(server: Connection, cell: Cell, scenarios: Sequence[Scenario], settings: Settings, session: str) -> LoadRecord:
    """Qualify a cell, and put the very object under each load; where a load ends its process, the next has another one."""
    impossible = matrix.impossible(cell)
    refusal = None if impossible is None else CellEnded(impossible.outcome, impossible.reason, impossible.axis)
    first = CellProbe(server, cell, settings, refusal=refusal)
    probe: CellProbe | None = first
    loads: list[Loaded] = []
    unfit: CellEnded | None = None
    try:
        qualify(first)
    except CellEnded as end:
        unfit, loads = end, [Loaded(scenario, unavailable=f"{end.outcome}: {end.reason}") for scenario in scenarios]
    for scenario in scenarios if unfit is None else ():
        try:
            if probe is None:
                probe = CellProbe(server, cell, settings)
                qualify(probe)
            loads.append(probe.load(scenario))
        except CellEnded as end:
            loads.append(Loaded(scenario, unavailable=f"{end.outcome}: {end.reason}"))
            if probe is not None:
                probe.close()
            probe = None
    if probe is not None:
        probe.close()
    here = server.machine
    return LoadRecord(
        id=cell.id,
        session=session,
        revision=here.revision,
        cell=cell,
        outcome=OK if unfit is None else unfit.outcome,
        reason=None if unfit is None else unfit.reason,
        agreement=first.facts.get("agreement"),
        loads=loads,
        machine=here,
        started_at=first.started_at,
        seconds=round(first.seconds, 3),
        settings=settings.without_paths(),
    )
