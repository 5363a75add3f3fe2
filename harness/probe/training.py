"""A training on this machine, asked for by a request or on demand: with its processors, and with the machine in the record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import NotHere, PlumblineError, models
from plumbline.harness import machine, messages
from plumbline.harness.messages import Train, Trained
from plumbline.harness.outcomes import FAILED, UNAVAILABLE, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe import memory
from plumbline.harness.readings import value_of
from plumbline.harness.settings import Settings
from plumbline.models import DENSE, train

if TYPE_CHECKING:
    from plumbline.harness.probe.channel import Channel
    from plumbline.models import Context, Model
    from plumbline.models.training.recipes import Task
    from plumbline.models.training.training import Progress, Watcher

SAID_S = 0.2  # between two lines of progress within an epoch


class NoDevice(NotHere):
    """A GPU that was asked for, and is not here."""


def context_of(model: Model, image_size: int, settings: Settings, progress: Callable[[str], None]) -> Context:
    """Return what builds the nets of a model, with this machine to train on."""
    return models.Context(model, image_size, settings, progress, run)


def serve(request: Train, channel: Channel) -> Trained:
    """Train what a session asks for. Raises CellEnded where that cannot be."""
    try:
        return _trained(request, channel)
    except NotHere as reason:
        raise CellEnded(UNAVAILABLE, str(reason)) from reason
    except (PlumblineError, ValueError) as reason:
        raise CellEnded(FAILED, str(reason)) from reason


def _trained(request: Train, channel: Channel) -> Trained:
    settings, model, size = request.settings, models.find(request.cell.model), request.cell.image_size
    context = context_of(model, size, settings, channel.progress)
    task = _task(request, model, context)
    place = context.place(task)
    try:
        if request.anew and place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
        (place / ".room").touch()
        (place / ".room").unlink()
    except OSError as error:
        reason = f"the cache {str(place)!r} cannot be written: {error.strerror}; name another with $XDG_CACHE_HOME"
        raise CellEnded(FAILED, reason) from error
    record = context.record(task)
    before = record is not None
    if record is None:
        channel.progress(f"training {model.name} at {size} pixels on {model.dataset(size).name}: {task.recipe}")
        record = run(task, place, settings.data, _every_epoch(channel), context, checkpoint_s=request.checkpoint_s)
    copy = None
    if request.out is not None:
        stem = model.file_name(size).removesuffix(".safetensors")
        copy = Path(request.out) / f"{stem}{'' if task.variant == DENSE else f'_{task.variant}'}.safetensors"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(context.trained_weights(task), copy)
    floor = model.floor(size) if task.variant == DENSE else None
    return Trained(
        task.name,
        record,
        str(context.trained_weights(task)),
        None if copy is None else str(copy),
        _usual(task, context),
        None if floor is None else floor.top1,
        None if floor is None else floor.source,
        before,
    )


def _task(request: Train, model: Model, context: Context) -> Task:
    """Tell what is to be trained. Raises ValueError, UnknownName, and NotHere where a variant has no weights to start from."""
    variant, start, size = models.variant(request.cell.variant), request.start, request.cell.image_size
    if model.file is not None:
        raise ValueError(f"{model.name} is an ONNX file, and cannot be trained; expected a torch model")
    if not variant.trainable:
        raise ValueError(f"--variant {variant.name}: nothing in it trains; expected {variant.name}+tune, say")
    usual = variant.recipe(model, size)
    recipe = replace(usual.of_epochs(request.changes.get("epochs", usual.epochs)), **request.changes)
    if start is not None and not Path(start).is_file():
        raise ValueError(f"--from: expected a safetensors file, got {start!r}")
    if request.new_head and start is None:
        raise ValueError("--new-head: expected with --from FILE, whose last layer is left out")
    task = context.task(variant, None if start is None else Path(start), request.new_head)
    return replace(task, recipe=recipe, device=request.device)


def _usual(task: Task, context: Context) -> bool:
    """Whether it is what benchmarks train on demand, and look for."""
    variant = models.variant(task.variant)
    if not (variant.trains or task.variant == DENSE):
        return False
    try:
        return task.name == context.task(variant).name
    except NotHere:  # of a parent without weights, which it was given by --from
        return False


def _every_epoch(channel: Channel) -> Watcher:
    """Say where training is after each epoch, and in between a few times a second."""
    said = [0.0]

    def watch(now: Progress) -> None:
        ended = now.step * now.epochs % now.steps == 0
        if ended or time.monotonic() - said[0] >= SAID_S:
            said[0] = time.monotonic()
            channel.send(messages.Progress(str(now), now.step, now.steps, ended))

    return watch


def run(
    task: Task, folder: Path, root: Path | None, watch: Watcher, context: Context | None = None, *, checkpoint_s: float = 60.0
) -> dict[str, Any]:
    """Train, or go on where an earlier run was interrupted. Returns the record. Raises as `train` does, and `NoDevice`."""
    import torch

    torch.set_num_threads(machine.allowed_cpus())
    memory.keep_freed_memory()
    here = torch.cuda.is_available()  # a driver's file alone says nothing
    if task.device == "cuda" and not here:
        raise NoDevice(f"--device cuda: {machine.cuda_device() or 'torch finds no device that it can use'}")
    task = replace(task, device=task.device or ("cuda" if here else "cpu"))
    bfloat16 = task.device == "cuda" or not PRECISIONS["bf16"].emulated("cpu", machine.cpu_flags())
    with torch.inference_mode(False), torch.enable_grad():
        task = replace(task, bfloat16=bfloat16)
        return train(task, folder, root, watch, checkpoint_s=checkpoint_s, machine=_machine, context=context)


def _machine() -> dict[str, Any]:
    """Return what a time depends on."""
    state = machine.state()
    return {
        "cpu_model": machine.cpu_model(),
        "accelerator": machine.accelerator(),
        "cores_allowed": machine.allowed_cpus(),
        "process_peak_bytes": memory.peak_bytes(),
        **{quantity: value_of(state, quantity) for quantity in state},
    }
