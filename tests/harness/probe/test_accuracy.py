"""Which pictures are classified, and how their ranks are taken."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline.harness.probe.accuracy import classify, subset
from plumbline.harness.settings import Settings
from plumbline.models.data.datasets import DATASETS, Images


@given(st.integers(1, 400), st.integers(0, 10))
def test_a_subset_is_seeded_and_without_repeats(count: int, seed: int) -> None:
    images = Images(DATASETS["digits"], "digits", [], [0] * 300, 8)
    settings = Settings(accuracy_images=count, seed=seed)
    chosen = subset(images, settings)
    assert chosen == subset(images, settings) == sorted(set(chosen))
    assert len(chosen) == min(count, 300)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_ranks_do_not_depend_on_the_batch(batch: int) -> None:
    """Known truth: the score of class c is c, so the rank of label c is 9 - c; a last batch is filled up and cut again."""
    images = DATASETS["digits"].load(None, 8)
    shown: list[int] = []

    def run(inputs: torch.Tensor) -> torch.Tensor:
        shown.append(len(inputs))
        return torch.arange(10.0).repeat(len(inputs), 1)

    ranks = classify(run, images, Settings(accuracy_images=100), batch, progress=lambda text: None)
    assert set(shown) == {batch}
    assert ranks == [9 - images.labels[index] for index in subset(images, Settings(accuracy_images=100))]


def test_ties_and_nan_count_against_the_model() -> None:
    images = DATASETS["digits"].load(None, 8)
    for value in (0.0, float("nan")):
        ranks = classify(partial(_constant, value), images, Settings(accuracy_images=20), 5, print)
        assert set(ranks) == {9}


def _constant(value: float, inputs: torch.Tensor) -> torch.Tensor:
    return torch.full((len(inputs), 10), value)
