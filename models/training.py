"""Training on the embedded data: seconds on two cores, seeded, kept in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.model import Model


@dataclass(frozen=True)
class Recipe:
    """AdamW with a one-cycle schedule (Smith & Topin 2018) and cross-entropy."""

    epochs: int = 20
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


def train(model: Model, image_size: int, path: Path, recipe: Recipe = Recipe(), progress: Callable[[str], None] = print) -> None:
    """Train on the data set's training split and write a safetensors file, in one piece, at `path`."""
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional

    torch.manual_seed(recipe.seed)
    images = model.dataset(image_size).load(None, image_size, split="train")
    inputs, labels = images.batch(range(len(images))), torch.tensor(images.labels)
    net = model.instantiate(image_size).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = -(-len(images) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        progress(f"training {model.name} on {images.name}, epoch {epoch + 1} of {recipe.epochs}")
        for chosen in torch.split(torch.randperm(len(images)), recipe.batch):
            loss = functional.cross_entropy(net(inputs[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(net.state_dict(), part)
    os.replace(part, path)
