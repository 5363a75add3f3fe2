"""What techniques of compression ask for besides the net: pictures, labels, a teacher, and training."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import models
from plumbline.files import sha256
from plumbline.harness.probe import training
from plumbline.harness.settings import Settings
from plumbline.models import NotTrained, Task, Unfit, Variant, finished, pictures, weighted
from plumbline.models.training.checkpoint import BadCheckpoint
from plumbline.models.training.training import CHECKPOINT
from plumbline.models.weights.weights import WEIGHTS, folder, load_weights
from plumbline.texts import duration

if TYPE_CHECKING:
    from torch import Tensor, nn

Progress = Callable[[str], None]


@dataclass
class Context:
    """`models.compression.variants.Context` in a session: with its data, its cache, and the time that it gives training."""

    model: models.Model
    image_size: int
    settings: Settings
    progress: Progress
    trainings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.settings.seed

    def example(self) -> Tensor:
        return pictures(1, self.model.dataset(self.image_size).channels, self.image_size, self.seed)

    def labelled(self, count: int) -> tuple[Tensor, Tensor]:
        import torch

        images = self.model.dataset(self.image_size).load(
            self.settings.data, self.image_size, split="train", preparation=self.model.preparation
        )
        chosen = range(0, len(images), max(1, len(images) // count))[:count]
        return images.batch(chosen), torch.tensor([images.labels[index] for index in chosen])

    def teacher(self, name: str) -> nn.Module:
        model = self._teaching(name)
        return weighted(model, self.image_size, self.parent_weights(model))

    def _teaching(self, name: str) -> models.Model:
        if not name:
            raise NotTrained("distill: expected a teacher, as in distill+teacher=resnet20")
        model = models.find(name)
        taught, own = (each.dataset(self.image_size).name for each in (model, self.model))
        if taught != own:
            raise Unfit(f"expected a teacher for {own}, whose classes {self.model.name} has, got {name}, for {taught}")
        if model.preparation != self.model.preparation:
            raise Unfit(f"expected a teacher of pictures prepared as {self.model.preparation}, got {name}: {model.preparation}")
        return model

    def trained(self, variant: Variant, net: nn.Module) -> nn.Module:
        task = self.task(variant)
        place = folder(task, self.settings.cache)
        if not (place / WEIGHTS).exists():
            command = f"plumbline train {self.model.name} --image-size {self.image_size} --variant {variant.name}"
            if task.recipe.minutes > self.settings.train_minutes:
                raise NotTrained(
                    f"{variant.name} is not trained yet: {command} ({duration(60 * task.recipe.minutes)} on 2 cores)"
                )
            train(task, place, self.settings, self.progress)
        record = finished(place) or {}
        about = {key: record.get(key) for key in ("seconds", "sessions", "top1", "machine")}
        self.trainings.append({"variant": variant.name, "epochs": len(record.get("curves", ())), **about})
        net = deepcopy(net).train()
        load_weights(net, place / WEIGHTS)
        return net.eval()

    def task(self, variant: Variant) -> Task:
        """Return what is trained for a chain that ends in a technique which trains."""
        start = self.parent_weights(self.model) if variant.starts_trained else None
        recipe = variant.recipe(self.model, self.image_size)
        return Task(self.model, self.image_size, recipe, variant.name, start, beside=self._beside(variant))

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

    def parent_weights(self, model: models.Model) -> Path:
        """Return the file of a model's own trained weights, which are trained first where that takes no long time."""
        weights = self.settings.locate(model, self.image_size)
        if weights.path is None:
            raise NotTrained(f"expected trained weights of {model.name}, got none: {weights.reason}")
        if weights.task is not None and not weights.path.exists():
            train(weights.task, weights.path.parent, self.settings, self.progress)
        return weights.path


def train(task: Task, place: Path, settings: Settings, progress: Progress) -> Path:
    """Train, or go on with it. Of what cannot be gone on with (other code, another machine) nothing remains."""
    watch = training.every_second(progress)
    context = Context(task.model, task.image_size, settings, progress)
    try:
        training.run(task, place, settings.data, watch, context)
    except BadCheckpoint as reason:
        progress(f"training begins anew: {reason}")
        (place / CHECKPOINT).unlink()
        training.run(task, place, settings.data, watch, context)
    return place / WEIGHTS
