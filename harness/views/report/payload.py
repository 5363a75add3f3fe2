"""What the scripts of a page read: cells, charts, and the record of each cell, with quantiles for its samples."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs
from msgspec.structs import replace

from plumbline.harness import messages
from plumbline.harness.facts import Timing
from plumbline.harness.record import Record
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report.matrix import Matrix
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.summary import Reason

QUANTILES = 64  # of samples, in place of all of them
LONGEST = 64  # other lists of a record, as telemetry: so many of their values are shown, evenly
FEWER = 16  # quantiles of inferences with transfers
_LONG = re.compile(rb"(\.0*[1-9]\d{5})\d+")  # a number in JSON with more digits than anybody reads


def packed(evidence: Evidence, pictures: Sequence[Picture], matrix: Matrix, doubts: Sequence[Reason]) -> str:
    """Return what scripts read, compressed: cells, charts, keys behind each doubt, and records by key, in six digits."""
    data = {
        "cells": [{**_known(structs.asdict(row)), **_known(matrix.more(row)), "link": f"#{row.key}"} for row in matrix.rows],
        "pictures": {picture.name: picture.specification for picture in pictures},
        "doubts": [[row.key for row in reason.rows] for reason in doubts],
        "records": {key: brief(record) for key, record in evidence.records.items()},
    }
    text = messages.encode(data).replace(b'"samples_s":', b'"quantiles_s":')
    return base64.b64encode(gzip.compress(_LONG.sub(lambda found: found[1], text), 6, mtime=0)).decode()


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured, numbers in six digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in fields.items() if value is not None
    }


def brief(record: Record) -> Record:
    """Return a record with quantiles in the place of its samples, and no more than LONGEST values of each other reading."""
    latency = record.latency
    if latency is None:
        return record
    events = None if latency.on_device is None else latency.on_device.events
    short = replace(
        latency,
        model=_brief(latency.model, QUANTILES),
        with_transfer=_brief(latency.with_transfer, FEWER),
        telemetry={
            name: replace(reading, values=_evenly(reading.values, LONGEST)) for name, reading in latency.telemetry.items()
        },
        energy={name: replace(energy, samples=_evenly(energy.samples, LONGEST)) for name, energy in latency.energy.items()},
        on_device=latency.on_device and replace(latency.on_device, events=events and _brief(events, QUANTILES)),
    )
    return replace(record, latency=short)


def _brief(timing: Timing, most: int) -> Timing:
    """Return a timing with quantiles for samples, in as many digits as are shown, from the shortest to the longest."""
    found = _evenly(sorted(timing.samples_s), most)
    return replace(timing, samples_s=[float(f"{each:.4g}") for each in found])


def _evenly(values: list[float], most: int) -> list[float]:
    """Return `most` values at most: the ends, and others at even distances."""
    return values if len(values) <= most else [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
