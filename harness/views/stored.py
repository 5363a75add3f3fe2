"""What stored runs say: two of them beside each other, and many of them in time."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from plumbline.harness.verdicts.changes import LEAST, Found, Series, changed_with, level
from plumbline.harness.verdicts.comparison import CALLS, SESSIONS_DIFFER, Comparison, Measured, Pair
from plumbline.harness.verdicts.regression import INCOMPARABLE
from plumbline.harness.views.table import NOTHING, milliseconds, tabulated
from plumbline.texts import number_of

COMPARED = ["cell", "call", "B / A", "95 %", "A, ms", "B, ms", "process MiB", "top-1 A", "top-1 B"]
CHANGED = ["cell", "since", "revisions", "change", "95 %", "from, ms", "to, ms", "sessions", "what else changed"]
CHANGED_LEFT = ["cell", "since", "revisions", "what else changed"]
WIDTH = 130


class Side(Struct, frozen=True):
    """One of two runs: what it is called, its rows, and how many earlier ones of the same name were left out."""

    name: str
    rows: list[Measured]
    earlier: int = 0


def compared(found: Comparison, sides: Sequence[Side], guarantee: str, ignored: Sequence[str], style: str = "simple") -> str:
    """Return both runs in a line each, what differs as it was asked for, the pairs by call, and what has no partner."""
    parts = ["\n".join(_side(name, side) for name, side in zip("AB", sides))]
    if found.asked_for:
        parts.append(f"differ, as --ignore {','.join(ignored)} has it:\n" + "\n".join(f"- {words}" for words in found.asked_for))
    called = [pair for pair in found.pairs if pair.call != INCOMPARABLE]
    if called:
        parts.append(tabulated([_pair(pair) for pair in called], COMPARED, ["cell", "call"], style))
    reasons: dict[str, list[str]] = {}
    for pair in found.pairs:
        if pair.reason:
            reasons.setdefault(f"{INCOMPARABLE if pair.call == INCOMPARABLE else '!'}: {pair.reason}", []).append(pair.name)
    parts += [_listed(reason, names) for reason, names in reasons.items()]
    parts += [_listed(f"only in {side}", names) for side, names in (("A", found.only_a), ("B", found.only_b)) if names]
    counts = Counter(pair.call for pair in found.pairs)
    parts.append(", ".join(f"{counts[call]} {call}" for call in CALLS if counts[call]) or "no cell is in both")
    notes = [
        "An interval holds the samples of one session each, and nothing of what a session has by chance: two sessions of one "
        f"machine differ by more ({SESSIONS_DIFFER:.0%} was measured on a shared machine). "
        "To tell a change of the code from that, compare two revisions with `plumbline gate`."
    ]
    parts += [textwrap.fill(note, WIDTH) for note in [*notes, guarantee] if note]
    return "\n\n".join(parts)


def history(found: Sequence[tuple[Series, Found]], share: float, style: str = "simple") -> str:
    """Return the points of each machine's series, then drifts, series without any, and those that are too short."""
    parts = [] if found else ["no cell of these runs was timed"]
    for machine in dict.fromkeys(series.machine for series, _ in found):
        own = [(series, seen) for series, seen in found if series.machine == machine]
        rows = [row for series, seen in own for row in _changes(series, seen)]
        most = max(len(series.sessions) for series, _ in own)
        parts.append(f"{machine}: {number_of(len(own), 'cell')} in up to {number_of(most, 'session')}")
        parts += [tabulated(rows, CHANGED, CHANGED_LEFT, style)] if rows else []
        drifts = [f"{series.cell}: {_drift(seen)}" for series, seen in own if seen.drift is not None]
        quiet = [f"{series.cell}: {_noise(seen)}" for series, seen in own if not (seen.changes or seen.drift or seen.short)]
        short = [f"{series.cell}: {seen.short}" for series, seen in own if seen.short]
        heads = ("a drift, and not steps", "no change found", "too short")
        parts += [_listed(head, names) for head, names in zip(heads, (drifts, quiet, short)) if names]
    note = (
        f"This is a listing, and no gate. Of series without a change at most {share:.0%} have a point, by simulation of noise "
        "with the autocorrelation and spread of each; what many cells have in common at one session, the machine did. "
        f"An interval takes the place of its point for granted. Of fewer than {LEAST} sessions nothing is said."
    )
    return "\n\n".join([*parts, textwrap.fill(note, WIDTH)])


def otava(series: Sequence[Series]) -> tuple[str, list[str]]:
    """Return the CSV of the series of one machine for Apache Otava's importer, and the cells that it cannot hold.

    A row a session, a column a cell: each value has to be a number there, so that a cell must be in all of the sessions.
    """
    times = {session.session: session for each in series for session in each.sessions}
    order = sorted(times, key=lambda session: times[session].at)
    whole = [each for each in series if len(each.sessions) == len(order)]
    values = {each.cell: {session.session: session.median_s for session in each.sessions} for each in whole}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", "commit", "session", *values])
    for name in order:
        own = [repr(medians[name]) for medians in values.values()]
        writer.writerow([times[name].at, times[name].revision or "", name, *own])
    return text.getvalue(), [each.cell for each in series if each not in whole]


def _changes(series: Series, seen: Found) -> list[list[str]]:
    rows, ends = [], [0, *(change.first for change in seen.changes), len(series.sessions)]
    for index, change in enumerate(seen.changes):
        before, after = series.sessions[change.first - 1], series.sessions[change.first]
        rows.append([
            series.cell,
            after.at[:16],
            f"{before.revision} -> {after.revision}",
            _by(change.size),
            f"{_by(change.interval[0])} to {_by(change.interval[1])}",
            milliseconds(level(series, ends[index], change.first)),
            milliseconds(level(series, change.first, ends[index + 2])),
            f"{change.first - ends[index]} -> {ends[index + 2] - change.first}",
            "; ".join(changed_with(series, change)) or NOTHING,
        ])  # fmt: skip
    return rows


def _by(share: float) -> str:
    """Return a change as a share; from a factor of ten on as that."""
    return f"{share:+.1%}" if share < 9 else f"{1 + share:.3g} times"


def _drift(seen: Found) -> str:
    fits = f"fits better than {seen.drift_steps} steps" if seen.drift_steps else "is all that can be told: it drifts or wanders"
    return f"{seen.drift:+.1%} from first to last session; a line {fits}; {_noise(seen)}"


def _noise(seen: Found) -> str:
    return f"sessions spread by {seen.spread:.1%}, autocorrelation {seen.autocorrelation:.2f}"


def _side(name: str, side: Side) -> str:
    revisions = ", ".join(dict.fromkeys(str(row.revision) for row in side.rows if row.revision)) or "unknown"
    when = min((row.at for row in side.rows), default="")[:16]
    machines = ", ".join(dict.fromkeys(_machine(row) for row in side.rows))
    earlier = f", {side.earlier} earlier records of the same cells left out" if side.earlier else ""
    rows = number_of(len(side.rows), "row")
    return f"{name}: {side.name}: {rows}{earlier}, {when}, revision {revisions}, on {machines or 'no machine'}"


def _machine(row: Measured) -> str:
    machine, torch = row.conditions.get("machine", {}), row.conditions.get("torch", {}).get("torch")
    model = machine.get("accelerator") or machine.get("cpu_model") or machine.get("cpu brand_raw") or "an unknown processor"
    return f"{model}, torch {torch}" if torch else str(model)


def _pair(pair: Pair) -> list[str]:
    a, b = pair.a, pair.b
    return [
        pair.name,
        pair.call + ("!" if pair.reason else ""),
        NOTHING if pair.ratio is None else f"{pair.ratio:.3f}",
        NOTHING if pair.interval is None else f"{pair.interval[0]:.3f} to {pair.interval[1]:.3f}",
        milliseconds(a.median_s),
        milliseconds(b.median_s),
        NOTHING if a.memory_bytes is None or b.memory_bytes is None else f"{_mib(a.memory_bytes)} -> {_mib(b.memory_bytes)}",
        _top1(a),
        _top1(b),
    ]


def _listed(head: str, names: Sequence[str]) -> str:
    return f"{head} ({len(names)}):\n" + "\n".join(f"- {name}" for name in names)


def _mib(count: float) -> str:
    return f"{count / 2**20:.0f}"


def _top1(row: Measured) -> str:
    if row.top1 is None or row.top1_interval is None:
        return NOTHING
    low, high = (f"{100 * end:.1f}" for end in row.top1_interval)
    return f"{row.top1:.2%} ({low}-{high})"
