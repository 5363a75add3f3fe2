"""`nn.MultiheadAttention` is counted exactly in every way in which people call it, by both counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.fastpath import without_attention_fast_path
from plumbline.harness import messages
from plumbline.harness.facts import Counts
from plumbline.models import Model
from plumbline.models.counting.counts import count

WIDTH, TOKENS = 16, 4  # an image of 8 pixels has 4 patches of 4
PATCHES = TOKENS * 16 * 48


def counted(make: Callable[[], nn.Module]) -> Counts:
    found = count(Model("net", lambda **_: make(), None, ("cifar10",), (8,), "tests"), 8)
    del found["layers"]
    return messages.convert(found, Counts)


class Tokens(nn.Module):
    """`call` gets the module, and tokens of shape (1, 4, 16)."""

    def __init__(self, inner: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.patches, self.inner, self.call = nn.Conv2d(3, WIDTH, 4, 4), inner, call

    def forward(self, images: Tensor) -> Tensor:
        return self.call(self.inner, self.patches(images).flatten(2).transpose(1, 2)).flatten(1)


def products(queries: int, keys: int, of_keys: int = WIDTH, of_values: int = WIDTH, added: int = 0) -> int:
    projections = 2 * queries * WIDTH * WIDTH + keys * (of_keys + of_values) * WIDTH
    return projections + 2 * queries * (keys + added) * WIDTH


def turned(tokens: Tensor) -> Tensor:
    return tokens.transpose(0, 1)


SELF = products(TOKENS, TOKENS)
CALLS: dict[str, tuple[dict[str, Any], Callable[[Any, Tensor], Any], int]] = {
    "control": ({"batch_first": True}, lambda m, x: m(x, x, x)[0], SELF),
    "usual layout": ({}, lambda m, x: m(turned(x), turned(x), turned(x))[0], SELF),
    "by keyword": ({"batch_first": True}, lambda m, x: m(query=x, key=x, value=x)[0], SELF),
    "in another order": ({}, lambda m, x: m(value=turned(x), query=turned(x), key=turned(x), need_weights=False)[0], SELF),
    "five arguments": ({"batch_first": True}, lambda m, x: m(x, x, x, None, False)[0], SELF),
    "a mask": ({}, lambda m, x: m(turned(x), turned(x), turned(x), attn_mask=torch.zeros(4, 4, device=x.device))[0], SELF),
    "no sequences": ({}, lambda m, x: m(x[0], x[0], x[0])[0][None], SELF),
    "no biases": ({"bias": False, "batch_first": True}, lambda m, x: m(x, x, x)[0], SELF),
    "called twice": (
        {}, lambda m, x: m(x, x, x)[0] + m(turned(x), turned(x), turned(x))[0].mean(), TOKENS * products(1, 1) + SELF
    ),
    "cross": ({"batch_first": True}, lambda m, x: m(x[:, :1], x, x)[0], products(1, TOKENS)),
    "cross, by keyword": ({}, lambda m, x: m(turned(x)[:3], key=turned(x), value=turned(x))[0], products(3, TOKENS)),
    "other widths": (
        {"kdim": 8, "vdim": 12, "batch_first": True}, lambda m, x: m(x, x[..., :8], x[..., :12])[0],
        products(TOKENS, TOKENS, 8, 12),
    ),
    "a width that heads do not divide": ({"kdim": 16, "vdim": 6}, lambda m, x: m(turned(x), turned(x), turned(x)[..., :6])[0],
                                         products(TOKENS, TOKENS, 16, 6)),
    "added keys": (
        {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True}, lambda m, x: m(x, x, x)[0],
        products(TOKENS, TOKENS, added=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", CALLS)
def test_attention_is_counted_exactly_however_it_is_called(way: str) -> None:
    settings, call, expected = CALLS[way]
    counts = counted(lambda: Tokens(nn.MultiheadAttention(WIDTH, 4, **settings), call))
    assert counts.counters_agree, counts.explanation
    assert counts.macs == PATCHES + expected


MLP = 2 * TOKENS * WIDTH * 24


@pytest.mark.parametrize("settings", [{}, {"batch_first": True}, {"norm_first": True}, {"batch_first": True, "bias": False}])
@pytest.mark.parametrize("depth", [0, 2])
def test_torchs_transformer_layers_are_counted_exactly(settings: dict[str, Any], depth: int) -> None:
    """In eval mode they take a fused path that no counter sees, unless it is switched off for both."""

    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 24, **settings)
        inner = nn.TransformerEncoder(layer, depth) if depth else layer
        return Tokens(inner, lambda m, x: m(x) if settings.get("batch_first") else m(turned(x)))

    def decoder() -> nn.Module:
        layer = nn.TransformerDecoderLayer(WIDTH, 4, 24, **settings)
        inner = nn.TransformerDecoder(layer, depth) if depth else layer
        return Tokens(inner, lambda m, x: m(tgt=x, memory=x) if settings.get("batch_first") else m(turned(x), turned(x)))

    for make, each in ((encoder, SELF + MLP), (decoder, 2 * SELF + MLP)):
        counts = counted(make)
        assert counts.counters_agree, counts.explanation
        assert counts.macs == PATCHES + max(1, depth) * each


def test_other_modules_may_be_called_by_keyword_too() -> None:
    """ptflops reads arguments by their places."""
    counts = counted(lambda: Tokens(nn.Linear(WIDTH, 5), lambda m, x: m(input=x)))
    assert counts.counters_agree, counts.explanation
    assert counts.macs == PATCHES + TOKENS * WIDTH * 5


def test_attention_of_which_something_else_is_counted_is_named() -> None:
    """Red: a figure that is only nearly right has no reason."""

    class Another(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
            self.seen = nn.Conv2d(3, WIDTH, 4, 4)
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.seen(images).flatten(2).transpose(1, 2)
            self.calls += 1  # the second counter is shown other tokens than the first one
            return self.inner(tokens[:, : 3 + self.calls % 2], tokens, tokens)[0].flatten(1)

    assert list(counted(Another).unexplained) == ["inner"]


@pytest.mark.parametrize("before", [True, False])
def test_the_fast_path_is_put_back_as_it_was_even_after_an_error(before: bool) -> None:
    def fail() -> None:
        with without_attention_fast_path():
            assert not torch.backends.mha.get_fastpath_enabled()
            raise KeyError

    found = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(before)
    try:
        with pytest.raises(KeyError):
            fail()
        assert torch.backends.mha.get_fastpath_enabled() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(found)
