"""What is told of a training that a cell waits for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from plumbline.harness.probe import training
from plumbline.models.training.training import Progress


def test_progress_is_told_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = [100.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    watch = training.every_second(lines.append)
    for step in range(50):
        watch(Progress(1, 2, step + 1, 100, 0.5, None, 9.0))
        now[0] += 0.015
    assert lines == ["training, epoch 1 of 2, loss 0.500, 9.0 s left"]
    now[0] = 101.0
    watch(Progress(2, 2, 51, 100, 0.25, None, 8.0))
    assert lines[1:] == ["training, epoch 2 of 2, loss 0.250, 8.0 s left"]
