"""A measuring session: one journal, a connection to each place, many cells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from msgspec.structs import replace

from plumbline.harness import machine, runtimes, speed
from plumbline.harness.cell import Cell, shown_model, without_batch
from plumbline.harness.facts import Accuracy
from plumbline.harness.journal import NAME, Journal, RunError
from plumbline.harness.lock import Busy
from plumbline.harness.machine import Machine
from plumbline.harness.outcomes import OK, CellEnded
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import WHO, CellProbe, Connection, NotDescribed, describe, measured_speed, peak_of
from plumbline.harness.session.matrix import Impossible
from plumbline.harness.session.places import Here
from plumbline.harness.session.shipping import Needed
from plumbline.harness.settings import Settings
from plumbline.harness.speed import Speed
from plumbline.harness.target import HERE
from plumbline.models import kind_of
from plumbline.texts import duration

REPOSITORY = Path(__file__).resolve().parents[2]


def run_tier(tier: str, folder: Path, options: Sequence[str]) -> int:
    """Run a tier, or what is missing of it in `folder`, in a pytest of its own. Returns pytest's exit code."""
    place = ["--resume" if (folder / NAME).exists() else "--run-dir", str(folder)]
    command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "--tier", tier, *place, *options]
    return subprocess.run(command).returncode


def _raise(name: str, error: Exception) -> None:
    raise error


class Session:
    """Opens a probe for each cell and keeps what became of it."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        log: IO[bytes],
        progress: Callable[[str], None],
        lock_s: float = 0.0,
        who: str = WHO,
    ) -> None:
        self.settings, self.journal = settings, journal
        self.id = journal.earlier[-1].session if journal.earlier else uuid4().hex[:12]
        self.records = {record.key: _without_samples(record) for record in journal.earlier}
        self.measured = sum(record.outcome == OK for record in journal.earlier)
        self._log, self._progress, self._lock_s, self._who = log, progress, lock_s, who
        self._connections: dict[str, Connection] = {}
        self._accuracies: dict[tuple[Any, ...], Accuracy] = {}
        self._unprobed: Machine | None = None  # this machine, where no probe was started
        for record in journal.earlier:
            if record.outcome == OK:
                self._share(record.cell, record.accuracy)

    def start(self, cells: Iterable[Cell], lost: Callable[[str, Exception], None] = _raise) -> list[str]:
        """Start a probe at each place of the cells, with what they need there. Returns what is to be said of the places.

        `lost` is told of a place at which none starts, and by which error: CellEnded or BadPlace, which is raised without. Raises
        RunError where a resumed run comes from another machine, and Busy.
        """
        for record in self.journal.earlier:
            if record.settings != self.settings.without_paths():
                then, now = (_fields(settings) for settings in (record.settings, self.settings.without_paths()))
                changed = "; ".join(f"{key}: {then[key]} then, {now[key]} now" for key in now if then[key] != now[key])
                raise RunError(
                    f"the run in {str(self.journal.folder)!r} was measured with other settings ({changed}); "
                    "resume it with the same tier and options, or start a new one with --run-dir"
                )
        remarks: list[str] = []
        of_place: dict[str, list[Cell]] = {}
        for cell in cells:
            of_place.setdefault(cell.place, []).append(cell)
        for name, group in of_place.items():
            connection, wanted = self._connection(name), needed(group, self.settings)
            try:
                connection.place.prepare(wanted, self._progress, connection.holding)
                here = connection.start()
            except (CellEnded, places.BadPlace) as error:
                lost(name, error)
                continue
            if gone := missing_data(group, connection.place.data(wanted)):
                remarks.append(f"{name} has no {' and no '.join(gone)}: no accuracy on them there; {connection.place.bring}")
            if off := connection.clock_ahead_s:
                says = f"{duration(abs(off))} {'ahead of' if off > 0 else 'behind'} the one here"
                remarks.append(f"the clock of {name} is {says}; no figure depends on it, but downloads there may be refused")
            for record in self.journal.earlier:
                differences = machine.differences(here, record.machine)
                probed = record.machine.torch or record.machine.libraries  # an agent has no torch
                if probed and record.cell.place == name and differences:
                    raise RunError(
                        f"the run in {str(self.journal.folder)!r} was measured on another machine or with other software "
                        f"({'; '.join(text[:100] for text in differences[:3])}); start a new one with --run-dir"
                    )
        return remarks

    def speed(self) -> Speed | None:
        """Ask how fast torch is here, for an estimate; saved for the plans of later sessions.

        None where it cannot be found out, as nothing is measured here, say: each cell will say for itself what is wrong.
        """
        if HERE not in self._connections:
            return None
        try:
            found = measured_speed(self._connections[HERE], self.settings)
        except CellEnded:
            return None
        speed.save(found, self.settings.cache)
        return found

    def open(self, cell: Cell, impossible: Impossible | None) -> CellProbe:
        """Make a probe for the cell. What the accuracy of another batch has shown is not measured again."""
        refusal = CellEnded(impossible.outcome, impossible.reason, impossible.axis) if impossible else None
        known = self._accuracies.get(without_batch(cell))
        return CellProbe(self._connection(cell.place), cell, self.settings, refusal=refusal, accuracy=known)

    def finish(self, probe: CellProbe, outcome: str, reason: str | None) -> Record:
        """End the probe's process and keep its record."""
        probe.close()
        record = self.record(probe, outcome, reason)
        self.journal.append(record)
        self.records[record.key] = _without_samples(record)
        self.measured += outcome == OK
        if outcome == OK:
            self._share(probe.cell, record.accuracy)
        return record

    def record(self, probe: CellProbe, outcome: str, reason: str | None) -> Record:
        """Return what is known of a cell so far, as its record has it."""
        connection = self._connection(probe.cell.place)
        here, off = connection.machine, connection.clock_ahead_s
        if not here.id and probe.cell.place == HERE:
            here = self._unprobed = self._unprobed or machine.fingerprint()
        facts, ended, latency = probe.facts, probe.exit, probe.facts.get("latency")
        if latency is not None and (remark := connection.place.remark):
            latency = replace(latency, remarks=[*latency.remarks, remark])
        return Record(
            id=probe.cell.id,
            revision=here.revision,
            session=self.id,
            cell=replace(probe.cell, model=shown_model(probe.cell.model)),
            outcome=outcome,
            reason=None if reason is None else without_paths(reason),
            prepared=facts.get("prepared"),
            counts=facts.get("counts"),
            agreement=facts.get("agreement"),
            accuracy=facts.get("accuracy"),
            latency=latency,
            memory=facts.get("memory") or peak_of(ended),
            layers=facts.get("layers"),
            audit=facts.get("audit"),
            delivery=facts.get("delivery"),
            bound=facts.get("bound"),
            machine=here,
            state_before={**(ended.state_before if ended else {}), **({"clock_ahead": read("s", "machine", off)} if off else {})},
            state_after=ended.state_after if ended else {},
            started_at=probe.started_at,
            seconds=round(probe.seconds, 4),
            steps_s=probe.steps_s,
            settings=self.settings.without_paths(),
        )

    def _connection(self, name: str) -> Connection:
        if name not in self._connections:
            place = places.find(name)
            mine = isinstance(place, Here) and any(isinstance(other.place, Here) for other in self._connections.values())
            lock_s = None if mine else self._lock_s  # of this machine there is one, and one of its probes has it
            self._connections[name] = Connection(self._log, progress=self._progress, place=place, lock_s=lock_s, who=self._who)
        return self._connections[name]

    def wait_for_locks(self, seconds: float) -> None:
        """Let what is started next wait so long for the lock of its place."""
        for connection in self._connections.values():
            connection.lock_s = None if connection.lock_s is None else seconds

    def kill(self) -> None:
        """End all that runs, at every place."""
        for connection in self._connections.values():
            connection.kill()

    def close(self) -> None:
        """End all probes in order."""
        for connection in self._connections.values():
            connection.close()
        self.journal.close()

    def _share(self, cell: Cell, accuracy: Accuracy | None) -> None:
        if accuracy is not None and accuracy.unavailable is None and accuracy.measured_by is None:
            self._accuracies[without_batch(cell)] = replace(accuracy, measured_by=cell.id)


def learn(names: Iterable[str]) -> None:
    """Ask the probe about the models that no registry knows, so that `matrix.find` does. Raises MatrixError."""
    asked = matrix.unknown(names)
    try:
        for reference, model in zip(asked, describe(asked) if asked else ()):
            matrix.learn(reference, model)
    except NotDescribed as error:
        raise matrix.MatrixError(str(error)) from error


def needed(cells: Sequence[Cell], settings: Settings) -> Needed:
    """Return what cells need at their place, of what is here."""
    data: dict[Path, None] = {}
    for cell in cells:
        for name in matrix.find(cell.model).dataset(cell.image_size).folders:
            if settings.data is not None and (settings.data / name).is_dir():
                data[settings.data / name] = None
    outside = tuple(dict.fromkeys(cell.model for cell in cells if kind_of(cell.model) != "registered"))
    return Needed(tuple(data), settings.weights, outside, built_bytes=max(map(_built_bytes, cells), default=0))


def _built_bytes(cell: Cell) -> int:
    """Return the bytes of the file that a cell's runtime builds: its weights in fp32, as it is exported; 0 where unknown."""
    if runtimes.find(cell.runtime).adapter.artefact_for(cell.variant) is None:
        return 0
    return 4 * sum(layer.parameters for layer in matrix.find(cell.model).formula(cell.image_size) or ())


def missing_data(cells: Sequence[Cell], there: Sequence[str] | None) -> list[str]:
    """Return the data sets of cells of which there is no folder among those that are there; none where that is not known."""
    found = [matrix.find(cell.model).dataset(cell.image_size) for cell in cells if there is not None]
    return list(dict.fromkeys(each.name for each in found if not each.embedded and not set(there or ()) & set(each.folders)))


def known_speed(settings: Settings) -> Speed | None:
    """How fast torch is on this machine: as an earlier session has found, else by asking a probe now.

    None where another session measures, and would be disturbed.
    """
    if (found := speed.load(settings.cache)) is not None:
        return found
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        connection = Connection(log, lock_s=0.0)
        try:
            found = measured_speed(connection, settings)
        except (Busy, CellEnded):
            return None
        finally:
            connection.close()
    speed.save(found, settings.cache)
    return found


def default_run_dir(root: Path) -> Path:
    """Name the folder of a run by the time, in $PLUMBLINE_RUNS, or in runs/ of a folder."""
    return Path(os.environ.get("PLUMBLINE_RUNS") or root / "runs") / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")


def without_paths(text: str) -> str:
    """Leave of each absolute path only the last part: the rest is about the person, not about the cell."""
    return re.sub(r"(?<![\w.])(?:/[\w.+@~-]+)+/([\w.+@~-]+)", r"\1", text)


def _fields(settings: Settings) -> dict[str, Any]:
    return {field: getattr(settings, field) for field in settings.__struct_fields__}


def _without_samples(record: Record) -> Record:
    """Leave out the samples, which the journal holds: the table does not need them in memory."""
    if record.latency is None:
        return record
    model, whole = (replace(timing, samples_s=[]) for timing in (record.latency.model, record.latency.with_transfer))
    return replace(record, latency=replace(record.latency, model=model, with_transfer=whole))
