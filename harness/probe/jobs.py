"""What a probe does, each job in a process of its own, and what becomes of it."""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import Struct

from plumbline import models
from plumbline.harness import runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.machine import allowed_cpus
from plumbline.harness.messages import Ask, Compress, Count, Ended, Examine, Load, MeasureSpeed, Open, Race, Train, Turn
from plumbline.harness.meters.running import Watch
from plumbline.harness.outcomes import FAILED, OUT_OF_MEMORY, UNSUPPORTED, CellEnded, first_line
from plumbline.harness.probe import disturbance, memory, process, sources
from plumbline.harness.probe.channel import Channel
from plumbline.harness.settings import Settings

# What a failed allocation says, in small letters: C++, torch on the CPU, the C library, torch on CUDA, cuBLAS, oneDNN.
NO_MEMORY = (
    "bad_alloc", "t allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "alloc_failed",
    "create a memory object",
)  # fmt: skip
# What torch says of an operation that it does not have in a number format: "nms_kernel" not implemented for 'BFloat16'
NO_KERNEL = re.compile(r"not implemented for '?(BFloat16|Half)")


class Task(Struct, frozen=True):
    """A job, the request that it serves, and the folders of its cells."""

    job: str
    request: Count | Open | Race | MeasureSpeed | Examine | Train | Compress
    folders: list[Path]

    @property
    def cell(self) -> Cell:
        """The cell, or the first of several."""
        assert not isinstance(self.request, (MeasureSpeed, Examine))
        return self.request.cells[0] if isinstance(self.request, Race) else self.request.cell

    @property
    def settings(self) -> Settings:
        """How the cell is to be measured."""
        return self.request.settings

    @property
    def folder(self) -> Path:
        """Where the cell's model has its files."""
        return self.folders[0]


def serve_cell(task: Task, channel: Channel) -> None:
    """Live the life of a cell's process: prepare the subject, then answer one question after the other."""
    import torch

    from plumbline.harness.probe import counts
    from plumbline.harness.probe.subject import QUESTIONS, Subject

    if task.settings.memory_limit_bytes is not None:
        memory.limit(task.settings.memory_limit_bytes)
    elsewhere = runtimes.find(task.cell.runtime).adapter.elsewhere  # a board has meters of its own
    looking = partial(disturbance.looking, task.cell.device)
    watch = None if elsewhere else Watch(task.settings.energy_s, task.cell.device, looking=looking)
    without_grad = runtimes.find(task.cell.runtime).options.get("mode") == "no_grad"
    with torch.no_grad() if without_grad else torch.inference_mode():
        subject = Subject(task.cell, task.settings, task.folder, channel.progress, watch)
        channel.answer(subject.prepared())
        while isinstance(asked := channel.receive(), (Ask, Turn, Load)):
            if isinstance(asked, Turn):
                channel.answer(subject.turn(asked.calls))
                process.rest()  # it is another one's turn
            elif isinstance(asked, Load):
                channel.answer(subject.load(asked.scenario))
            else:
                channel.answer(counts.load(task.folder) if asked.question == "counts" else QUESTIONS[asked.question](subject))


def _count(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import counts

    channel.progress(f"counting {task.cell.model} at {task.cell.image_size} pixels")
    counts.save(models.find(task.cell.model), task.cell.image_size, task.folder)


def _prepare_reference(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import reference

    reference.prepare(task.cell, task.settings, task.folder, channel.progress)


def _try_runtime(task: Task, channel: Channel) -> None:
    """Note in the folder why the cell's runtime does not work here; `null` where it does."""
    runtime = runtimes.find(task.cell.runtime)
    try:
        runtime.adapter.trial(runtimes.config(task.cell))
    except Exception as error:  # noqa: BLE001 - the process boundary: whatever a runtime raises is why it does not work
        traceback.print_exc()
        reason: str | None = first_line(error)
    else:
        reason = None
    (task.folder / trial_name(task.cell)).write_text(json.dumps(reason))


def trial_name(cell: Cell) -> str:
    """Name the file that says whether a runtime works on a device, with these options."""
    return f"trial-{cell.runtime}-{cell.device}.json"


def _prepare_artefact(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import artefacts

    artefacts.prepare(task.cell, task.settings, task.folder, channel.progress)


def _prepare_parent(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import reference

    reference.prepare_parent(task.cell, task.settings, task.folder, channel.progress)


def _race(task: Task, channel: Channel) -> None:
    import torch

    from plumbline.harness.probe import race

    assert isinstance(task.request, Race)
    with torch.inference_mode():
        channel.answer(race.run(task.request.cells, task.settings, task.folders, channel.progress))


def _measure_speed(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import speed

    channel.answer(speed.measure())


def _examine(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import examining

    assert isinstance(task.request, Examine)
    channel.answer(examining.examine(task.request.device, channel.progress))


def _train(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import training

    assert isinstance(task.request, Train)
    channel.answer(training.serve(task.request, channel))


def _compress(task: Task, channel: Channel) -> None:
    from plumbline.harness.probe import compressing

    assert isinstance(task.request, Compress)
    channel.answer(compressing.serve(task.request, channel.progress))


JOBS: dict[str, Callable[[Task, Channel], None]] = {
    "trial": _try_runtime, "count": _count, "reference": _prepare_reference, "artefact": _prepare_artefact,
    "parent": _prepare_parent, "cell": serve_cell, "race": _race, "speed": _measure_speed, "train": _train,
    "compress": _compress, "examine": _examine,
}  # fmt: skip
# Those that execute a runtime, as the cell asks for it; the others count, train and compare with torch's own settings.
EXECUTING = ("trial", "artefact", "cell", "race", "speed", "examine")
OF_NO_CELL = ("speed", "examine")


def run_job(task: Task, channel: Channel) -> int:
    """Do a job in this process, forked or not. Returns its exit code."""
    if task.job in EXECUTING:
        import torch

        torch.set_num_threads(allowed_cpus())  # compilers write the number into their code
        if task.job in OF_NO_CELL or task.cell.precision != "tf32":
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT takes it unasked
    code = report_failure(partial(JOBS[task.job], task, channel), channel)
    if task.job != "cell":  # which is asked
        sources.note(task.folder, _noted_as(task))
    return code


def _noted_as(task: Task) -> str:
    if task.job != "artefact":
        return task.job
    from plumbline.harness.probe import artefacts

    return artefacts.name(task.cell)  # others of the same model have theirs in the same folder


def report_failure(work: Callable[[], None], channel: Channel) -> int:
    """Do the work of a process; whatever a stranger's model raises becomes the cell's outcome. Returns the exit code."""
    try:
        work()
    except CellEnded as end:
        channel.send(Ended(end.outcome, end.reason, end.axis))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the process boundary: what a model raises is a result
        traceback.print_exc()
        outcome, axis = _judge(error)
        where = module_of(error) if outcome == FAILED and isinstance(error, RuntimeError) else ""
        channel.send(Ended(outcome, f"{where}{type(error).__name__}: {error}".strip(), axis))
    else:
        return 0
    return 1


def module_of(error: BaseException) -> str:
    """Say which module of a net raised an error, for the beginning of a sentence; empty where none did.

    torch says of two number types that do not fit each other neither where they met nor whose they are.
    """
    from torch import nn

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [here for frame in frames if isinstance(here := frame.f_locals.get("self"), nn.Module)]
    if not modules:
        return ""
    name = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    return f"in {f'module {name!r}' if name else 'the net itself'}, a {type(modules[-1]).__name__}: "


def _judge(error: BaseException) -> tuple[str, str | None]:
    """Tell the outcome that an exception stands for, and the axis to blame."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return OUT_OF_MEMORY, None
    if NO_KERNEL.search(str(error)):
        return UNSUPPORTED, "precision"
    if type(error).__module__.startswith("onnxruntime"):  # a provider that loads a model, and then fails at it
        return UNSUPPORTED, "runtime"
    return FAILED, None
