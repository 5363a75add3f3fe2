"""Synthetic grids: records of settings that nobody has measured, as the name of their machine says.

`python -m tests.grids FOLDER` writes runs of two of them, `even` and `dense`, as docs/recommend.md shows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from plumbline.harness import messages
from plumbline.harness.facts import Energy, Latency, Percentile, Timing
from plumbline.harness.journal import NAME
from plumbline.harness.machine import Machine
from plumbline.harness.outcomes import OK, OUT_OF_MEMORY
from plumbline.harness.readings import Reading, read
from plumbline.harness.record import Record
from plumbline.harness.rows import Row, row_of
from plumbline.harness.statistics import wilson_interval
from tests.records import accuracy_of, cell_of, counts_of, record_of

SYNTHETIC = Machine(id="synthetic", cpu_model="SYNTHETIC grid, nothing was measured", cores_allowed=4)
BATCHES = (1, 8, 16, 32, 64, 128)
IMAGES = 50_000
WITHIN = 0.004  # half of an interval, as a share

# MACs at 224, 192, 160 and 112 pixels and top-1 at 224 are those that the edge study published (published.csv, edge-limits:
# tables 2, 5 and 6). Each other top-1, and all that follows, is made up.
MACS = {
    "vgg16": {224: 15.47e9, 192: 11.4e9, 160: 7.95e9, 112: 3.96e9},
    "resnet50": {224: 4.09e9, 192: 3.00e9, 160: 2.09e9, 112: 1.08e9},
    "mobilenet_v3_large": {224: 0.22e9, 192: 0.16e9, 160: 0.11e9, 112: 0.06e9},
}
TOP1 = {
    "vgg16": {224: 0.7159, 192: 0.69, 160: 0.66, 112: 0.55},
    "resnet50": {224: 0.8086, 192: 0.80, 160: 0.78, 112: 0.70},
    "mobilenet_v3_large": {224: 0.7527, 192: 0.74, 160: 0.70, 112: 0.60},
}
PARAMETERS = {"vgg16": 138_400_000, "resnet50": 25_600_000, "mobilenet_v3_large": 5_500_000}
IMAGE_BYTES = {"vgg16": 65e6, "resnet50": 45e6, "mobilenet_v3_large": 18e6}  # of one of 224 pixels
BASE_BYTES = 700e6
# Joules of 1e9 MACs. EVEN: all MACs cost alike. DENSE: a device whose kernels for 1x1 and grouped convolutions are so bad that
# a net of few MACs takes more than VGG-16 with its 3x3.
EVEN = {"vgg16": 0.1, "resnet50": 0.1, "mobilenet_v3_large": 0.1}
DENSE = {"vgg16": 0.1, "resnet50": 0.8, "mobilenet_v3_large": 10.0}
WATTS = 6.0


def edge_study(joules: Mapping[str, float], optimum: int = 16, fits_bytes: float | None = None) -> list[Record]:
    """Make a grid of the shape of the edge study's: three nets, six batches, four sizes.

    An image takes 1 + 1 / batch + batch / optimum^2 times the energy of its MACs, which is least at batch `optimum`, at a power
    that is always the same. Where a ceiling of `fits_bytes` is given, what needs more did not fit.
    """
    return [
        _record(model, size, batch, joules[model], optimum, fits_bytes)
        for model, sizes in MACS.items()
        for size in sizes
        for batch in BATCHES
    ]


def _record(model: str, size: int, batch: int, joules: float, optimum: int, fits_bytes: float | None) -> Record:
    cell = cell_of(model, runtime="agent", batch=batch, image_size=size, target="board@cuda")
    needed = BASE_BYTES + 4 * PARAMETERS[model] + IMAGE_BYTES[model] * (size / 224) ** 2 * batch
    if fits_bytes is not None and needed > fits_bytes:
        return record_of(cell, outcome=OUT_OF_MEMORY, reason="it needs more than there is", machine=SYNTHETIC)
    of_image = joules * MACS[model][size] / 1e9 * (1 + 1 / batch + batch / optimum**2)
    right = round(TOP1[model][size] * IMAGES)
    return record_of(
        cell,
        machine=SYNTHETIC,
        counts=counts_of(PARAMETERS[model], round(MACS[model][size])),
        accuracy=accuracy_of(right / IMAGES, images=IMAGES, data="imagenet", interval=wilson_interval(right, IMAGES)),
        latency=_latency(of_image * batch / WATTS, of_image * batch, batch),
        memory={"process_peak": _bytes(needed), "weights": _bytes(4 * PARAMETERS[model])},
    )


def _latency(seconds: float, joules: float, batch: int) -> Latency:
    percentiles = {name: Percentile(seconds, seconds * (1 + WITHIN)) for name in ("p50", "p90", "p99")}
    timing = Timing([], 0, 0.0, True, seconds, _around(seconds), percentiles, batch / seconds)
    energy = Energy(rail="synthetic", unit="W", joules=joules, interval=_around(joules), running_w=WATTS)
    return Latency(2 * seconds, timing, timing, False, "", {}, energy={"synthetic": energy})


def _around(value: float) -> tuple[float, float]:
    return value * (1 - WITHIN), value * (1 + WITHIN)


def _bytes(value: float) -> Reading:
    return read("B", "process", value)


def rows_of(records: list[Record]) -> list[Row]:
    return [row_of(record, f"c{number}") for number, record in enumerate(records, 1)]


def row(number: int = 1, **fields: object) -> Row:
    """Make a row that passed its checks, of a net at batch 1 that takes a millisecond, and of which nothing else is known."""
    usual = {
        "key": f"c{number}", "id": f"net-{number}", "model": f"net{number}", "variant": "dense", "runtime": "eager",
        "precision": "fp32", "batch": 1, "image_size": 8, "target": "cpu", "outcome": OK, "reason": None,
        "machine": "SYNTHETIC", "machine_id": "m", "session": "one", "revision": None,
        "started_at": "2026-01-01T00:00:00+00:00", "seconds": 1.0,
        "latency_s": 1e-3, "latency_low_s": 0.99e-3, "latency_high_s": 1.01e-3,
    }  # fmt: skip
    return Row(**{**usual, **fields})  # type: ignore[arg-type]


def stored(folder: Path, records: Sequence[Record]) -> Path:
    """Write records as a run."""
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"".join(messages.encode(record) + b"\n" for record in records))
    return folder


if __name__ == "__main__":
    for name, joules in {"even": EVEN, "dense": DENSE}.items():
        stored(Path(sys.argv[1]) / name, edge_study(joules))
