"""How a model is trained: plain data. Importing this imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import PlumblineError
from plumbline.models.data import augmentation
from plumbline.texts import duration

if TYPE_CHECKING:
    from plumbline.models.model import Model

USUAL = "usual"
OPTIMISERS = ("adamw", "adam", "sgd")
SCHEDULES = ("one-cycle", "constant")


class Diverged(PlumblineError, ArithmeticError):
    """A loss that is no number; the message names the step and the last good checkpoint."""


@dataclass(frozen=True)
class Recipe:
    """One way to train a model on a data set. A model may have several, by name.

    `learning_rate` is the highest. The `one-cycle` schedule (Smith & Topin 2018, "Super-Convergence", section 3) rises to it
    linearly in the share `warmup` of all steps, then falls as a cosine to 0. `weight_decay` is decoupled by AdamW, an L2 term
    in the gradient by Adam and SGD, and leaves biases, norms and positions alone; `momentum` is Nesterov's, of `sgd`.
    `augmentation` names what models/data/augmentation.py does to a batch, in order; of pictures that are files, a part by chance
    is shown, of at least the share `least_area` (Szegedy et al. 2014, "Going deeper with convolutions", section 6). `clip`
    limits the norm of the gradients. `mixed`: multiply in bfloat16 where the device has it; weights and sums stay in fp32.
    `minutes` is what it takes, about, on two cores.
    """

    name: str = USUAL
    epochs: int = 20
    batch: int = 64
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    schedule: str = "one-cycle"
    warmup: float = 0.3
    augmentation: tuple[str, ...] = ()
    least_area: float = 0.25
    label_smoothing: float = 0.0
    clip: float | None = None
    mixed: bool = True
    seed: int = 0
    minutes: float = 0.2
    source: str = "this project's"

    def __post_init__(self) -> None:
        wrong = [
            (self.optimiser not in OPTIMISERS, f"optimiser: expected {', '.join(OPTIMISERS)}, got {self.optimiser!r}"),
            (self.schedule not in SCHEDULES, f"schedule: expected {', '.join(SCHEDULES)}, got {self.schedule!r}"),
            (self.epochs < 1, f"epochs: expected 1 or more, got {self.epochs}"),
            (self.batch < 1, f"batch: expected 1 or more, got {self.batch}"),
            (not 0 <= self.warmup < 1, f"warmup: expected a share from 0 to less than 1, got {self.warmup}"),
            (not self.learning_rate > 0, f"learning rate: expected more than 0, got {self.learning_rate}"),
        ]
        for is_wrong, text in wrong:
            if is_wrong:
                raise ValueError(f"recipe {self.name!r}, {text}")
        for text in self.augmentation:
            augmentation.parse(text)

    def __str__(self) -> str:
        """In words."""
        changes = f", {', '.join(self.augmentation)}" if self.augmentation else ""
        steps = f"{self.optimiser} at {self.learning_rate:g}, {self.schedule}{changes}"
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        return f"{epochs} of batches of {self.batch}, {steps}; {duration(60 * self.minutes)} on 2 cores ({self.source})"

    def of_epochs(self, epochs: int) -> Recipe:
        """Return the same for more epochs, or fewer."""
        return replace(self, epochs=epochs, minutes=float(f"{self.minutes * epochs / self.epochs:.2g}"))

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of so many; it needs no memory: training can go on anywhere."""
        if self.schedule == "constant":
            return self.learning_rate
        rising = self.warmup * steps
        if step + 1 < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (1 + math.cos(math.pi * (step + 1 - rising) / (steps - rising + 1))) / 2

    @property
    def digest(self) -> str:
        """Of all that the weights depend on."""
        said = {key: value for key, value in asdict(self).items() if key not in ("name", "minutes", "source")}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Task:
    """What is trained: a model at an image size in pixels, by a recipe, as a variant.

    It begins with the model's own initial weights or those of a safetensors file (`start`; with `new_head` all but those of the
    last layer). `device` is `cpu` or `cuda` (None: to be chosen). `bfloat16` says whether the device multiplies that in hardware:
    emulated, it would be slower than fp32. `beside` names what else the weights depend on: a teacher, earlier trainings.
    """

    model: Model
    image_size: int
    recipe: Recipe
    variant: str = "dense"
    start: Path | None = None
    new_head: bool = False
    device: str | None = None
    bfloat16: bool = False
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Readable, and a digest of everything that the weights depend on but for code and machine; a folder's name."""
        formula = self.model.formula(self.image_size)
        start = None if self.start is None else hashlib.sha256(self.start.read_bytes()).hexdigest()
        layers = None if formula is None else [asdict(layer) for layer in formula]
        data = self.model.dataset(self.image_size).name
        parts: list[Any] = [
            self.recipe.digest,
            self.variant,
            start,
            *(["new head"] if self.new_head else []),
            layers,
            data,
            asdict(self.model.preparation),
            *self.beside,
        ]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]
        variant = "" if self.variant == "dense" else f"-{self.variant}"
        own = self.model.name_without("data", "recipe")
        return f"{data}_{own}-{self.image_size}px{variant}-{self.recipe.name}-{digest}"
