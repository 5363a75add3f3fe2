"""Changes of a training batch by chance, batched on its device, by name: `crop=4`, `flip`, `cutmix=1.0`.

Chance comes from torch's own generator, which the training loop seeds for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from models.model import UnknownName

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]


def find(text: str, classes: int) -> Change:
    """The function of `name` or `name=value`: from images, shape (n, channels, height, width), and labels, (n,) or (n, classes),
    to both, changed. Raises `UnknownName`."""
    name, _, value = text.partition("=")
    if name not in AUGMENTATIONS:
        raise UnknownName(f"no augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name](value, classes)


def crop(images: Tensor, labels: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Shift each image by up to `pad` pixels each way; what comes in is 0, the mean (He et al. 2015, section 4.2)."""
    import torch
    from torch.nn import functional

    count, _, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad))
    shift = torch.randint(0, 2 * pad + 1, (2, count), device=images.device)
    rows = shift[0, :, None] + torch.arange(height, device=images.device)
    columns = shift[1, :, None] + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    # indexed with the channels last, as then whole pixels are moved
    moved = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2), labels


def flip(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror each image, left to right, with probability 1/2."""
    import torch

    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images), labels


def _crop(value: str, classes: int) -> Change:
    return partial(crop, pad=int(value or 4))


def _flip(value: str, classes: int) -> Change:
    return flip


def _mixup(value: str, classes: int) -> Change:
    from torchvision.transforms import v2

    return v2.MixUp(alpha=float(value or 0.2), num_classes=classes)


def _cutmix(value: str, classes: int) -> Change:
    from torchvision.transforms import v2

    return v2.CutMix(alpha=float(value or 1.0), num_classes=classes)


AUGMENTATIONS: dict[str, Callable[[str, int], Change]] = {"crop": _crop, "flip": _flip, "mixup": _mixup, "cutmix": _cutmix}
