"""The probe: imports torch once, runs where the cells run, and gives every cell a fresh process.

It speaks the messages of harness/messages.py over stdin and stdout, so that a place is just a command in front of it.

With `--silence SECONDS` it ends when its session has said nothing for so long (harness/probe/listener.py).

With `--hold` it serves nothing: it takes the lock of its place, says hello, and keeps it until the session hangs up.

With `--keep FOLDER` what it prepares for cells lies there, and is found again by the next one.

With `--agent COMMAND` the cells are executed by an agent that this command starts, on a board that cannot run the harness
(harness/runtimes/board.py); all else is done here.

`plumbline-probe --describe REFERENCE ...` serves nobody: it says of each model from outside the registry what a session has to
know, one JSON line each, and ends. So does `--capabilities`, of the machine. `--nursery MODULE ...` becomes a nursery of this
Python (harness/nursery.py).
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from plumbline import PlumblineError, UnknownName, entry_points, models
from plumbline.harness import environment, faces, machine, messages, nursery, runtimes
from plumbline.harness.boot import BOOT, PRELOAD
from plumbline.harness.cell import Cell
from plumbline.harness.lock import Busy as Occupied
from plumbline.harness.lock import lock_machine
from plumbline.harness.machine import allowed_cpus
from plumbline.harness.messages import (
    PROTOCOL,
    Busy,
    Compress,
    Count,
    Ended,
    Examine,
    Exited,
    Hello,
    MeasureSpeed,
    Open,
    Race,
    Request,
    Train,
)
from plumbline.harness.nursery import die_with_parent
from plumbline.harness.outcomes import FAILED, UNAVAILABLE, CellEnded
from plumbline.harness.probe.channel import Channel
from plumbline.harness.probe.cooling import Cooling
from plumbline.harness.probe.jobs import Task, run_job, trial_name
from plumbline.harness.probe.process import Branch, run_forked, run_spawned
from plumbline.harness.readings import Readings, value_of
from plumbline.harness.runtimes import board
from plumbline.harness.runtimes.board import Board
from plumbline.harness.settings import NoFolder, Settings, folders
from plumbline.models import DENSE

ROOM_BYTES = 4 << 30  # that a disk shall have for the next variant
UNLIMITED = ("train", "compress")  # jobs that take as long as they take


class Server:
    """Serves requests one after the other until the session closes the pipe."""

    def __init__(self, channel: Channel, folder: Path, fork: bool, agent: Board | None = None) -> None:
        self._channel, self._folder, self._fork, self._agent = channel, folder, fork, agent
        self._variants: list[Path] = []  # their folders, the one that was used last at the end
        self._cooling = Cooling(self._temperature)
        self._builder = Branch(_prepare_to_build, partial(_build, channel), channel.read_end)

    def serve(self) -> None:
        """Say hello, then serve until the end of the stream."""
        software = _software()
        here = machine.fingerprint(software) if self._agent is None else self._agent.machine(software["torch"])
        for name in (*PRELOAD, "plumbline.harness.probe.subject"):
            import_module(name)
        entry_points.look_up()  # what other packages bring
        gc.freeze()  # what is here now is never garbage; looking through it took 0.15 s a collection
        self._channel.send(Hello(PROTOCOL, here, clock_s()))
        while (request := self._channel.receive()) is not None:
            serve = _SERVED.get(type(request))
            if serve is None:
                continue  # a question to a process that died before it could read it
            try:
                located = replace(request, settings=request.settings.located())  # type: ignore[union-attr]
            except PlumblineError as error:
                self._refuse(FAILED, str(error), None, "start")
                continue
            serve(self, located)

    def _count(self, request: Count) -> None:
        from plumbline.harness.probe import counts

        folder = self._folder_of(request.cell, request.settings)
        if (folder / counts.NAME).exists() or self._ran("count", request, folder):
            self._channel.answer(counts.load(folder))

    def _race(self, request: Race) -> None:
        if all(self._prepared(Open(cell, request.settings, False)) for cell in request.cells):
            self._ran("race", request, *(self._folder_of(cell, request.settings) for cell in request.cells))

    def _measure_speed(self, request: MeasureSpeed) -> None:
        self._ran("speed", request, self._folder)

    def _examine(self, request: Examine) -> None:
        self._ran("examine", request, self._folder)

    def _train(self, request: Train) -> None:
        self._ran("train", request, self._folder)

    def _compress(self, request: Compress) -> None:
        self._ran("compress", request, self._folder)

    def _open(self, request: Open) -> None:
        self._cooling.begin()
        folder = self._folder_of(request.cell, request.settings)
        if request.cell.variant != DENSE:
            self._variants = [*make_room([each for each in self._variants if each != folder], ROOM_BYTES), folder]
        if self._runtime_works(request) and self._prepared(request) and self._cool(request.settings):
            before = self._state()
            ended = self._end_of(Task("cell", request, [folder]))
            self._channel.end_line()  # of an answer that was cut off in the middle
            self._channel.send(replace(ended, state_before=before, state_after=self._state()))

    def _cool(self, settings: Settings) -> bool:
        """Let the machine that executes cool down to where it started; where it is too hot, the cell is unavailable."""
        if not settings.cool_s and settings.max_temperature is None:
            return True
        hot = self._cooling.wait(settings.cool_s, settings.max_temperature, self._channel.progress)
        if hot is not None:
            self._refuse(UNAVAILABLE, hot, None, "start")
        return hot is None

    def _temperature(self) -> float | None:
        return value_of(self._state(), "temperature")

    def _state(self) -> Readings:
        """Read the state of the machine that executes."""
        return machine.state() if self._agent is None else self._agent.readings("State")

    def _prepared(self, request: Open) -> bool:
        """Make what a cell needs and no cell before has left; True where all is there. Where not, says how it ended."""
        from plumbline.harness.probe import artefacts, counts

        cell, folder = request.cell, self._folder_of(request.cell, request.settings)
        made = {"count": counts.NAME, "reference": "reference.json"}
        if runtimes.find(cell.runtime).adapter.artefact_for(cell.variant) is not None:
            made["artefact"] = artefacts.name(cell)
        if request.compare_with_parent:
            made["parent"] = "parent.json"
        return all(self._ran(job, request, folder) for job, name in made.items() if not (folder / name).exists())

    def _runtime_works(self, request: Open) -> bool:
        """Whether the cell's runtime does: it has to show it once a session, in a process that may die of it.

        Where a runtime asks for no trial, that process costs 0.02 s.
        """
        cell = request.cell
        file = self._folder / trial_name(cell)
        if not file.exists():
            end = self._end_of(Task("trial", request, [self._folder]))
            if not file.exists():
                file.write_text(json.dumps("it did not end in time" if end.timed_out else f"it died of {end.signal or end.code}"))
        reason = json.loads(file.read_text())
        if reason is not None:
            text = f"{cell.runtime} does not work on {cell.device} here; a trial of it says: {reason}"
            self._refuse(UNAVAILABLE, text, "runtime", "trial")
        return reason is None

    def _refuse(self, outcome: str, reason: str, axis: str | None, job: str) -> None:
        self._channel.send(Ended(outcome, reason, axis))
        self._channel.send(Exited(job))

    def _ran(self, job: str, request: Request, *folders: Path) -> bool:
        """Run a job. Says how it ended where that is not well; True where the next one may come."""
        end = self._end_of(Task(job, request, list(folders)))  # type: ignore[arg-type]
        if end.code == 0:
            return True
        self._channel.end_line()  # of an answer that was cut off in the middle
        self._channel.send(end)
        return False

    def _end_of(self, task: Task) -> Exited:
        """Run a job in a fresh process, and tell how that ended."""
        limit = None if task.job in UNLIMITED else task.settings.time_limit_s
        if not self._fork:
            pipe = (self._channel.read_end, self._channel.write_end)
            return run_spawned([*BOOT, "--job", messages.encode(task).decode()], task.job, pipe, limit)
        if task.job == "artefact":
            return self._builder.run(task, task.job, limit)
        return run_forked(partial(run_job, task, self._channel), task.job, limit, self._channel.read_end)

    def close(self) -> None:
        """End what is still running."""
        self._builder.close()
        if self._agent is not None:
            self._agent.close()

    def _folder_of(self, cell: Cell, settings: Settings) -> Path:
        folder = self._folder / _digest(cell, settings)
        folder.mkdir(exist_ok=True)
        return folder


_SERVED: dict[type, Callable[[Server, Any], None]] = {
    Count: Server._count, Open: Server._open, Race: Server._race, MeasureSpeed: Server._measure_speed, Train: Server._train,
    Compress: Server._compress, Examine: Server._examine,
}  # fmt: skip


def clock_s() -> float:
    """Return what the clock of this machine says. It names moments to people; durations are of another one."""
    return datetime.now(timezone.utc).timestamp()


def _prepare_to_build(task: Task) -> None:
    runtimes.find(task.cell.runtime).adapter.prepare_to_build()


def _build(channel: Channel, task: Task) -> int:
    return run_job(task, channel)


def make_room(folders: Sequence[Path], wanted_bytes: int) -> list[Path]:
    """Remove folders, the first ones first, until the disk has that much room; returns those that are left.

    A variant of VGG-16 takes 1 GB, and is made again should it be asked for.
    """
    left = list(folders)
    while left and shutil.disk_usage(left[0].parent).free < wanted_bytes:
        shutil.rmtree(left.pop(0))
    return left


def _digest(cell: Cell, settings: Settings) -> str:
    """Name what a reference depends on; cells of the same model share one."""
    keys = ("seed", "inputs_seed", "data", "weights", "pretrained", "accuracy_images")
    parts = [cell.model, cell.variant, cell.image_size, *(getattr(settings, key) for key in keys)]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def _software() -> dict[str, Any]:
    """Tell what only a process with torch knows about the machine. Touches no device: a server that did could not fork."""
    import torch

    blas = next((word for word in torch.__config__.show().replace(",", " ").split() if word.startswith("BLAS_INFO=")), "")
    return {
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": blas.removeprefix("BLAS_INFO="),
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "threads": allowed_cpus(),
        "libraries": dict(_versions("torchvision", "timm", "numpy", "ptflops", "onnx", "onnxruntime", "tensorrt")),
    }


def _versions(*names: str) -> Iterator[tuple[str, str]]:
    """Return the versions of those that are installed."""
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            yield name, version(name)


def _run_one(text: str) -> int:
    """Do one job in a process that was not forked."""
    task, channel = messages.decode(text.encode(), Task), Channel.over_stdio()
    tempfile.tempdir = str(task.folder)
    return run_job(task, channel)


def _describe(references: list[str]) -> int:
    """Say what a session has to know of models from outside the registry."""
    channel = Channel.over_stdio()
    for reference in references:
        try:
            found: dict[str, Any] = {"model": models.find(reference).description()}
        except (UnknownName, ValueError) as error:
            found = {"unknown": str(error)}
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the process boundary: what a stranger's module raises
            traceback.print_exc()
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            found = {"unknown": f"no model {reference!r}: {type(error).__name__}: {error} ({where})"}
        channel.write(messages.encode(found))
    return 0


def _tell_capabilities() -> int:
    channel = Channel.over_stdio()
    found = replace(runtimes.capabilities(), data=_data_folders())
    if board.named():
        agent = Board()
        found = agent.capabilities([name for name in runtimes.known() if name != "agent"])
        agent.close()
    channel.write(messages.encode(found))
    return 0


def _data_folders() -> list[str]:
    """Return the names of the folders in this machine's data root; none where there is none."""
    try:
        root = folders(None).get("data")
    except NoFolder:  # the cells that need it say so
        return []
    return [] if root is None else sorted(path.name for path in root.iterdir() if path.is_dir())


def main(arguments: list[str]) -> int:
    """Run a probe, or answer one question about models or the machine. Returns the exit code."""
    allowed_cpus()  # before anything is imported that binds this thread to one of them
    for name in environment.left_out(os.environ):  # where the session could not
        del os.environ[name]
    if watching := environment.watchers():
        sys.exit(f"what measures is watched by {', '.join(watching)}, and would be slowed down; run without that")
    if arguments[:1] == ["--agent"]:
        os.environ[board.VARIABLE], arguments = arguments[1], arguments[2:]
    try:
        return _main(arguments)
    except CellEnded as end:  # of an agent that does not start
        sys.exit(end.reason)


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["--job"]:
        return _run_one(arguments[1])
    if arguments[:1] == ["--describe"]:
        return _describe(arguments[1:])
    if arguments[:1] == ["--capabilities"]:
        return _tell_capabilities()
    if arguments[:1] == ["--nursery"]:
        os.execv(sys.executable, nursery.serving(arguments[1:]))
    try:
        faces.check(models, runtimes)
    except PlumblineError as other:
        sys.exit(str(other))
    fork = hasattr(os, "fork") and "--no-fork" not in arguments
    silent = arguments[:1] == ["--silence"] and fork
    channel = Channel.over_stdio(float(arguments[1]) if silent else None)
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order: the scratch folder is removed
    lock, held, agent = None, None, None
    if "--lock" in arguments:
        wait_s, *who = arguments[arguments.index("--lock") + 1 :]
        lock = (float(wait_s), who[0] if who else "somebody")
    try:
        if board.named():
            agent = Board(lock)
        elif lock is not None:
            held = lock_machine(*lock)
    except Occupied as busy:
        channel.send(Busy(str(busy)))
        return 1
    if "--hold" in arguments:
        channel.send(Hello(PROTOCOL, machine.Machine()))
        channel.receive()  # until the session hangs up
        return 0
    kept = Path(arguments[arguments.index("--keep") + 1]) if "--keep" in arguments else None
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plumbline-") if kept is None else nullcontext(str(kept)) as folder:
        tempfile.tempdir = folder  # of every process forked from here
        server = Server(channel, Path(folder), fork, agent)
        try:
            server.serve()
        finally:  # a dying session tells twice, by pipe and by signal: the second must not stop the removing
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            server.close()
            if held is not None:
                held.release()
    return 0


def entry() -> None:
    """Run `plumbline-probe`, as a place on another machine starts it."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
