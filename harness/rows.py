"""A record as one flat row, in base units: what tables for machines, pictures and recommendations are made of.

Nothing is computed here but what a record says itself. What was not measured is None, and never 0.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs

from plumbline.harness.cell import AXES
from plumbline.harness.facts import Energy, Percentile
from plumbline.harness.machine import described
from plumbline.harness.meters import METERS
from plumbline.harness.outcomes import OK
from plumbline.harness.record import Record

DENSE = "dense"


class Quantity(Struct, frozen=True):
    """A number of a row as people read it: divided by `scale`, with `unit` behind it. `better` is `lower`, `higher` or empty."""

    title: str
    unit: str = ""
    scale: float = 1.0
    better: str = ""


# By the field of Row that holds it, in the order in which people look at them.
QUANTITIES: dict[str, Quantity] = {
    "latency_s": Quantity("latency (median)", "ms", 1e-3, "lower"),
    "p90_s": Quantity("p90, upper bound", "ms", 1e-3, "lower"),
    "p99_s": Quantity("p99, upper bound", "ms", 1e-3, "lower"),
    "first_s": Quantity("first inference", "ms", 1e-3, "lower"),
    "first_ratio": Quantity("first inference / median", "x", 1.0, "lower"),
    "end_to_end_s": Quantity("host to host (median)", "ms", 1e-3, "lower"),
    "image_s": Quantity("time per image", "ms", 1e-3, "lower"),
    "images_per_s": Quantity("throughput", "images/s", 1.0, "higher"),
    "top1": Quantity("top-1 accuracy", "%", 1e-2, "higher"),
    "top5": Quantity("top-5 accuracy", "%", 1e-2, "higher"),
    "accuracy_loss": Quantity("top-1 lost to the fp32 parent", "points", 1e-2, "lower"),
    "macs": Quantity("MACs of an image, dense net", "M", 1e6),
    "effective_macs": Quantity("effective MACs of an image", "M", 1e6),
    "parameters": Quantity("parameters, dense net", "M", 1e6),
    "effective_parameters": Quantity("parameters that are not zero", "M", 1e6),
    "inference_bytes": Quantity("memory of an inference", "MiB", 2**20, "lower"),
    "process_bytes": Quantity("peak of the process", "MiB", 2**20, "lower"),
    "process_own_bytes": Quantity("peak above an empty process", "MiB", 2**20, "lower"),
    "stored_bytes": Quantity("size of the weights", "MB", 1e6, "lower"),
    "joules": Quantity("energy of an inference", "mJ", 1e-3, "lower"),
    "watts": Quantity("power while running", "W"),
    "theoretical_speedup": Quantity("theoretical speed-up", "x", 1.0, "higher"),
    "speedup": Quantity("realised speed-up", "x", 1.0, "higher"),
    "error": Quantity("error, of its tolerance", "%", 1e-2, "lower"),
    "bound_s": Quantity("roofline bound", "ms", 1e-3),
}


class Row(Struct, frozen=True, kw_only=True):
    """A record, flattened. `key` names it in a report; fields with a unit in their name are in that unit, shares are of 1.

    `latency_s` is the median of one inference (a batch), `low` and `high` fields are the ends of 95 % intervals, `p90_s` and
    `p99_s` upper bounds at 99 %. `first_ratio` is the first inference as a multiple of the median. `macs` and `parameters` are
    those of the dense net, `effective_macs` and `effective_parameters` the variant's, without zeros and what was removed; MACs
    are of one image. `inference_bytes` is what an inference needs, or where `inference_is_bound` at most needs.
    `process_base_bytes` is what the process held before it built the model, `process_own_bytes` by how much its peak,
    `process_bytes`, is above that. `stored_bytes` are the weights on disk, of a net that is not compressed those in memory.
    `joules` is of one inference (a batch) beyond the power at rest, by `meter`, an estimate where `energy_is_estimate`. `parent`
    is the id of the same cell with the dense net, `verdict` whether a variant realises what it saves, in words. `disturbed` and
    `remarks` say why the latency is not that of the net alone on a quiet machine, `vague` that its median is known to no better
    than 10 %.
    """

    key: str
    id: str
    model: str
    variant: str
    runtime: str
    precision: str
    batch: int
    image_size: int
    target: str
    outcome: str
    reason: str | None
    machine: str
    machine_id: str
    session: str
    revision: str | None
    started_at: str
    seconds: float
    parent: str | None = None
    weights: str | None = None
    parameters: int | None = None
    macs: int | None = None
    effective_macs: int | None = None
    effective_parameters: int | None = None
    nonzero_share: float | None = None
    top1: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None
    top5: float | None = None
    images: int | None = None
    data: str | None = None
    accuracy_loss: float | None = None
    latency_s: float | None = None
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None
    first_s: float | None = None
    first_ratio: float | None = None
    end_to_end_s: float | None = None
    image_s: float | None = None
    images_per_s: float | None = None
    inference_bytes: float | None = None
    inference_is_bound: bool = False
    process_bytes: float | None = None
    process_base_bytes: float | None = None
    process_own_bytes: float | None = None
    stored_bytes: float | None = None
    joules: float | None = None
    joules_low: float | None = None
    joules_high: float | None = None
    watts: float | None = None
    meter: str | None = None
    energy_is_estimate: bool = False
    theoretical_speedup: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    verdict: str | None = None
    error: float | None = None
    bound_s: float | None = None
    emulated: bool = False
    steady: bool | None = None
    vague: bool = False
    disturbed: str | None = None
    remarks: str | None = None

    @property
    def measured(self) -> bool:
        """Whether it passed its checks and was timed: only then can it be chosen."""
        return self.outcome == OK and self.latency_s is not None

    @property
    def latency_marks(self) -> str:
        """What is said behind its latency: `~` no steady warm-up, `*` emulated, `!` disturbed or with a remark."""
        marks = {"~": self.steady is False and not self.emulated, "*": self.emulated, "!": self.disturbed or self.remarks}
        return "".join(mark for mark, holds in marks.items() if holds)


def row_of(record: Record, key: str, verdict: str | None = None) -> Row:
    """Flatten a record; `key` names it, and its verdict is that of verdicts/realised.py, which no record says itself."""
    cell, counts, accuracy = record.cell, record.counts, record.accuracy
    fields: dict[str, Any] = {axis: getattr(cell, axis) for axis in AXES}
    fields |= {"outcome": record.outcome, "reason": record.reason, "seconds": record.seconds, "started_at": record.started_at}
    fields |= {"machine": described(record.machine), "machine_id": record.machine.id, "session": record.session}
    if cell.variant != DENSE:
        fields["parent"] = structs.replace(cell, variant=DENSE).id
    if record.weights is not None:
        fields["weights"] = record.weights.kind
    if counts is not None:
        fields |= {"parameters": counts.parameters, "effective_parameters": counts.parameters}
        fields |= {"macs": counts.macs, "effective_macs": counts.macs}
    if accuracy is not None and accuracy.top1 is not None:
        fields |= {"top1": accuracy.top1, "top5": accuracy.top5, "images": accuracy.images, "data": accuracy.data}
        fields |= {"accuracy_loss": accuracy.loss, **_ends("top1_{}", accuracy.interval)}
    if record.agreement is not None:
        fields["error"] = record.agreement.error / record.agreement.tolerance
    if record.bound is not None:
        fields["bound_s"] = record.bound.seconds
    fields |= {**_memory(record), **_variant(record), **_time(record)}  # a variant's effective figures instead of its counts'
    return Row(key=key, id=record.id, revision=record.revision, verdict=verdict, **fields)


def _memory(record: Record) -> dict[str, Any]:
    own, first = record.memory_bytes("inference"), record.memory_bytes("first_inference")
    peak, base = record.memory_bytes("process_peak"), record.memory_bytes("process_base")
    return {
        "inference_bytes": first if own is None else own,
        "inference_is_bound": own is None and first is not None,
        "process_bytes": peak,
        "process_base_bytes": base,
        "process_own_bytes": None if peak is None or base is None else peak - base,
        "stored_bytes": record.memory_bytes("weights") if record.promise is None else record.promise.bytes,
    }


def _variant(record: Record) -> dict[str, Any]:
    promise, delivery = record.promise, record.delivery
    if promise is None:
        return {}
    fields: dict[str, Any] = {
        # of one image, as the counts are; the promise counts its parent in the same way
        "effective_macs": promise.macs_effective,
        "effective_parameters": promise.parameters_nonzero,
        "nonzero_share": promise.parameters_nonzero / max(1, promise.parameters_dense),
        "theoretical_speedup": promise.speedup,
    }
    if delivery is not None and delivery.speedup is not None:
        fields |= {"speedup": delivery.speedup, **_ends("speedup_{}", delivery.interval)}
    return fields


def _time(record: Record) -> dict[str, Any]:
    latency, energy = record.latency, energy_of(record)
    if latency is None:
        return {}
    model = latency.model
    fields: dict[str, Any] = {
        "latency_s": model.median_s,
        **_ends("latency_{}_s", model.interval_s),
        "p90_s": _bound(model.percentiles.get("p90")),
        "p99_s": _bound(model.percentiles.get("p99")),
        "first_s": latency.first_s,
        "first_ratio": latency.first_s / model.median_s if model.median_s else None,
        "end_to_end_s": latency.with_transfer.median_s,
        "image_s": model.median_s / record.cell.batch,
        "images_per_s": model.images_per_s,
        "emulated": latency.emulated,
        "steady": model.steady,
        "vague": latency.vague,
        "disturbed": "; ".join(latency.disturbed) or None,
        "remarks": "; ".join(latency.remarks) or None,
    }
    if energy is not None:
        name, found = energy
        fields |= {"joules": found.joules, "watts": found.running_w, "meter": name, "energy_is_estimate": found.estimate}
        fields |= _ends("joules_{}", found.interval)
    return fields


def energy_of(record: Record) -> tuple[str, Energy] | None:
    """Return the meter whose energy counts, and what it found: the first of METERS that has a value, or another."""
    found = {} if record.latency is None else {name: one for name, one in record.latency.energy.items() if one.joules is not None}
    first = next((name for name in METERS if name in found and not found[name].estimate), next(iter(found), None))
    return None if first is None else (first, found[first])


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else {name.format("low"): interval[0], name.format("high"): interval[1]}


def _bound(percentile: Percentile | None) -> float | None:
    return None if percentile is None else percentile.bound_s
