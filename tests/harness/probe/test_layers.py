"""Where the time goes: parts whose sum is the whole, and layers that are the model's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plumbline.harness.cell import Cell
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import RunConfig
from plumbline.harness.runtimes.eager import Eager
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.timing import Spans
from tests.records import replace


class Slow(nn.Module):
    """Five seconds in a child, ten of its own, on a clock of the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.child = 0.0, Slower(self)

    def clock(self) -> float:
        return self.now

    def forward(self, images: Tensor) -> Tensor:
        self.now += 10
        found: Tensor = self.child(images)
        return found


class Slower(nn.Module):
    def __init__(self, parent: Slow) -> None:
        super().__init__()
        self._parent = [parent]  # in a list it is no child of this one

    def forward(self, images: Tensor) -> Tensor:
        self._parent[0].now += 5
        return images


def test_hooks_give_each_module_what_its_children_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr("plumbline.harness.timing.Spans", lambda: Spans(slow.clock))
    runtime = Eager(nn.Sequential(slow, nn.Identity()), RunConfig(PRECISIONS["fp32"], "cpu", 1, 1, Eager.usual()))
    parts = {part.name: part.seconds for part in runtime.profile((torch.zeros(1, 1, 2, 2),), 3)}
    assert list(parts.items()) == [("0.child", 5), ("0", 10), ("1", 0), ("(itself)", 0)]  # in the order in which they ended
    assert runtime.profile((torch.zeros(1, 1, 2, 2),), 1)[0].name == "0.child"  # no hook was left behind


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_the_layers_of_a_cell_are_the_models(server: Connection, settings: Settings, runtime: str) -> None:
    cell = Cell("resnet20", "dense", runtime, "fp32", 2, 32, "cpu")
    probe = CellProbe(server, cell, replace(settings, layers=True))
    counts, told = probe.counts(), probe.layers()
    probe.close()
    assert told is not None
    assert told.unavailable is None
    assert told.sum_s == pytest.approx(sum(part.seconds for part in told.parts))
    assert sum(part.macs or 0 for part in told.parts) == counts.macs
    named = [part.layer for part in told.parts if part.macs]
    assert len(named) == len(set(named)) == 20  # 19 convolutions and a linear layer
    assert told.whole_s is not None and told.sum_s is not None
    assert (told.missed is None) == (abs(told.sum_s - told.whole_s) <= 0.1 * told.whole_s)


def test_layers_are_asked_for(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, Cell("small_cnn", "dense", "eager", "fp32", 1, 8, "cpu"), settings)
    assert probe.layers() is None
    probe.close()
