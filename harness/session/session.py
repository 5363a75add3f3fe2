"""A measuring session: one lock, one journal, one probe server, many cells."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from filelock import BaseFileLock, FileLock, Timeout

from plumbline import PlumblineError
from plumbline.harness import machine, speed
from plumbline.harness.cell import Cell, without_batch
from plumbline.harness.journal import NAME, Journal, RunError
from plumbline.harness.outcomes import OK, CellEnded
from plumbline.harness.session import record
from plumbline.harness.session.client import Probe, ProbeServer
from plumbline.harness.session.matrix import Impossible
from plumbline.harness.settings import Settings
from plumbline.harness.speed import Speed

REPOSITORY = Path(__file__).resolve().parents[2]
BUSY = (
    "another session is measuring on this machine, and two at once would ruin both their numbers; "
    "wait for it, or let this one wait: --wait SECONDS"
)


def run_tier(tier: str, folder: Path, options: Sequence[str]) -> int:
    """Run a tier, or what is missing of it in `folder`, in a pytest of its own. Returns pytest's exit code."""
    place = ["--resume" if (folder / NAME).exists() else "--run-dir", str(folder)]
    command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "--tier", tier, *place, *options]
    return subprocess.run(command).returncode


class Busy(PlumblineError, RuntimeError):
    """Somebody else measures on this machine."""


class Session:
    """Opens a probe for each cell and keeps what became of it."""

    def __init__(self, settings: Settings, journal: Journal, log: IO[bytes], progress: Callable[[str], None]) -> None:
        self.settings, self.journal = settings, journal
        self.server = ProbeServer(log, progress=progress)
        self.records = {kept["cell"]["id"]: _without_samples(kept) for kept in journal.earlier}
        self.measured = sum(kept["outcome"] == OK for kept in journal.earlier)
        self._state_at_start: dict[str, Any] = {}
        self._machine: dict[str, Any] = {}
        self._accuracies: dict[tuple[Any, ...], dict[str, Any]] = {}
        for kept in journal.earlier:
            if kept["outcome"] == OK:
                self._share(Cell.from_json(kept["cell"]), kept["accuracy"])

    def start(self, needs_probe: bool = True) -> None:
        """Start the probe and take the fingerprint. Raises RunError where a resumed run comes from another machine."""
        self._machine = machine.fingerprint(self.server.start() if needs_probe else {}, REPOSITORY)
        ours = self.settings.without_paths()
        for kept in self.journal.earlier:
            changed = [
                f"{key}: {kept['settings'].get(key)} then, {ours[key]} now"
                for key in ours
                if kept["settings"].get(key) != ours[key]
            ]
            if changed:
                raise RunError(
                    f"the run in {str(self.journal.folder)!r} was measured with other settings ({'; '.join(changed)}); "
                    "resume it with the same tier and options, or start a new one with --run-dir"
                )
        for kept in self.journal.earlier if needs_probe else []:
            differences = machine.differences(self._machine, kept["machine"])
            if kept["machine"].get("torch") and differences:
                raise RunError(
                    f"the run in {str(self.journal.folder)!r} was measured on another machine or with other software "
                    f"({'; '.join(text[:100] for text in differences[:3])}); start a new one with --run-dir"
                )

    @property
    def machine_id(self) -> str:
        return str(self._machine["id"])

    def speed(self, cell: Cell) -> Speed | None:
        """How fast torch is here, for an estimate; kept for plans of later sessions. None where it cannot be found out: each
        cell will say for itself what is wrong."""
        try:
            found = Probe(self.server, cell, self.settings).speed()
        except CellEnded:
            return None
        speed.keep(found, self.settings.cache)
        return found

    def open(self, cell: Cell, impossible: Impossible | None) -> Probe:
        """A probe for the cell. What the accuracy of another batch has shown is not measured again."""
        self._state_at_start = machine.state()
        refusal = CellEnded(impossible.outcome, impossible.reason, impossible.axis) if impossible else None
        return Probe(self.server, cell, self.settings, refusal=refusal, accuracy=self._accuracies.get(without_batch(cell)))

    def finish(self, probe: Probe, outcome: str, reason: str | None) -> dict[str, Any]:
        """End the probe's process and keep its record."""
        probe.close()
        here = {**self._machine, "state_at_start": self._state_at_start, "state_at_end": machine.state()}
        kept = record.of_probe(probe, outcome, reason, here)
        self.journal.append(kept)
        self.records[probe.cell.id] = _without_samples(kept)
        self.measured += outcome == OK
        if outcome == OK:
            self._share(probe.cell, kept["accuracy"])
        return kept

    def close(self) -> None:
        self.server.close()
        self.journal.close()

    def _share(self, cell: Cell, accuracy: dict[str, Any] | None) -> None:
        if accuracy is not None and accuracy["unavailable"] is None and accuracy["measured_by"] is None:
            self._accuracies[without_batch(cell)] = {**accuracy, "measured_by": cell.id}


def known_speed(cell: Cell, settings: Settings) -> Speed | None:
    """How fast torch is on this machine: as an earlier session has found, else by asking a probe now. None where another
    session measures, and would be disturbed."""
    if (found := speed.kept(settings.cache)) is not None:
        return found
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        try:
            with lock_machine(0):
                server = ProbeServer(log)
                try:
                    found = Probe(server, cell, settings).speed()
                finally:
                    server.close()
        except (Busy, CellEnded):
            return None
    speed.keep(found, settings.cache)
    return found


def lock_machine(wait_s: float) -> BaseFileLock:
    """Two sessions on one machine would ruin each other's numbers. Raises Busy after `wait_s` seconds.

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


def default_run_dir(root: Path) -> Path:
    return root / "runs" / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")


def _without_samples(kept: dict[str, Any]) -> dict[str, Any]:
    """The journal holds the samples; what is kept in memory for the table need not."""
    if kept["latency"] is None:
        return kept
    kinds = {kind: {**kept["latency"][kind], "samples_s": []} for kind in ("model", "with_transfer")}
    return {**kept, "latency": {**kept["latency"], **kinds}}
