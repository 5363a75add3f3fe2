"""A training on this machine, asked for or on demand: with its processors, and with the machine in the record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from plumbline.harness import machine
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe import memory
from plumbline.models import Task, train
from plumbline.models.compression.variants import Context
from plumbline.models.training.recipes import NoDevice
from plumbline.models.training.training import Progress, Watcher
from plumbline.texts import duration


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


def every_second(progress: Callable[[str], None]) -> Watcher:
    """A watcher that says where training is, at most once a second."""
    said = [0.0]

    def watch(now: Progress) -> None:
        if time.monotonic() - said[0] >= 1:
            said[0] = time.monotonic()
            progress(f"training, {line(now)}")

    return watch


def line(now: Progress) -> str:
    """Epoch, loss, accuracy and time left, in words."""
    top1 = "" if now.top1 is None else f", top-1 {now.top1:.2%}"
    return f"epoch {now.epoch} of {now.epochs}, loss {now.loss:.3f}{top1}, {duration(now.seconds_left)} left"


def _machine() -> dict[str, Any]:
    """What a time depends on."""
    return {
        "cpu_model": machine.cpu_model(),
        "accelerator": machine.accelerator(),
        "cores_allowed": machine.allowed_cpus(),
        "process_peak_bytes": memory.peak_bytes(),
        **machine.state(),
    }
