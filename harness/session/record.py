"""The record: everything learned about a cell, as one line of JSON. record.schema.json is the contract with its readers.

Within a schema version fields are only added, and readers ignore what they do not know.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from plumbline.harness.cell import shown_model
from plumbline.harness.journal import SCHEMA
from plumbline.harness.session.client import Probe


def of_probe(probe: Probe, outcome: str, reason: str | None, machine: dict[str, Any]) -> dict[str, Any]:
    """The record of a cell whose process has ended, however that was."""
    facts = probe.facts
    memory = facts.get("memory")
    if memory is None and probe.exit.get("process_peak_bytes"):
        memory = {"process_peak_bytes": probe.exit["process_peak_bytes"]}  # even a killed process leaves this
    latency = dict(facts["latency"]) if "latency" in facts else None
    telemetry = latency.pop("telemetry") if latency else None
    prepared, counts = facts.get("prepared", {}), facts.get("counts")
    return {
        "schema": SCHEMA,
        "cell": {**probe.cell.as_json(), "model": shown_model(probe.cell.model)},
        "outcome": outcome,
        "reason": None if reason is None else without_paths(reason),
        "counts": None if counts is None else {**counts, "measured_parameters": prepared.get("parameters")},
        "agreement": facts.get("agreement"),
        "accuracy": facts.get("accuracy"),
        "latency": latency,
        "telemetry": telemetry,
        "memory": memory,
        "layers": facts.get("layers"),
        "options": prepared.get("options"),
        "artefact": prepared.get("artefact"),
        "promise": prepared.get("promise"),
        "delivery": facts.get("delivery"),
        "weights": prepared.get("weights"),
        "machine": machine,
        "started_at": probe.started_at,
        "seconds": round(probe.seconds, 4),
        "steps_s": probe.steps_s,
        "building_s": prepared.get("seconds"),
        "settings": probe.settings.without_paths(),
    }


def without_paths(text: str) -> str:
    """Of each absolute path only the last part: the rest is about the person, not about the cell."""
    return re.sub(r"(?<![\w.])(?:/[\w.+@~-]+)+/([\w.+@~-]+)", r"\1", text)


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    return json.loads((Path(__file__).parent / "record.schema.json").read_text())
