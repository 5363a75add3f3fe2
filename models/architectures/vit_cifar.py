"""Vision transformer for CIFAR-10: the study's, which follows Keras' example "Image classification with Vision Transformer".

Patches of 6 pixels leave 2 of CIFAR's 32 unused. There is no class token: all tokens, flattened, go into a head of three
layers, and half of the parameters are in its first one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from plumbline.models.layers import Layer, attention, conv2d, linear, norm
from plumbline.models.model import Floor, Model
from plumbline.models.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn


def layers(
    image_size: int,
    channels: int,
    classes: int,
    patch: int,
    blocks: int,
    width: int,
    heads: int,
    key: int,
    mlp: int,
    head: tuple[int, ...] = (2048, 1024),
) -> Iterator[Layer]:
    """Return the formula: `heads` of `key` elements each, `mlp` a block's inner width, `head` the hidden widths of the head."""
    grid = image_size // patch
    if grid < 1:
        raise ValueError(f"a patch of {patch} pixels does not fit into an image of {image_size}")
    tokens = grid * grid
    yield conv2d("patch_encoder.projection", channels, width, patch, grid, bias=True)
    yield Layer("patch_encoder.positions", tokens * width)
    for block in range(blocks):
        path = f"blocks.{block}"
        yield norm(f"{path}.norm1", width)
        for projection in ("query", "key", "value"):
            yield linear(f"{path}.attention.{projection}", width, heads * key, rows=tokens)
        yield attention(f"{path}.attention", tokens, heads, key, width)
        yield linear(f"{path}.attention.out", heads * key, width, rows=tokens)
        yield norm(f"{path}.norm2", width)
        yield linear(f"{path}.mlp1", width, mlp, rows=tokens)
        yield linear(f"{path}.mlp2", mlp, width, rows=tokens)
    yield norm("norm", width)
    widths = (tokens * width, *head, classes)
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:]), start=1):
        yield linear(f"head{number}", inputs, outputs)


def build(
    image_size: int,
    channels: int,
    classes: int,
    patch: int,
    blocks: int,
    width: int,
    heads: int,
    key: int,
    mlp: int,
    head: tuple[int, ...] = (2048, 1024),
) -> nn.Module:
    """Build the net, without the dropout that only training would see."""
    from torch import nn

    from plumbline.models.architectures.blocks import PatchEncoder, TransformerBlock

    tokens = (image_size // patch) ** 2
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        patch_encoder=PatchEncoder(channels, patch, tokens, width),
        blocks=nn.Sequential(*(TransformerBlock(width, heads, key, mlp) for _ in range(blocks))),
        norm=nn.LayerNorm(width, eps=1e-6),
        flatten=nn.Flatten(),
    )
    widths = (tokens * width, *head, classes)
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:]), start=1):
        modules[f"head{number}"] = nn.Linear(inputs, outputs)
        if number <= len(head):
            modules[f"gelu{number}"] = nn.GELU()
    return nn.Sequential(modules)


# In fp32: its matrices are so small that bfloat16's conversions cost more than they save.
RECIPE = Recipe(
    epochs=30,
    batch=128,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup=0.2,
    augmentation=("crop=4", "flip"),
    minutes=20,
)
KERAS = Recipe(
    "keras",
    epochs=100,
    batch=256,
    learning_rate=1e-3,
    weight_decay=1e-4,
    schedule="constant",
    augmentation=("flip",),
    mixed=False,
    minutes=115,
    source="Keras' example 'Image classification with Vision Transformer', which the study follows; no rotations, no zooms",
)

MODELS = [
    Model(
        "vit_cifar",
        build,
        layers,
        data=("cifar10", "cifar100"),
        sizes=range(6, 225),
        recipes={"cifar10": [RECIPE, KERAS], "cifar100": [RECIPE]},
        floors={
            "cifar10": Floor(
                top1=0.785, top5=0.98, images=10_000, source="this project's recipe, 79.55 % here; the study reports 64.97 %"
            )
        },
        options={"patch": 6, "blocks": 8, "width": 64, "heads": 4, "key": 64, "mlp": 128},
        source="the CIFAR-10 study's ViT, slides, table of layers; Keras example 'Image classification with Vision Transformer'",
    )
]
