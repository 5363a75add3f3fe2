"""Where the time goes: parts whose sum is the whole, and layers that are the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.harness import journal
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Layers, Part
from plumbline.harness.journal import RunError
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.record import Record
from plumbline.harness.runtimes import RunConfig
from plumbline.harness.runtimes.eager import Eager
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.timing import Spans
from plumbline.harness.views import layers
from tests.conftest import Run
from tests.records import cell_of, record_of, replace


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


def test_a_run_shows_them(bench: Any, tmp_path: Path) -> None:
    run: Run = bench("--tier", "smoke", "--layers", "--model", "small_cnn", "--batch", "1", "--precision", "fp32")
    assert run.code == 0, run.output
    records = journal.read(run.folder)
    eager = layers.select(records, "eager")
    text = layers.table(eager)
    assert "small_cnn-dense-eager-fp32-b1-8px-cpu" in text
    assert "Conv2d" in text
    assert "sum " in text
    with pytest.raises(RunError, match=r"expected one cell, got 2; known:\n  small_cnn-dense-eager"):
        layers.select(records, None)
    with pytest.raises(RunError, match="expected one cell with 'nothing' in its id, got 0; known"):
        layers.select(records, "nothing")
    changed = layers.difference(layers.select(records, "onnxruntime"), eager)
    assert changed.startswith("small_cnn-dense-onnxruntime-fp32-b1-8px-cpu\nagainst small_cnn-dense-eager-fp32-b1-8px-cpu")
    with pytest.raises(RunError, match="measure with pytest benchmarks --layers"):
        layers.select([replace(record, layers=None) for record in records], None)


def record(name: str, parts: dict[str, float], missed: str | None = None) -> Record:
    told = [Part(f"node_{key}", "Conv", seconds, "float32", key, 10**6) for key, seconds in parts.items()]
    told.append(Part("add", "Add", 1e-3))
    return record_of(cell_of(batch=2), id=name, layers=Layers(None, told, 20, sum(parts.values()) + 1e-3, 10e-3, missed))


def test_the_difference_of_two_cells_is_that_of_their_layers() -> None:
    ours, theirs = record("ours", {"a": 2e-3, "b": 3e-3}), record("theirs", {"a": 4e-3, "b": 3e-3, "gone": 1e-3})
    rows = {line.split("  ")[0]: line.split() for line in layers.difference(ours, theirs).splitlines()}
    assert rows["a"] == ["a", "2.000", "4.000", "-2.000", "2.00x"]
    assert rows["everything else"][2:] == ["1.000", "2.000", "-1.000", "2.00x"]
    assert rows["sum"] == ["sum", "6.000", "9.000", "-3.000", "1.50x"]
    assert "1e+03" not in layers.table(ours)
    row = next(line.split() for line in layers.table(ours).splitlines() if line.startswith("a "))
    assert row == ["a", "Conv", "float32", "2.000", "33.3%", "1", "1"]  # a million MACs, twice in two milliseconds
    assert layers.summary(layers._layers(record("x", {"a": 8e-3}, missed="it"))).endswith("90.0% (20 inferences): it")
