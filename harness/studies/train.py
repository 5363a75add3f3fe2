"""`plumbline train`: from a command line to weights that benchmarks find."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from plumbline import models
from plumbline.files import cache_folder
from plumbline.harness.journal import RunError
from plumbline.harness.probe.context import Context
from plumbline.harness.probe.training import line, run
from plumbline.harness.session import matrix
from plumbline.harness.session.session import lock_machine
from plumbline.harness.settings import Settings
from plumbline.models.compression import variants
from plumbline.models.compression.variants import NotTrained
from plumbline.models.training.recipes import Task
from plumbline.models.training.training import Progress, finished
from plumbline.models.weights.weights import WEIGHTS, file_name, folder
from plumbline.texts import duration


@dataclass(frozen=True)
class Question:
    """What a command line asks for: None is the model's usual one. `changes` are fields of the recipe."""

    image_size: int | None = None
    variant: str = "dense"
    changes: Mapping[str, Any] = field(default_factory=dict)
    start: Path | None = None
    new_head: bool = False
    device: str | None = None

    def task(self, model: models.Model, settings: Settings) -> Task:
        """Raises UnknownName and MatrixError where something of it does not exist, NotTrained where a variant has no weights to
        start from."""
        size = self.image_size or model.image_size
        if (unfit := matrix.unfit(model, size)) is not None:
            raise matrix.MatrixError(unfit.reason)
        if model.file is not None:
            raise matrix.MatrixError(f"{model.name} is an ONNX file, and cannot be trained; wanted a torch model")
        variant = variants.find(self.variant)
        if not variant.trainable:
            raise matrix.MatrixError(f"--variant {variant.name}: nothing in it trains; wanted {variant.name}+tune, say")
        try:
            usual = variant.recipe(model, size)
            recipe = replace(usual.of_epochs(self.changes.get("epochs", usual.epochs)), **self.changes)
        except ValueError as error:
            raise matrix.MatrixError(str(error)) from error
        if self.start is not None and not self.start.is_file():
            raise matrix.MatrixError(f"--from: {str(self.start)!r} is no file")
        if self.new_head and self.start is None:
            raise matrix.MatrixError("--new-head: wanted with --from FILE, whose last layer is left out")
        if self.start is not None:
            return Task(model, size, recipe, variant.name, self.start, self.new_head, self.device)
        return replace(Context(model, size, settings, print).task(variant), recipe=recipe, device=self.device)


def command(task: Task, settings: Settings, *, anew: bool, out: Path | None, checkpoint_s: float, wait_s: float) -> int:
    """Train as a command: with a bar, and a summary in the end. Returns the exit code: 1 where a floor is missed."""
    data = task.model.dataset(task.image_size)
    place = folder(task, cache_folder())
    with lock_machine(wait_s):
        try:
            if anew and place.exists():
                shutil.rmtree(place)
            place.mkdir(parents=True, exist_ok=True)
            (place / ".room").touch()
            (place / ".room").unlink()
        except OSError as error:
            reason = f"the cache {str(place)!r} cannot be written: {error.strerror}"
            raise RunError(f"{reason}; name another with $XDG_CACHE_HOME") from error
        record = finished(place)
        if record is not None:
            print(f"{task.name} was trained before; --anew trains it again")
        else:
            what = f"{task.model.name} at {task.image_size} pixels on {data.name}"
            print(f"training {what}: {task.recipe}", flush=True)
            try:
                with _Bar() as bar:
                    context = Context(task.model, task.image_size, settings, print)
                    record = run(task, place, settings.data, bar.watch, context, checkpoint_s=checkpoint_s)
            except KeyboardInterrupt:
                print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
                return 130
    print(summary(record))
    print(f"weights: {place / WEIGHTS}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = file_name(task.model, task.image_size).removesuffix(".safetensors")
        copy = out / f"{stem}{'' if task.variant == 'dense' else f'_{task.variant}'}.safetensors"
        shutil.copyfile(place / WEIGHTS, copy)
        print(f"and:     {copy}")
    if not _usual(task, settings):
        print("benchmarks look for the recipe as it is: give them these by --out DIR, and then --weights DIR")
    floor = task.model.floor(task.image_size) if task.variant == "dense" else None
    if floor is not None and record["top1"] < floor.top1:
        print(f"that is less than the floor of {floor.top1:.2%} ({floor.source})", file=sys.stderr)
        return 1
    return 0


def _usual(task: Task, settings: Settings) -> bool:
    """Whether it is what benchmarks train on demand, and look for."""
    variant = variants.find(task.variant)
    if not (variant.trains or task.variant == variants.DENSE):
        return False
    try:
        return task.name == Context(task.model, task.image_size, settings, print).task(variant).name
    except NotTrained:  # of a parent without weights, which it was given by --from
        return False


def summary(record: Mapping[str, Any]) -> str:
    """A training in words."""
    split, curves, here = record["split"], record["curves"], record["machine"]
    sessions = f" in {record['sessions']} sessions" if record["sessions"] > 1 else ""
    return "\n".join(
        [
            f"top-1 {record['top1']:.2%}, top-5 {record['top5']:.2%} on the {record['images']} test images of {record['data']}",
            f"{len(curves)} epochs of {split['train']} images in {duration(record['seconds'])}{sessions}: "
            f"{record['images_per_s']:.0f} images/s, {record['waiting_share']:.1%} of the time for making batches; "
            f"peak memory {here['process_peak_bytes'] / 2**20:.0f} MiB",
        ]
    )


class _Bar:
    """tqdm's bar on a terminal; elsewhere a line after every epoch, and every minute."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._told = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def watch(self, now: Progress) -> None:
        bar = self._bar
        if bar is None:  # a training that goes on begins where it was
            quiet = not sys.stderr.isatty()
            bar = self._bar = tqdm(total=now.steps, initial=now.step - 1, unit="step", disable=quiet, leave=False)
        bar.set_postfix_str(line(now), refresh=False)
        bar.update()
        due = now.step * now.epochs % now.steps == 0 or time.monotonic() - self._told >= 60
        if due and not sys.stderr.isatty():
            self._told = time.monotonic()
            print(line(now), flush=True)
