"""Whether what one run measured can be compared with what another did, and by how much the two differ.

The intervals here hold the samples of one session each. What a session has by chance, as when it ran and where its memory lay,
is in no interval of one session (`SESSIONS_DIFFER`); so these are calls about two sessions, not about two revisions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from plumbline.harness import messages
from plumbline.harness.cell import AXES, Cell, id_of, shown_model
from plumbline.harness.machine import STATE, Machine
from plumbline.harness.outcomes import OK
from plumbline.harness.record import Record
from plumbline.harness.settings import Settings
from plumbline.harness.verdicts.regression import INCOMPARABLE

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no difference shown"
CALLS = (SLOWER, FASTER, NO_DIFFERENCE, INCOMPARABLE)  # what a reader has to see comes first
SESSIONS_DIFFER = 0.22  # by which medians of separate processes were spread on a shared machine (docs/stored-runs.md)

IGNORABLE = ("runtime", "target", "precision", "variant", "model")
# What stands in a fingerprint under a name of its own; all else of it is the machine.
_GROUPS = {
    "torch": ("torch", "torch_cuda", "torch_cpu_capability", "blas", "onednn"),
    "library versions": ("libraries", "python"),
    "power mode": ("governor", "power_mode", "clock_max_hz"),
    "threads": ("threads",),
}
_OWN = {field: group for group, fields in _GROUPS.items() for field in fields}
_NO_CONDITION = (
    "inputs_seed",
    "time_limit_s",
    "energy_s",
    "calm_s",
    "cool_s",
    "max_temperature",
    "audit",
)  # others each time, or no latency depends on them
# What differs, and has to, where cells differ in an axis.
_FOLLOWS = {
    "target": {"machine", "power mode", "torch", "library versions", "threads"},
    "model": {"weights", "counts"},
    "variant": {"weights", "counts"},
    "precision": {"weights"},
    "runtime": {"weights"},
}  # fmt: skip


class Measured(Struct, frozen=True):
    """One row of a run: what was measured, how fast it was, and under which `conditions`, by kind and name.

    `axes` are those of a cell, None for a benchmark of pytest-benchmark. `interval_s` is the median's 95 % interval. `unusable`
    says why there is no latency to compare. `remarks` say why it is not that of the net alone.
    """

    name: str
    conditions: dict[str, dict[str, Any]]
    median_s: float | None = None
    interval_s: tuple[float, float] | None = None
    cell: Cell | None = None
    memory_bytes: float | None = None
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    unusable: str | None = None
    remarks: list[str] = []
    at: str = ""
    revision: str | None = None
    session: str = ""


class Pair(Struct, frozen=True):
    """Two rows and the call: `ratio` is B / A of the medians, `interval` its 95 % interval; `reason` why there is none."""

    name: str
    a: Measured
    b: Measured
    call: str
    reason: str = ""
    ratio: float | None = None
    interval: tuple[float, float] | None = None


class Comparison(Struct, frozen=True):
    """All pairs, what is in one run only, and the differences that were asked for, in words."""

    pairs: list[Pair]
    only_a: list[str]
    only_b: list[str]
    asked_for: list[str]

    @property
    def compared(self) -> int:
        """How many pairs could be compared."""
        return sum(pair.call != INCOMPARABLE for pair in self.pairs)


def measured(record: Record) -> Measured:
    """Return what a record says of a latency and its conditions."""
    timing, accuracy = None if record.latency is None else record.latency.model, record.accuracy
    unusable = None
    if record.outcome != OK:
        unusable = f"{record.outcome}: {record.reason}"
    elif timing is None:
        unusable = "it was counted, and not timed"
    return Measured(
        record.id,
        conditions(record),
        None if timing is None else timing.median_s,
        None if timing is None else timing.interval_s,
        record.cell,
        record.memory_bytes("process_peak"),
        record.top1,
        None if accuracy is None else accuracy.interval,
        unusable,
        [] if record.latency is None else record.latency.remarks,
        record.started_at,
        record.revision,
        record.session,
    )


def conditions(record: Record) -> dict[str, dict[str, Any]]:
    """Return all that has to be the same for two latencies to be compared, by kind."""
    found = {**of_machine(record.machine), "settings": of_settings(record.settings), "weights": {}, "counts": {}}
    if record.prepared is not None:
        found["threads"] = {**found["threads"], "threads": record.prepared.threads}
        found["weights"] = {"sha256": record.prepared.weights.sha256[:12]}
        found["counts"] = {"parameters": record.prepared.parameters}
    if record.counts is not None:
        found["counts"] = {**found["counts"], "MACs": record.counts.macs}
    return found


def of_machine(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return a fingerprint by kind, without the revision; libraries and an image's versions one by one."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in ("machine", *_GROUPS)}
    for field, value in asdict(machine).items():
        if field == "libraries":
            found["library versions"] |= value
        elif field not in STATE:
            found[_OWN.get(field, "machine")][field] = messages.plain(value) if isinstance(value, Struct) else value
    return found


def of_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings on which a latency depends."""
    plain: Mapping[str, Any] = messages.plain(settings.without_paths())
    return {name: value for name, value in plain.items() if name not in _NO_CONDITION}


def differing(
    a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]], kinds: Collection[str] | None = None
) -> dict[str, str]:
    """Return by kind, in words, what differs between two sets of conditions: first A's, then B's."""
    found = {}
    for kind in kinds if kinds is not None else {**a, **b}:
        ours, theirs = a.get(kind, {}), b.get(kind, {})
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if names:
            found[kind] = f"{kind}: " + ", ".join(_said(name, ours.get(name), theirs.get(name)) for name in names)
    return found


def ratio_of_medians(
    a: float, a_interval: tuple[float, float], b: float, b_interval: tuple[float, float]
) -> tuple[float, tuple[float, float]]:
    """Return B / A and its interval, from two independent medians and theirs, combined on the log scale.

    Source: Zou & Donner 2008, "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27, equation 4: each end is as far off as the ends of the two that pull it there, squared and added.
    """
    low = math.hypot(math.log(b / b_interval[0]), math.log(a_interval[1] / a))
    high = math.hypot(math.log(b_interval[1] / b), math.log(a / a_interval[0]))
    return b / a, (b / a * math.exp(-low), b / a * math.exp(high))


def compare(a: Sequence[Measured], b: Sequence[Measured], ignored: Collection[str] = ()) -> Comparison:
    """Pair the rows of two runs, and call each pair.

    With `ignored` axes each of A's is paired with each of B's that is otherwise the same; a cell with itself only where
    the target is ignored, as one name of a target may be two machines.
    """
    theirs: dict[Any, list[Measured]] = {}
    for row in b:
        theirs.setdefault(_key(row, ignored), []).append(row)
    pairs, asked_for, paired = [], dict[str, None](), set()
    follows: set[str] = set().union(*(_FOLLOWS[axis] for axis in ignored))
    for ours in a:
        for other in theirs.get(_key(ours, ignored), ()):
            if ignored and ours.cell == other.cell and ("target" not in ignored or ours == other):
                continue
            paired |= {id(ours), id(other)}
            apart = differing(ours.conditions, other.conditions)
            reasons = [words for kind, words in apart.items() if kind not in follows]
            asked_for |= dict.fromkeys(
                words for kind, words in apart.items() if kind in follows and kind not in ("weights", "counts")
            )
            pairs.append(_called(ours, other, reasons))
    return Comparison(
        sorted(pairs, key=lambda pair: CALLS.index(pair.call)),
        [row.name for row in a if id(row) not in paired],
        [row.name for row in b if id(row) not in paired],
        list(asked_for),
    )


def latest(rows: Sequence[Measured]) -> tuple[list[Measured], int]:
    """Return the last row of each name, and how many earlier ones of other revisions or sessions there were."""
    last = {row.name: row for row in sorted(rows, key=lambda row: row.at)}
    return [last[name] for name in dict.fromkeys(row.name for row in rows)], len(rows) - len(last)


def _called(a: Measured, b: Measured, reasons: Sequence[str]) -> Pair:
    name = _pair_name(a, b)
    unusable = [f"{side}: {row.unusable}" for side, row in (("A", a), ("B", b)) if row.unusable]
    if unusable or reasons:
        return Pair(name, a, b, INCOMPARABLE, "; ".join([*unusable, *reasons]))
    if a.median_s is None or b.median_s is None or a.interval_s is None or b.interval_s is None:
        return Pair(name, a, b, INCOMPARABLE, "too few samples for an interval")
    ratio, interval = ratio_of_medians(a.median_s, a.interval_s, b.median_s, b.interval_s)
    call = SLOWER if interval[0] > 1 else FASTER if interval[1] < 1 else NO_DIFFERENCE
    remarks = [f"{side}: {remark}" for side, row in (("A", a), ("B", b)) for remark in row.remarks]
    return Pair(name, a, b, call, "; ".join(remarks), ratio, interval)


def _key(row: Measured, ignored: Collection[str]) -> Any:
    if row.cell is None:
        return row.name
    own = replace(row.cell, model=shown_model(row.cell.model))
    return own.values(axis for axis in AXES if axis not in ignored)


def _pair_name(a: Measured, b: Measured) -> str:
    if a.cell is None or b.cell is None or a.name == b.name:
        return a.name
    shown = ((shown_model(cell.model), *cell.values(AXES[1:])) for cell in (a.cell, b.cell))
    return id_of(AXES, [ours if ours == theirs else f"{ours}->{theirs}" for ours, theirs in zip(*shown)])


def _said(name: str, ours: Any, theirs: Any) -> str:
    """Return both values; of long ones, as the flags of a processor, some words in which they differ."""
    if isinstance(ours, str) and isinstance(theirs, str) and max(len(ours), len(theirs)) > 60:
        return f"{name} without {_words(ours, theirs)} -> without {_words(theirs, ours)}"
    return f"{name} {ours} -> {theirs}"


def _words(without: str, there: str, most: int = 4) -> str:
    gone = sorted(set(there.split()) - set(without.split()))
    return (" ".join(gone[:most]) + (f" and {len(gone) - most} more" if len(gone) > most else "")) or "none"
