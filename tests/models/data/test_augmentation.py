"""Augmentation: what it does to pictures, and what it cannot be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from plumbline.models.data import augmentation
from plumbline.models.training.recipes import Recipe


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 9), st.integers(0, 99))
def test_a_crop_moves_each_picture_as_a_whole(count: int, pad: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.arange(1, count * size * size + 1, dtype=torch.float32).reshape(count, 1, size, size)
    came, labels = augmentation.find(f"crop={pad}", 10)(images, torch.arange(count))
    assert labels.tolist() == list(range(count))
    for image, moved in zip(images, came, strict=True):
        wide = functional.pad(image, (pad, pad, pad, pad))
        places = [(y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(wide[:, y : y + size, x : x + size], moved) for y, x in places)


def test_a_flip_mirrors_about_half() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 3, 4, 4)
    came, _ = augmentation.find("flip", 10)(images, torch.zeros(400))
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(images, came, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, came, strict=True)]
    assert all(one or other for one, other in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("warp=3", "augmentation: expected some of crop, flip, mixup, cutmix, got 'warp'"),
        ("crop=x", "augmentation 'crop': expected a whole number of pixels from 1, got 'x'"),
        ("crop=1.5", "augmentation 'crop': expected a whole number of pixels from 1, got '1.5'"),
        ("crop=-1", "got '-1'"),
        ("cutmix=0", "augmentation 'cutmix': expected a number above 0, got '0'"),
        ("mixup=nan", "got 'nan'"),
        ("flip=3", "augmentation 'flip': expected no value, got '3'"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused_with_its_recipe(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(augmentation=(text,))
