"""The far side: `plumbline.harness.probe.server` imports torch once and gives every cell a fresh process.

It speaks JSON lines over stdin and stdout, so that a target is just a command in front of it. The near side
(harness/session/client.py) sends one line and waits for what it leads to:

    near -> {"count": {...}, "settings": {...}}      a cell's model is counted, in a process that then ends
    far  -> {"fact": "counts", "value": {...}}
    near -> {"cell": {...}, "settings": {...}, "compare_with_parent": true}
                                                     the server forks the cell's process, which answers
    far  -> {"fact": "prepared", "value": {...}}     and then waits for what the test asks of it:
    near -> {"ask": "agreement"}                     counts, agreement, accuracy, latency, memory, layers
    far  -> {"fact": "agreement", "value": {...}}
    near -> {"ask": "end"}                           the process dies, and the server says how:
    far  -> {"exit": {"code": 0, "signal": null, "timed_out": false, "out_of_memory": false, ...}}
    near -> {"race": [{...}, {...}], "settings": {...}}
                                                     cells of one model are timed in turns, in one process
    far  -> {"fact": "race", "value": [...]}
    near -> {"speed": {...}, "settings": {...}}      how fast torch is here, asked in a process that then ends
    far  -> {"fact": "speed", "value": {...}}

At any time the far side may send {"progress": "..."}; a cell that ends by itself sends {"end": {"outcome", "reason",
"axis"}} first. The process of a cell owns the pipe while it lives; the server reads nothing meanwhile.

`python -m plumbline.harness.probe.server --describe REFERENCE ...` serves nobody: it says of each model from outside the registry
what the near side has to know, one JSON line each, and ends.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plumbline import models
from plumbline.harness import environment, meters, runtimes
from plumbline.harness.boot import BOOT
from plumbline.harness.cell import Cell
from plumbline.harness.machine import allowed_cpus
from plumbline.harness.outcomes import FAILED, OUT_OF_MEMORY, UNAVAILABLE, UNSUPPORTED, CellEnded, first_line
from plumbline.harness.probe import memory
from plumbline.harness.probe.process import Branch, die_with_parent, run_forked, run_spawned
from plumbline.harness.protocol import PROTOCOL
from plumbline.harness.settings import Settings
from plumbline.models import DENSE
from plumbline.models.compression import variants

# Imported before the first fork, always the same, so that every process starts from the same memory.
PRELOAD = (
    "torchvision.transforms.v2", "timm", "sklearn.datasets", "sklearn.model_selection", "ptflops", "safetensors.torch",
    "plumbline.harness.probe.subject",
)  # fmt: skip
# What a failed allocation says, in small letters: C++, torch on the CPU, the C library, torch on CUDA, cuBLAS, oneDNN.
NO_MEMORY = (
    "bad_alloc", "t allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "alloc_failed",
    "create a memory object",
)  # fmt: skip

# What torch says of an operation that it does not have in a number format: "nms_kernel" not implemented for 'BFloat16'
NO_KERNEL = re.compile(r"not implemented for '?(BFloat16|Half)")


class Channel:
    """JSON lines over two file descriptors. A forked process reads on from the same pipe: the near side sends no cell
    before the last one has ended, and no question before the last one was answered, so nothing is read too far."""

    def __init__(self, read: int, write: int) -> None:
        self.read_end, self.write_end = read, write
        self._rest = b""

    def receive(self) -> dict[str, Any] | None:
        """The next line; None at the end of the stream."""
        while b"\n" not in self._rest:
            part = os.read(self.read_end, 1 << 16)
            if not part:
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def send(self, **line: Any) -> None:
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        while data:
            data = data[os.write(self.write_end, data) :]

    def end_line(self) -> None:
        os.write(self.write_end, b"\n")

    def progress(self, text: str) -> None:
        self.send(progress=text)

    @classmethod
    def over_stdio(cls) -> Channel:
        """Take stdin and stdout for the protocol; what anybody prints goes to stderr from now on."""
        channel = cls(os.dup(0), os.dup(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        return channel


def attend(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    """The life of a cell's process: prepare the subject, then answer one question after the other."""
    import torch

    from plumbline.harness.probe import counts
    from plumbline.harness.probe.subject import QUESTIONS, Subject

    if settings.memory_limit_bytes is not None:
        memory.limit(settings.memory_limit_bytes)
    kept_back = runtimes.find(cell.runtime).options.get("mode") == "no_grad"
    with torch.no_grad() if kept_back else torch.inference_mode():
        subject = Subject(cell, settings, folder, channel.progress)
        channel.send(fact="prepared", value=asdict(subject.prepared()))
        while (line := channel.receive()) is not None and (question := line["ask"]) in ("counts", *QUESTIONS):
            answer = counts.kept(folder) if question == "counts" else asdict(QUESTIONS[question](subject))
            channel.send(fact=question, value=answer)


def _count(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    from plumbline.harness.probe import counts

    channel.progress(f"counting {cell.model} at {cell.image_size} pixels")
    counts.keep(models.find(cell.model), cell.image_size, folder)


def _prepare_reference(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    from plumbline.harness.probe import reference

    reference.prepare(cell, settings, folder, channel.progress)


def _try(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    """Note in `folder` why the cell's runtime does not work here; `null` where it does."""
    runtime = runtimes.find(cell.runtime)
    try:
        runtime.adapter.trial(runtimes.way(cell))
    except Exception as error:  # noqa: BLE001 - the process boundary: whatever a runtime raises is why it does not work
        traceback.print_exc()
        reason: str | None = first_line(error)
    else:
        reason = None
    (folder / _trial(cell)).write_text(json.dumps(reason))


def _trial(cell: Cell) -> str:
    """The file that says whether a runtime works on a target, with these options."""
    return f"trial-{cell.runtime}-{cell.target}.json"


def _prepare_artefact(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    from plumbline.harness.probe import artefacts

    artefacts.prepare(cell, settings, folder, channel.progress)


def _prepare_parent(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    from plumbline.harness.probe import reference

    reference.prepare_parent(cell, settings, folder, channel.progress)


def _race(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    import torch

    from plumbline.harness.probe import race

    told = json.loads((folder / "race.json").read_text())
    cells, folders = [Cell.from_json(fields) for fields, _ in told], [Path(place) for _, place in told]
    with torch.inference_mode():
        channel.send(fact="race", value=race.run(cells, settings, folders, channel.progress))


def _measure_speed(cell: Cell, settings: Settings, folder: Path, channel: Channel) -> None:
    """`cell` is any: it says nothing about the machine."""
    from plumbline.harness.probe import speed

    channel.send(fact="speed", value=asdict(speed.measure()))


# Each in a process of its own, in this order; all but the last only where no cell before has left what they make.
JOBS = {
    "trial": _try, "count": _count, "reference": _prepare_reference, "artefact": _prepare_artefact, "parent": _prepare_parent,
    "attend": attend, "race": _race, "speed": _measure_speed,
}  # fmt: skip

# Those that execute a runtime, as the cell asks for it; the others count, train and compare with torch's own settings.
EXECUTING = ("trial", "artefact", "attend", "race", "speed")


def do(job: str, cell: Cell, settings: Settings, folder: Path, channel: Channel) -> int:
    """The life of a job's process, forked or not. Returns its exit code."""
    if job in EXECUTING:
        import torch

        torch.set_num_threads(allowed_cpus())  # compilers write the number into their code
        if cell.precision != "tf32":
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT takes it unasked
    return speak_last(partial(JOBS[job], cell, settings, folder, channel), channel)


def speak_last(work: Callable[[], None], channel: Channel) -> int:
    """Do the work of a process; whatever a stranger's model raises becomes the cell's outcome. Returns the exit code."""
    try:
        work()
    except CellEnded as end:
        channel.send(end={"outcome": end.outcome, "reason": end.reason, "axis": end.axis})
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the process boundary: what a model raises is a result
        traceback.print_exc()
        outcome, axis = _judge(error)
        where = module_of(error) if outcome == FAILED and isinstance(error, RuntimeError) else ""
        channel.send(end={"outcome": outcome, "reason": f"{where}{type(error).__name__}: {error}".strip(), "axis": axis})
    else:
        return 0
    return 1


def module_of(error: BaseException) -> str:
    """Which module of a net raised an error, for the beginning of a sentence; empty where none did. torch says of two number
    types that do not fit each other neither where they met nor whose they are."""
    from torch import nn

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [here for frame in frames if isinstance(here := frame.f_locals.get("self"), nn.Module)]
    if not modules:
        return ""
    name = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    return f"in {f'module {name!r}' if name else 'the net itself'}, a {type(modules[-1]).__name__}: "


def _judge(error: BaseException) -> tuple[str, str | None]:
    """The outcome that an exception stands for, and the axis to blame."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return OUT_OF_MEMORY, None
    if NO_KERNEL.search(str(error)):
        return UNSUPPORTED, "precision"
    if type(error).__module__.startswith("onnxruntime"):  # a provider that loads a model, and then fails at it
        return UNSUPPORTED, "runtime"
    return FAILED, None


ROOM_BYTES = 4 << 30  # that a disk shall have for the next variant


class Server:
    """Serves cells one after the other until the near side closes the pipe."""

    def __init__(self, channel: Channel, folder: Path, fork: bool) -> None:
        self._channel, self._folder, self._fork = channel, folder, fork
        self._variants: list[Path] = []  # their folders, the one that was used last at the end
        self._builder = Branch(_prepare_to_build, partial(_build, channel))

    def serve(self) -> None:
        hello = _versions()
        for name in PRELOAD:
            import_module(name)
        for group in (meters, runtimes, variants):
            group.announced()  # what other packages bring is looked up once
        gc.freeze()  # what is here now is never garbage; looking through it took 0.15 s a collection
        self._channel.send(hello=hello, protocol=PROTOCOL)
        while (line := self._channel.receive()) is not None:
            if "count" in line:
                self._serve_counts(line)
            elif "race" in line:
                self._serve_race(line)
            elif "speed" in line:
                self._ran("speed", Cell.from_json(line["speed"]), Settings.from_json(line["settings"]), self._folder)
            elif "cell" in line:
                self._serve_cell(line)
            # else a question to a process that died before it could read it

    def _serve_counts(self, line: dict[str, Any]) -> None:
        from plumbline.harness.probe import counts

        cell, settings = Cell.from_json(line["count"]), Settings.from_json(line["settings"])
        folder = self._folder_of(cell, settings)
        if (folder / counts.NAME).exists() or self._ran("count", cell, settings, folder):
            self._channel.send(fact="counts", value=counts.kept(folder))

    def _serve_race(self, line: dict[str, Any]) -> None:
        settings = Settings.from_json(line["settings"])
        cells = [Cell.from_json(fields) for fields in line["race"]]
        if all(self._prepared(cell, settings) for cell in cells):
            folder = self._folder_of(cells[0], settings)
            told = [(cell.as_json(), str(self._folder_of(cell, settings))) for cell in cells]
            (folder / "race.json").write_text(json.dumps(told))
            self._ran("race", cells[0], settings, folder)

    def _serve_cell(self, line: dict[str, Any]) -> None:
        cell, settings = Cell.from_json(line["cell"]), Settings.from_json(line["settings"])
        if cell.variant != DENSE:
            folder = self._folder_of(cell, settings)
            self._variants = [*make_room([each for each in self._variants if each != folder], ROOM_BYTES), folder]
        if self._works(cell, settings) and self._prepared(cell, settings, line["compare_with_parent"]):
            self._ran("attend", cell, settings, self._folder_of(cell, settings))

    def _prepared(self, cell: Cell, settings: Settings, compare_with_parent: bool = False) -> bool:
        """Make what a cell needs and no cell before has left; True where all is there. Where not, says how it ended."""
        from plumbline.harness.probe import artefacts, counts

        folder = self._folder_of(cell, settings)
        made = {"count": counts.NAME, "reference": "reference.json"}
        if runtimes.find(cell.runtime).adapter.artefact_for(cell.variant) is not None:
            made["artefact"] = artefacts.name(cell)
        if compare_with_parent:
            made["parent"] = "parent.json"
        return all(self._ran(job, cell, settings, folder) for job, name in made.items() if not (folder / name).exists())

    def _works(self, cell: Cell, settings: Settings) -> bool:
        """Whether the cell's runtime does: it has to show it once a session, in a process that may die of it.

        Where a runtime asks for no trial, that process costs 0.02 s.
        """
        place = self._folder / _trial(cell)
        if not place.exists():
            end = self._end_of("trial", cell, settings, self._folder)
            if not place.exists():
                words = "it did not end in time" if end["timed_out"] else f"it died of {end['signal'] or end['code']}"
                place.write_text(json.dumps(words))
        reason = json.loads(place.read_text())
        if reason is not None:
            text = f"{cell.runtime} does not work on {cell.target} here; a trial of it says: {reason}"
            self._channel.send(end={"outcome": UNAVAILABLE, "reason": text, "axis": "runtime"})
            self._channel.send(exit={"code": 0, "signal": None, "timed_out": False, "out_of_memory": False, "job": "trial"})
        return reason is None

    def _ran(self, job: str, cell: Cell, settings: Settings, folder: Path) -> bool:
        """Run a job. Says how it ended where that is the end of the cell; True where the next one may come."""
        end = self._end_of(job, cell, settings, folder)
        if job != "attend" and end["code"] == 0:
            return True
        self._channel.end_line()  # of a fact that was cut off in the middle
        self._channel.send(exit={**end, "job": job})
        return False

    def _end_of(self, job: str, cell: Cell, settings: Settings, folder: Path) -> dict[str, Any]:
        """Run a job in a fresh process, and tell how that ended."""
        if not self._fork:
            told = {"cell": cell.as_json(), "settings": settings.as_json(), "folder": str(folder), "job": job}
            pipe = (self._channel.read_end, self._channel.write_end)
            return run_spawned([*BOOT, "--job", json.dumps(told)], pipe, settings.time_limit_s)
        if job == "artefact":
            return self._builder.run((cell, settings, folder), settings.time_limit_s)
        return run_forked(partial(do, job, cell, settings, folder, self._channel), settings.time_limit_s)

    def close(self) -> None:
        """End what is still running."""
        self._builder.close()

    def _folder_of(self, cell: Cell, settings: Settings) -> Path:
        folder = self._folder / _digest(cell, settings)
        folder.mkdir(exist_ok=True)
        return folder


def _prepare_to_build(task: tuple[Cell, Settings, Path]) -> None:
    runtimes.find(task[0].runtime).adapter.prepare_to_build()


def _build(channel: Channel, task: tuple[Cell, Settings, Path]) -> int:
    return do("artefact", *task, channel)


def make_room(folders: Sequence[Path], wanted_bytes: int) -> list[Path]:
    """Remove folders, the first ones first, until the disk has that much room; returns those that are left. A variant of VGG-16
    takes 1 GB, and is made again should it be wanted."""
    left = list(folders)
    while left and shutil.disk_usage(left[0].parent).free < wanted_bytes:
        shutil.rmtree(left.pop(0))
    return left


def _digest(cell: Cell, settings: Settings) -> str:
    """Names what a reference depends on; cells of the same model share one."""
    asked = settings.as_json()
    keys = ("seed", "inputs_seed", "data", "weights", "pretrained", "accuracy_images")
    parts = [cell.model, cell.variant, cell.image_size, *(asked[key] for key in keys)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _versions() -> dict[str, Any]:
    """What only the side with torch knows about the machine. Touches no device: a server that did could not fork."""
    import torch

    blas = next((word for word in torch.__config__.show().replace(",", " ").split() if word.startswith("BLAS_INFO=")), "")
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": blas.removeprefix("BLAS_INFO="),
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "threads": allowed_cpus(),
        **{name: version(name) for name in ("torchvision", "timm", "numpy", "ptflops", "onnx", "onnxruntime")},
    }


def _run_job(work: str) -> int:
    """One job in a process that was not forked."""
    line, channel = json.loads(work), Channel.over_stdio()
    cell, settings, folder = Cell.from_json(line["cell"]), Settings.from_json(line["settings"]), Path(line["folder"])
    tempfile.tempdir = str(folder)
    return do(line["job"], cell, settings, folder, channel)


def _describe(references: list[str]) -> int:
    """Say what the near side has to know of models from outside the registry."""
    channel = Channel.over_stdio()
    for reference in references:
        try:
            channel.send(model=models.describe(models.find(reference)))
        except (models.UnknownName, ValueError) as error:
            channel.send(unknown=str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the process boundary: what a stranger's module raises
            traceback.print_exc()
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            channel.send(unknown=f"no model {reference!r}: {type(error).__name__}: {error} ({where})")
    return 0


def main(arguments: list[str]) -> int:
    allowed_cpus()  # before anything is imported that binds this thread to one of them
    for name in environment.left_out(os.environ):  # where the near side could not
        del os.environ[name]
    if watching := environment.watchers():
        sys.exit(f"what measures is watched by {', '.join(watching)}, and would be slowed down; run without that")
    if arguments[:1] == ["--job"]:
        return _run_job(arguments[1])
    if arguments[:1] == ["--describe"]:
        return _describe(arguments[1:])
    fork = hasattr(os, "fork") and "--no-fork" not in arguments
    channel = Channel.over_stdio()
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order: the scratch folder is removed
    with tempfile.TemporaryDirectory(prefix="plumbline-") as folder:
        tempfile.tempdir = folder  # of every process forked from here
        server = Server(channel, Path(folder), fork)
        try:
            server.serve()
        finally:  # a dying near side tells twice, by pipe and by signal: the second must not stop the removing
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
