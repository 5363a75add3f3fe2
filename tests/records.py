"""Records and facts as tests want them, and `replace` for whatever is frozen."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import msgspec

from plumbline.harness.cell import Cell
from plumbline.harness.facts import Accuracy, Counts, Latency, Percentile, Prepared, Promise, Timing, WeightsUsed
from plumbline.harness.machine import Machine
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.settings import Settings

Frozen = TypeVar("Frozen")


def replace(frozen: Frozen, **changes: Any) -> Frozen:
    """Copy with changes."""
    if isinstance(frozen, msgspec.Struct):
        return msgspec.structs.replace(frozen, **changes)
    return dataclasses.replace(frozen, **changes)  # type: ignore[type-var]


def cell_of(model: str = "mlp", **axes: Any) -> Cell:
    """Make a cell, dense, eager, fp32, of one picture of 8 pixels here."""
    return replace(Cell(model, "dense", "eager", "fp32", 1, 8, "cpu"), **axes)


def record_of(cell: Cell | None = None, **fields: Any) -> Record:
    """Make a record of which nothing is known but what is given."""
    cell = cell or cell_of()
    usual = {
        "id": cell.id,
        "revision": "5ca1ab1e",
        "session": "one",
        "outcome": "ok",
        "machine": Machine(id="m", cpu_model="a processor", cores_allowed=2),
        "started_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "settings": Settings(),
    }
    return Record(cell=cell, **{**usual, **fields})


def timing_of(median_s: float = 1e-3, samples: int = 0, warmup_s: float = 0.0) -> Timing:
    """Make what is known of durations that were all alike."""
    percentiles = {name: Percentile(median_s, None, "too few samples") for name in ("p50", "p90", "p99")}
    return Timing([median_s] * samples, 0, warmup_s, True, median_s, None, percentiles, 1 / median_s)


def latency_of(median_s: float = 1e-3, samples: int = 0, warmup_s: float = 0.0) -> Latency:
    """Make both latencies alike."""
    timing = timing_of(median_s, samples, warmup_s)
    return Latency(median_s, timing, timing, False, "", {"cpu_pressure": read("1", "machine", 0.1)})


def prepared_of(promise: Promise | None = None, training: dict[str, Any] | None = None, **fields: Any) -> Prepared:
    """Make what is known of a net that stands in its process."""
    source = fields.pop("source", "here")
    weights = WeightsUsed("trained" if training else "seeded", source, "0", training)
    usual = {"parameters": 1, "threads": 2, "seconds": 0.0, "emulated": False, "options": {}}
    return Prepared(weights, promise=promise, **{**usual, **fields})


def accuracy_of(top1: float | None, **fields: Any) -> Accuracy:
    """Make an accuracy of a hundred images, or the lack of one."""
    if top1 is None:
        return Accuracy(unavailable=fields.get("unavailable", "no weights"))
    return Accuracy(**{"images": 100, "of": 100, "top1": top1, "top5": 0.99, "interval": (top1, top1), **fields})


def counts_of(parameters: int = 100, macs: int = 1000) -> Counts:
    """Make counts on which all routes agree."""
    route = {"parameters": parameters, "macs": macs}
    return Counts(parameters, macs, route, route, route, {}, {}, {}, [])
