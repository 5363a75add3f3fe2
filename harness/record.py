"""The record: everything learned about a cell, as one line of JSON. Its schema is generated from these types.

Within a schema version fields are only added, and readers ignore what they do not know.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from plumbline.harness import messages
from plumbline.harness.cell import Cell
from plumbline.harness.facts import (
    Accuracy,
    Agreement,
    Audit,
    Bound,
    Counts,
    Delivery,
    Latency,
    Layers,
    Prepared,
    Promise,
    WeightsUsed,
)
from plumbline.harness.machine import Machine
from plumbline.harness.readings import Readings, value_of
from plumbline.harness.settings import Settings

SCHEMA = 2


class Record(Struct, frozen=True, kw_only=True):
    """A cell, what became of it, each fact as the probe answered it, and where and when that was.

    A record is known by `id`, the cell's; `revision`, that of the code which measured (None where it is not a checkout); and
    `session`, the same for all records of a run. `seconds` is the wall time of the cell, `steps_s` that of each step as
    the test waited for it. What was not learned is null.
    """

    schema: int = SCHEMA
    id: str
    revision: str | None
    session: str
    cell: Cell
    outcome: str
    reason: str | None = None
    prepared: Prepared | None = None
    counts: Counts | None = None
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    memory: Readings = {}
    layers: Layers | None = None
    audit: Audit | None = None
    delivery: Delivery | None = None
    bound: Bound | None = None
    machine: Machine
    state_before: Readings = {}
    state_after: Readings = {}
    started_at: str
    seconds: float
    steps_s: dict[str, float] = {}
    settings: Settings

    @property
    def key(self) -> tuple[str, str | None, str]:
        """What tells two records apart."""
        return self.id, self.revision, self.session

    @property
    def promise(self) -> Promise | None:
        """That of a compressed net."""
        return None if self.prepared is None else self.prepared.promise

    @property
    def weights(self) -> WeightsUsed | None:
        """Where its weights come from."""
        return None if self.prepared is None else self.prepared.weights

    @property
    def top1(self) -> float | None:
        """Share of images classified rightly."""
        return None if self.accuracy is None else self.accuracy.top1

    @property
    def options(self) -> dict[str, Any]:
        """The runtime's options, as it says itself that they are."""
        return {} if self.prepared is None else self.prepared.options

    def memory_bytes(self, quantity: str) -> float | None:
        """Read a quantity of `memory`."""
        return value_of(self.memory, quantity)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **messages.schema(Record)}
