"""How many images a model classifies rightly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plumbline import NotHere
from plumbline.harness.facts import Accuracy
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import paired_difference_at_least, wilson_interval
from plumbline.tensors import ranks

if TYPE_CHECKING:
    from torch import Tensor

    from plumbline.models import Model
    from plumbline.models.data.datasets import Images
    from plumbline.models.model import Floor


def images(model: Model, image_size: int, settings: Settings, weights: dict[str, Any]) -> Images | str:
    """Return the images to classify, or the reason why there is nothing to learn from them."""
    if settings.accuracy_images == 0:
        return "this tier measures no accuracy"
    data = model.dataset(image_size)
    if model.outputs is not None:
        return f"{model.name} does not name one class for a picture"
    if weights["kind"] == "seeded":
        return weights["source"]
    try:
        return data.load(settings.data, image_size, preparation=model.preparation)
    except NotHere as reason:
        return str(reason)


def subset(images: Images, settings: Settings) -> list[int]:
    """Return the same images for every cell of a session, in ascending order."""
    if settings.accuracy_images is None or settings.accuracy_images >= len(images):
        return list(range(len(images)))
    return sorted(random.Random(settings.seed).sample(range(len(images)), settings.accuracy_images))


def classify(
    run: Callable[[Tensor], Tensor], images: Images, settings: Settings, batch: int, progress: Callable[[str], None]
) -> list[int]:
    """For each image of the subset the rank of its true class among the outputs; 0 is top-1.

    `run` takes float32 images on the host, always `batch` of them, and returns logits on the host. An output that is
    not a number ranks last.
    """
    import torch

    chosen, found, shown = subset(images, settings), list[int](), time.monotonic()
    for start in range(0, len(chosen), batch):
        part = chosen[start : start + batch]
        filled = [part[index % len(part)] for index in range(batch)]  # a fixed batch is filled up with repeats
        logits = run(images.batch(filled))[: len(part)].float()
        labels = torch.tensor([images.labels[index] for index in part])
        found += ranks(logits, labels).tolist()
        if time.monotonic() - shown > 1:
            progress(f"accuracy, {start + len(part)} of {len(chosen)} images")
            shown = time.monotonic()
    return found


def judge(
    ranks: list[int], images: Images, settings: Settings, floor: Floor | None, parent: list[bool] | None, budget: float | None
) -> Accuracy:
    """Top-1 and top-5 with their doubt, beside the floor and the parent on the same images."""
    count = len(ranks)
    correct = [rank == 0 for rank in ranks]
    loss = parent_top1 = at_least = None
    if parent is not None:
        lost = sum(parent_right and not right for parent_right, right in zip(parent, correct, strict=True))
        gained = sum(right and not parent_right for parent_right, right in zip(parent, correct, strict=True))
        loss, parent_top1 = (lost - gained) / count, sum(parent) / count
        at_least = paired_difference_at_least(lost, gained, count)
    return Accuracy(
        data=images.name,
        images=count,
        of=len(images),
        seed=settings.seed,
        top1=sum(correct) / count,
        top5=sum(rank < 5 for rank in ranks) / count,
        interval=wilson_interval(sum(correct), count),
        top5_interval=wilson_interval(sum(rank < 5 for rank in ranks), count),
        floor=floor.top1 if floor else None,
        floor_top5=floor.top5 if floor else None,
        floor_images=floor.images if floor else None,
        floor_source=floor.source if floor else None,
        parent_top1=parent_top1,
        loss=loss,
        loss_at_least=at_least,
        budget=budget,
    )
