"""What is stored is read: runs, folders of runs, and the JSON of pytest-benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness import journal, messages
from plumbline.harness.record import Record
from plumbline.harness.statistics import median_interval
from plumbline.harness.verdicts.comparison import Measured, measured

# Of samples of a normal distribution: 1.96 standard errors of the median, 1.2533 s / sqrt(n), with s = IQR / 1.349
_OF_IQR = 1.96 * 1.2533 / 1.349


class NotStored(PlumblineError, ValueError):
    """A path that holds nothing which can be read here; the message says what was expected."""


class Stored(Struct, frozen=True):
    """The rows of a run, or of a file of pytest-benchmark; `guarantee` says what the latter does not know."""

    rows: list[Measured]
    guarantee: str = ""


class _Statistics(Struct):
    median: float
    iqr: float
    rounds: int
    data: list[float] = []


class _Benchmark(Struct):
    fullname: str
    stats: _Statistics
    options: dict[str, Any] = {}
    extra_info: dict[str, Any] = {}


class _File(Struct):
    """The output of `pytest --benchmark-json FILE` and of `--benchmark-save`, as pytest-benchmark 3 to 5 write it."""

    machine_info: dict[str, Any]
    commit_info: dict[str, Any]
    benchmarks: list[_Benchmark]
    datetime: str
    version: str


def read(path: Path) -> Stored:
    """Read a run (a folder), or a file of pytest-benchmark. Raises RunError and NotStored."""
    if path.is_dir() or not path.exists():
        return Stored([measured(record) for record in journal.read(path)])
    try:
        found = messages.decode(path.read_bytes(), _File)
    except messages.BadMessage as error:
        raise NotStored(
            f"{path}: expected the JSON of pytest --benchmark-json, or the folder of a run, got neither ({error})"
        ) from error
    return _of_benchmarks(found)


def runs(paths: Iterable[Path]) -> list[list[Record]]:
    """Read each run, and those in each folder that is none itself. An empty journal is left out.

    Raises RunError, and NotStored where a path holds no run at all.
    """
    found = []
    for path in paths:
        folders = journal.runs_in(path)
        if not folders:
            raise NotStored(f"{str(path)!r}: expected a run, or a folder of runs, got no {journal.NAME} in it")
        found += [journal.read(folder) for folder in folders]
    return [records for records in found if records]


def _of_benchmarks(found: _File) -> Stored:
    # node is a host name; the clock of this moment is none of what the machine is
    machine = {name: value for name, value in found.machine_info.items() if name not in ("node", "cpu")}
    cpu = found.machine_info.get("cpu") or {}
    machine |= {f"cpu {name}": cpu.get(name) for name in ("brand_raw", "arch", "count", "flags")}
    commit = found.commit_info
    revision = (
        f"{commit['id'][:12]}{'+' if commit.get('dirty') else ''}" if commit.get("id", "unversioned") != "unversioned" else None
    )
    rows = []
    for each in found.benchmarks:
        stats, info = each.stats, each.extra_info
        conditions = {
            "machine": {**machine, "fingerprint": info.get("fingerprint")},
            "settings": {**each.options, "version": found.version},
        }
        rows.append(Measured(each.fullname, conditions, stats.median, _interval(stats), at=found.datetime, revision=revision))
    drawn = any(not each.stats.data for each in found.benchmarks)
    return Stored(
        rows,
        "pytest-benchmark's files know nothing of weights, counts, threads and library versions, so that nothing says whether "
        "two rows of one name ran the same net in the same way"
        + ("; without stats.data (--benchmark-save-data) an interval is that of a normal distribution with this iqr" * drawn),
    )


def _interval(stats: _Statistics) -> tuple[float, float] | None:
    """Return the 95 % interval of a median in seconds, from the samples; without them from the interquartile range."""
    if stats.data:
        return median_interval(sorted(stats.data))
    half = _OF_IQR * stats.iqr / math.sqrt(stats.rounds) if stats.rounds > 5 else math.inf
    return (stats.median - half, stats.median + half) if half < stats.median else None
