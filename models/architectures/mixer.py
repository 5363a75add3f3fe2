"""MLP-Mixer (Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", table 1), timm's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from plumbline.models.data.datasets import Preparation
from plumbline.models.layers import Layer, conv2d, linear, norm
from plumbline.models.model import Floor, Model
from plumbline.models.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn


def layers(image_size: int, channels: int, classes: int, patch: int, blocks: int, width: int) -> Iterator[Layer]:
    """Return the formula; `width` is the hidden size C, the token MLP is C / 2 and the channel MLP 4 C wide (table 1)."""
    grid = image_size // patch
    tokens = grid * grid
    yield conv2d("stem.proj", channels, width, patch, grid, bias=True)
    for block in range(blocks):
        path = f"blocks.{block}"
        yield norm(f"{path}.norm1", width)
        yield linear(f"{path}.mlp_tokens.fc1", tokens, width // 2, rows=width)
        yield linear(f"{path}.mlp_tokens.fc2", width // 2, tokens, rows=width)
        yield norm(f"{path}.norm2", width)
        yield linear(f"{path}.mlp_channels.fc1", width, 4 * width, rows=tokens)
        yield linear(f"{path}.mlp_channels.fc2", 4 * width, width, rows=tokens)
    yield norm("norm", width)
    yield linear("head", width, classes)


def build(image_size: int, channels: int, classes: int, patch: int, blocks: int, width: int) -> nn.Module:
    """Build timm's Mixer."""
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(
        num_classes=classes, img_size=image_size, in_chans=channels, patch_size=patch, num_blocks=blocks, embed_dim=width
    )


def _recipe(epochs: int, minutes: float, batch: int = 64) -> Recipe:
    """Return a recipe whose batches are small enough to train in 2 GB.

    At 32 pixels a token MLP of S/16 makes 131,072 activations of a picture, which are kept for the backward pass.
    """
    return Recipe(
        epochs=epochs,
        batch=batch,
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup=0.2,
        augmentation=("crop=4", "flip"),
        clip=1.0,
        minutes=minutes,
    )


def _sixteen(name: str, blocks: int, width: int, source: str, **more: Any) -> Model:
    """One with patches of 16 pixels."""
    shape = {"patch": 16, "blocks": blocks, "width": width}
    forms = (partial(build, **shape), partial(layers, **shape))
    return Model(name, *forms, data=("cifar10", "imagenet"), sizes=(32, 224), source=source, **more)


MODELS = [
    Model(
        "small_mixer",
        partial(build, patch=4),
        partial(layers, patch=4),
        data=("digits", "mnist", "fashion_mnist"),
        sizes=range(4, 225, 4),
        options={"blocks": 4, "width": 64},
        recipes={
            "digits": [Recipe(epochs=40, minutes=0.2)],
            "mnist": [Recipe(epochs=4, batch=128, learning_rate=3e-3, warmup=0.2, minutes=1.5)],
            "fashion_mnist": [Recipe(epochs=4, batch=128, learning_rate=3e-3, warmup=0.2, minutes=1.5)],
        },
        source="this project: patches of 4 pixels, for small pictures",
    ),
    _sixteen(
        "mixer_s16",
        8,
        512,
        "Tolstikhin et al. 2021, table 1; timm",
        recipes={"cifar10": [_recipe(18, 37)]},
        floors={
            "cifar10": Floor(top1=0.677, images=10_000, source="this project's recipe, 68.71 % here; the study reports 55.13 %")
        },
    ),
    _sixteen(
        "mixer_m16",
        10,
        640,
        "the Jetson Nano study's, table 10: S/16 scaled by 5:4; timm",
        recipes={"cifar10": [_recipe(14, 58, batch=48)]},
        floors={
            "cifar10": Floor(top1=0.623, images=10_000, source="this project's recipe, 63.34 % here; the study reports 57.83 %")
        },
    ),
    _sixteen(
        "mixer_b16",
        12,
        768,
        "Tolstikhin et al. 2021, table 1; timm",
        floors={"imagenet": Floor(top1=0.76602, top5=0.92224, images=50_000, source="timm, results-imagenet.csv")},
        preparation=Preparation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), bicubic=True),
        pretrained="timm:mixer_b16_224.goog_in21k_ft_in1k",
    ),
]
