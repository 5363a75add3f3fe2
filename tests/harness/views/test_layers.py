"""Where the time goes: parts whose sum is the whole, and layers that are the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plumbline.harness import journal
from plumbline.harness.facts import Layers, Part
from plumbline.harness.journal import RunError
from plumbline.harness.record import Record
from plumbline.harness.views import layers
from tests.conftest import Run
from tests.records import cell_of, record_of, replace


@pytest.mark.slow
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
