"""The torch modules that no library has. Importing this imports torch, so that builders do it when they are called."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Sum of a branch and its shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


class PatchEncoder(nn.Module):
    """Square patches, projected, each with its learned position added.

    (batch, channels, height, width) to (batch, `tokens`, `width`); pixels that fill no patch are left out.
    """

    def __init__(self, channels: int, patch: int, tokens: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        nn.init.uniform_(self.positions, -0.05, 0.05)  # as Keras' Embedding

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x).flatten(2).transpose(1, 2) + self.positions


class Attention(nn.Module):
    """Multi-head attention of a sequence with itself, whose heads are as wide as one likes (`key`), as Keras has it.

    (batch, tokens, width) to the same. `torch.nn.MultiheadAttention` always cuts `width` into heads.
    """

    def __init__(self, width: int, heads: int, key: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * key)
        self.key = nn.Linear(width, heads * key)
        self.value = nn.Linear(width, heads * key)
        self.out = nn.Linear(heads * key, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), and then x + MLP(norm(x)), with GELU behind both layers of the MLP."""

    def __init__(self, width: int, heads: int, key: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, key)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp1 = nn.Linear(width, mlp)
        self.gelu1 = nn.GELU()
        self.mlp2 = nn.Linear(mlp, width)
        self.gelu2 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.gelu2(self.mlp2(self.gelu1(self.mlp1(self.norm2(x)))))
