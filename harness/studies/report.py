"""Gather what a report shows: runs, what can be read of damaged ones, the history of several sessions, and what a gate found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from plumbline.harness.record import Record
from plumbline.harness.rows import Row
from plumbline.harness.studies.gate import Report as GateReport
from plumbline.harness.verdicts.changes import Found, Series


class Evidence(Struct, frozen=True):
    """What a report is made of.

    `rows` are all records of all runs, `problems` what could not be read, in words. `records` are whole records by the key of
    their row: of all rows, or where there are more than MOST of those that are shown; `shown` are the rows of these. `history`
    has the series of cells that several sessions measured, `gates` what gates found.
    """

    rows: list[Row]
    records: dict[str, Record]
    problems: list[str] = []
    history: list[tuple[Series, Found]] = []
    gates: list[GateReport] = []

    @property
    def shown(self) -> list[Row]:
        return [row for row in self.rows if row.key in self.records]


def gather(paths: Sequence[Path]) -> Evidence:
    """Read runs, folders of runs, and folders that a gate has written. Raises NotStored where a path holds none of them."""
    raise NotImplementedError
