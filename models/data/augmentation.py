"""Changes of a training batch by chance, batched on its device, by name: `crop=4`, `flip`, `cutmix=1.0`.

Chance comes from torch's own generator, which the training loop seeds for each step. Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]
USUAL = {"crop": 4.0, "flip": None, "mixup": 0.2, "cutmix": 1.0}  # their values; a flip has none


def parse(text: str) -> tuple[str, float | None]:
    """Return the parts of `name` or `name=value`. Raises ValueError for what does not exist, and for a value that cannot be."""
    name, _, value = text.partition("=")
    if name not in USUAL:
        raise ValueError(f"augmentation: expected some of {', '.join(USUAL)}, got {name!r}")
    if not value:
        return name, USUAL[name]
    expected = {"crop": "a whole number of pixels from 1", "flip": "no value"}.get(name, "a number above 0")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if name == "flip" or not 0 < number < float("inf") or (name == "crop" and not number.is_integer()):
        raise ValueError(f"augmentation {name!r}: expected {expected}, got {value!r}")
    return name, number


def find(text: str, classes: int) -> Change:
    """Return the function of `name` or `name=value`.

    It takes images, shape (n, channels, height, width), and labels, (n,) or (n, classes), and returns both, changed. Raises
    ValueError.
    """
    name, value = parse(text)
    if name == "flip":
        return flip
    assert value is not None
    if name == "crop":
        return partial(crop, pad=int(value))
    from torchvision.transforms import v2

    return {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](alpha=value, num_classes=classes)


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
