"""How nets come to their weights: the pictures for it, and what is told of a training that a cell waits for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline.harness.probe.training import context_of
from plumbline.harness.settings import Settings
from plumbline.models import context, find
from plumbline.models.training.training import Progress


def test_a_few_pictures_stand_for_a_training_split_that_is_not_there(tmp_path: Path) -> None:
    """Calibration wants pictures of the kind, and takes those of the test split where there are no others."""
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "a.png").touch()
    (tmp_path / "imagenet" / "labels.csv").write_text("file,class_index\na.png,3\n")
    images = context_of(find("squeezenet1_1"), 224, Settings(data=tmp_path), print).images("file", split="train")
    assert images is not None
    assert len(images) == 1
    nowhere = context_of(find("squeezenet1_1"), 224, Settings(data=tmp_path / "none"), print)
    assert nowhere.images("file", split="train") is None


def test_progress_is_told_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = [100.0]
    monkeypatch.setattr(context, "time", SimpleNamespace(monotonic=lambda: now[0]))
    watch = context.every_second(lines.append)
    for step in range(50):
        watch(Progress(1, 2, step + 1, 100, 0.5, None, 9.0))
        now[0] += 0.015
    assert lines == ["training, epoch 1 of 2, loss 0.500, 9.0 s left"]
    now[0] = 101.0
    watch(Progress(2, 2, 51, 100, 0.25, None, 8.0))
    assert lines[1:] == ["training, epoch 2 of 2, loss 0.250, 8.0 s left"]
