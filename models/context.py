"""How the net of a model comes to its weights: given, published, trained or seeded ones, and compressed by a variant.

`Context` is what techniques of compression ask for besides the net: pictures, labels, a teacher, and training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import Unfit
from plumbline.files import sha256
from plumbline.models.compression.variants import NotTrained, Variant
from plumbline.models.data.datasets import Images, NoData
from plumbline.models.model import Model
from plumbline.models.registry import find
from plumbline.models.sources.pretrained import NoWeights, fetch
from plumbline.models.training import checkpoint
from plumbline.models.training.recipes import Task
from plumbline.models.training.training import CHECKPOINT, Progress, Watcher, finished
from plumbline.models.weights.weights import WEIGHTS, Sources, folder, load_weights, located
from plumbline.texts import duration

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models.compression.making import Compressed


@dataclass(frozen=True)
class Found:
    """Weights that are here: `kind` as of `Weights`, the digest of a published file, and the record of a training."""

    kind: str
    source: str
    path: Path
    published_sha256: str | None = None
    training: dict[str, Any] | None = None


@dataclass
class Context:
    """A model at an image size in pixels, with its data, its cache, and `run`, which trains.

    `trainings` says afterwards which trainings the nets that were made have gone through.
    """

    model: Model
    image_size: int
    sources: Sources
    progress: Callable[[str], None]
    run: Callable[[Task, Path, Path | None, Watcher, Context], Any]
    trainings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.sources.seed

    def example(self) -> Tensor:
        return self.model.pictures(1, self.image_size, self.seed)

    def images(self, kind: str, split: str = "test") -> Images | None:
        """Return what weights of that kind were made for; None for seeded ones, and where the data are not here."""
        if kind == "seeded":
            return None
        for part in dict.fromkeys([split, "test"]):  # a few pictures of ImageNet are no training split
            try:
                return self._load(part)
            except NoData:
                continue
        return None

    def labelled(self, count: int) -> tuple[Tensor, Tensor]:
        import torch

        images = self._load("train")
        chosen = range(0, len(images), max(1, len(images) // count))[:count]
        return images.batch(chosen), torch.tensor([images.labels[index] for index in chosen])

    def _load(self, split: str) -> Images:
        data = self.model.dataset(self.image_size)
        return data.load(self.sources.data, self.image_size, split=split, preparation=self.model.preparation)

    # -- weights ------------------------------------------------------------------------------------------------

    def net(self, scratch: Path) -> tuple[nn.Module, Found]:
        """Build the model with its weights, in eval mode; weights that are kept nowhere else are written to `scratch`, a folder.

        Seeded ones are by torch's current seed. Raises `WrongWeights`.
        """
        found = self._found(scratch)
        if found.kind != "seeded":
            return self.model.weighted(self.image_size, found.path), found
        net, tensors = self.model.seeded(self.image_size, self.seed)
        checkpoint.save_plain(found.path, tensors)
        return net, found

    def _found(self, scratch: Path) -> Found:
        """Locate the weights, fetch or train them."""
        state, weights = scratch / "state.safetensors", located(self.model, self.image_size, self.sources)
        path = weights.path or state
        if weights.task is not None and not path.exists():
            path = self.train(weights.task, scratch if weights.path is None else weights.path.parent)
        if weights.kind == "published":
            self.progress(f"fetching the weights of {self.model.pretrained}")
            try:
                tensors, source, digest = fetch(self.model, self.image_size)
            except NoWeights as reason:
                return Found("seeded", f"no published weights: {reason}", state)
            checkpoint.save_plain(state, tensors)
            return Found("published", source, state, digest)
        return Found(weights.kind, weights.reason, path, None, finished(path.parent) if weights.kind == "trained" else None)

    def parent_weights(self, model: Model | None = None) -> Path:
        """Return the file of a model's own trained weights, which are trained first where that takes no long time.

        Raises `NotTrained`.
        """
        model = model or self.model
        weights = located(model, self.image_size, self.sources)
        if weights.path is None:
            raise NotTrained(f"expected trained weights of {model.name}, got none: {weights.reason}")
        if weights.task is not None and not weights.path.exists():
            self.train(weights.task, weights.path.parent)
        return weights.path

    # -- compression --------------------------------------------------------------------------------------------

    def compress(self, net: nn.Module, variant: Variant, file: Path, seed: int | None = None) -> Compressed:
        """Make a variant of a net and store it in `file`, as `models.compression.making.compress` does."""
        from plumbline.models.compression.making import compress

        return compress(net, variant, self, self.model, self.image_size, file, seed)

    def teacher(self, name: str) -> nn.Module:
        model = self._teaching(name)
        return model.weighted(self.image_size, self.parent_weights(model))

    def _teaching(self, name: str) -> Model:
        if not name:
            raise NotTrained("distill: expected a teacher, as in distill+teacher=resnet20")
        model = find(name)
        taught, own = (each.dataset(self.image_size).name for each in (model, self.model))
        if taught != own:
            raise Unfit(f"expected a teacher for {own}, whose classes {self.model.name} has, got {name}, for {taught}")
        if model.preparation != self.model.preparation:
            raise Unfit(f"expected a teacher of pictures prepared as {self.model.preparation}, got {name}: {model.preparation}")
        return model

    def trained(self, variant: Variant, net: nn.Module) -> nn.Module:
        task = self.task(variant)
        if not self.trained_weights(task).exists():
            command = f"plumbline train {self.model.name} --image-size {self.image_size} --variant {variant.name}"
            if task.recipe.minutes > self.sources.train_minutes:
                raise NotTrained(
                    f"{variant.name} is not trained yet: {command} ({duration(60 * task.recipe.minutes)} on 2 cores)"
                )
            self.train(task)
        record = self.record(task) or {}
        about = {key: record.get(key) for key in ("seconds", "sessions", "top1", "machine")}
        self.trainings.append({"variant": variant.name, "epochs": len(record.get("curves", ())), **about})
        net = deepcopy(net).train()
        load_weights(net, self.trained_weights(task))
        return net.eval()

    # -- training -----------------------------------------------------------------------------------------------

    def task(self, variant: Variant, start: Path | None = None, new_head: bool = False) -> Task:
        """Return what is trained for a chain that ends in a technique which trains, or that is dense.

        It begins with the weights in `start`, all of them or all but the last layer's, where a file is named.
        """
        recipe = variant.recipe(self.model, self.image_size)
        if start is not None:
            return Task(self.model, self.image_size, recipe, variant.name, start, new_head)
        start = self.parent_weights() if variant.starts_trained else None
        return Task(self.model, self.image_size, recipe, variant.name, start, beside=self._beside(variant))

    def place(self, task: Task) -> Path:
        """Return the folder where a training is kept."""
        return folder(task, self.sources.cache)

    def trained_weights(self, task: Task) -> Path:
        """Return the file that has the weights when a training has ended."""
        return self.place(task) / WEIGHTS

    def record(self, task: Task) -> dict[str, Any] | None:
        """Return the record of a training that has come to its end; None of any other."""
        return finished(self.place(task))

    def _beside(self, variant: Variant) -> tuple[str, ...]:
        """List what the weights depend on besides the parent's.

        Earlier trainings of the chain, options that its name leaves out, a teacher, and what was random.
        """
        found = [self.task(earlier).name for earlier in variant.trainings if earlier != variant]
        found += [json.dumps([step.technique.name, dict(step.options)], sort_keys=True) for step in variant.steps]
        for step in variant.steps:
            if "teacher" in step.options:
                found.append(sha256(self.parent_weights(self._teaching(step.options["teacher"]))))
            if step.options.get("by") == "random":
                found.append(f"seed {self.seed}")
        return tuple(found)

    def train(self, task: Task, place: Path | None = None) -> Path:
        """Train, or go on with it, in its usual place or another folder; returns the file of the weights.

        Of what cannot be gone on with (other code, another machine) nothing remains.
        """
        place = place or self.place(task)
        watch = every_second(self.progress)
        context = Context(task.model, task.image_size, self.sources, self.progress, self.run)
        try:
            self.run(task, place, self.sources.data, watch, context)
        except checkpoint.BadCheckpoint as reason:
            self.progress(f"training begins anew: {reason}")
            (place / CHECKPOINT).unlink()
            self.run(task, place, self.sources.data, watch, context)
        return place / WEIGHTS


def every_second(progress: Callable[[str], None]) -> Watcher:
    """Return a watcher that says where training is, at most once a second."""
    said = [0.0]

    def watch(now: Progress) -> None:
        if time.monotonic() - said[0] >= 1:
            said[0] = time.monotonic()
            progress(f"training, {now}")

    return watch
