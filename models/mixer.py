"""MLP-Mixer (Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", table 1), timm's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.layers import Layer, conv2d, linear, norm

if TYPE_CHECKING:
    from torch import nn


def layers(image_size: int, channels: int, classes: int, patch: int, blocks: int, width: int) -> Iterator[Layer]:
    """`width` is the hidden size C; the token MLP is C / 2 wide and the channel MLP 4 C, as in table 1."""
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
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(
        num_classes=classes, img_size=image_size, in_chans=channels, patch_size=patch, num_blocks=blocks, embed_dim=width
    )
