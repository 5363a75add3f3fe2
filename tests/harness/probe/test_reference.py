"""What a cell is compared with, and the pictures for it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from plumbline import models
from plumbline.harness.probe.reference import real_images
from plumbline.harness.settings import Settings
from plumbline.models import find


def test_a_few_pictures_stand_for_a_training_split_that_is_not_there(tmp_path: Path) -> None:
    """Calibration wants pictures of the kind, and takes those of the test split where there are no others."""
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "a.png").touch()
    (tmp_path / "imagenet" / "labels.csv").write_text("file,class_index\na.png,3\n")
    images = real_images(find("squeezenet1_1"), 224, Settings(data=tmp_path), "file", split="train")
    assert images is not None
    assert len(images) == 1
    assert real_images(find("squeezenet1_1"), 224, Settings(data=tmp_path / "none"), "file", split="train") is None


def test_a_reference_is_computed_on_a_copy() -> None:
    model, images = models.find("tests.faulty:DECAYING"), torch.rand(2, 1, 8, 8)
    before = images.clone()
    net: nn.Module = model.instantiate(8).eval()
    first = model.run(net, images)
    assert torch.equal(model.run(net, images), first)
    assert torch.equal(images, before)
