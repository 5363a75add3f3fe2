"""What people read first: what passed, what failed and why, what did not deliver, what is to be doubted, what is fastest."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from plumbline.harness.cell import AXES
from plumbline.harness.outcomes import OK, UNAVAILABLE, UNSUPPORTED
from plumbline.harness.readings import value_of
from plumbline.harness.rows import DENSE, Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.realised import EXPLAINED, KEPT, SIZE, shortfalls
from plumbline.harness.views.report.matrix import outcome, why
from plumbline.harness.views.results import settings_of
from plumbline.texts import number_of

_FIGURE = re.compile(r"(?<![\w.])\d+(\.\d+)?(e[+-]?\d+)?%?(?![\w.]*\w)")
SKIPPED = (UNSUPPORTED, UNAVAILABLE)
AGAIN = 1.1  # by which medians of one cell in two sessions may differ without a word


class Reason(Struct, frozen=True):
    """An outcome with its reason, and the cells that ended so."""

    outcome: str
    text: str
    rows: list[Row]


class Choice(Struct, frozen=True):
    """Of a model on a machine: its fastest correct cell, and its dense one in eager fp32, in the smallest batch.

    The latter is of the same session and the same pictures, or None.
    `weights` says where these come from, if the model was measured with several.
    """

    model: str
    weights: str
    image_size: int
    target: str
    batch: int
    fastest: Row
    usual: Row | None


def verdict(rows: Sequence[Row]) -> str:
    """Say in a sentence what became of all cells."""
    if not rows:
        return "Nothing was measured: these runs hold no record."
    counts = Counter(row.outcome for row in rows)
    measured = sum(row.measured for row in rows)
    others = [f"{count} {word.replace('_', ' ')}" for word, count in counts.most_common() if word != OK]
    words = f"{measured} of {number_of(len(rows), 'cell')} passed all checks and were timed"
    counted = counts[OK] - measured
    return "; ".join([words, *([f"{counted} counted only"] if counted else []), *others]) + "."


def delivered(evidence: Evidence) -> str:
    """Say which variants did not become as fast as their MACs promise, of those that were timed in turns with their dense nets.

    Of the rows that are shown. Nothing where no variant was timed so; an emulator's times are of no processor.
    """
    records = evidence.records
    timed = [row for row in evidence.shown if row.speedup is not None and records[row.key].machine.emulator is None]
    short = [row for row in timed if any(word != SIZE for word in shortfalls(records[row.key]))]
    if not timed:
        return ""
    compressed = number_of(len(timed), "compressed cell")
    if not short:
        promised = f"gains less than {KEPT:.0%} of what its MACs promise"
        return f"{compressed} timed in turns with the dense net: none is slower than it, or {promised}."
    worst = min(short, key=lambda row: (row.speedup or 0.0) / (row.theoretical_speedup or 1.0))
    return (
        f"{len(short)} of {compressed} did not deliver: timed in turns with the dense net, they are slower than it, or gain less "
        f"than {KEPT:.0%} of what their MACs promise. The furthest off is {worst.id}: promised {worst.theoretical_speedup:.3g}x, "
        f"realised {worst.speedup:.2f}x."
    )


def undelivered(evidence: Evidence) -> list[Reason]:
    """Group the variants that fall short by what is said of them, and explain it."""
    found: dict[str, list[Row]] = {}
    for row in evidence.shown:
        for word in shortfalls(evidence.records[row.key]):
            found.setdefault(word, []).append(row)
    return [Reason(word, meaning, found[word]) for word, meaning in EXPLAINED.items() if word in found]


def empty_process(rows: Sequence[Row]) -> str:
    """Say what processes held before they built their nets, in MiB; nothing where that is not known."""
    held = [row.process_base_bytes / 2**20 for row in rows if row.process_base_bytes is not None]
    if not held:
        return ""
    ends = dict.fromkeys((f"{min(held):.0f}", f"{max(held):.0f}"))
    return f"An empty process, with Python and its libraries alone, held {' to '.join(ends)} MiB."


def facts(evidence: Evidence) -> dict[str, str]:
    """Say where, when, by what and how it was measured."""
    rows, records = evidence.rows, evidence.records.values()
    days = sorted({row.started_at[:10] for row in rows})
    return {
        name: text
        for name, text in {
            "machine": "; ".join(dict.fromkeys(row.machine for row in rows)),
            "measured": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "",
            "revision of plumbline": ", ".join(dict.fromkeys(str(row.revision) for row in rows)),
            "settings other than usual": "; ".join(dict.fromkeys(filter(None, (settings_of(one.settings) for one in records)))),
            "quiet": quiet(evidence),
            "the same in all cells": ", ".join(
                f"{axis.replace('_', ' ')} {getattr(rows[0], axis)}"
                for axis in AXES
                if axis != "model" and rows and len({getattr(row, axis) for row in rows}) == 1
            ),
        }.items()
        if text
    }


def reasons(rows: Iterable[Row]) -> list[Reason]:
    """Group cells by outcome and reason, the most frequent first; reasons that differ in their figures alone are one."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((outcome(row), _kind(why(row) or "no reason was kept")), []).append(row)
    groups = sorted(found.items(), key=lambda each: -len(each[1]))
    same = {key: {why(row) for row in own} for key, own in groups}
    return [Reason(key[0], why(own[0]) or key[1] if len(same[key]) == 1 else key[1], own) for key, own in groups]


def doubts(rows: Sequence[Row]) -> list[Reason]:
    """Say of which latencies one cannot be sure, and why."""
    found: dict[str, list[Row]] = {}
    said: dict[str, set[str]] = {}
    for row in rows:
        if row.latency_s is None:
            continue
        for text in filter(None, "; ".join(filter(None, (row.disturbed, row.remarks))).split("; ")):
            found.setdefault(_kind(text), []).append(row)
            said.setdefault(_kind(text), set()).add(text)
        if row.vague:
            found.setdefault("the median is known to no better than 10 %", []).append(row)
        if row.steady is False and not row.emulated:
            found.setdefault("the warm-up did not become steady", []).append(row)
        if row.emulated:
            found.setdefault("the processor lacks this arithmetic, which is emulated", []).append(row)
    for own in _measured_again(rows):
        found.setdefault("measured by several sessions, whose medians differ by more than 10 %", []).extend(own)
    alone = {kind: text for kind, (text, *others) in said.items() if not others}
    return [Reason("", alone.get(kind, kind), own) for kind, own in found.items()]


def _measured_again(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each cell that several sessions measured on a machine, with the same weights, and not alike."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.measured:
            cells.setdefault((row.machine_id, row.weights, *(getattr(row, axis) for axis in AXES)), []).append(row)
    for own in cells.values():
        medians = [row.latency_s or 0.0 for row in own]
        if max(medians) > AGAIN * min(medians):
            yield own


def doubted(rows: Sequence[Row], found: Sequence[Reason]) -> str:
    """Say how many latencies are in doubt, each counted once."""
    keys = {row.key for reason in found for row in reason.rows}
    several = " (some for several reasons)" if sum(len(reason.rows) for reason in found) > len(keys) else ""
    return f"Latencies to doubt: {len(keys)} of {sum(row.latency_s is not None for row in rows)}{several}"


def quiet(evidence: Evidence) -> str:
    """Say how much others took at most while cells were timed, of what could be read; nothing where none was."""
    latencies = [record.latency for record in evidence.records.values() if record.latency is not None]
    words = {"others": "other processes had {:.1%} of the processors at most", "cpu_steal": "the hypervisor took {:.1%} at most"}
    said = []
    for name, text in words.items():
        read = [value for latency in latencies if (value := value_of(latency.disturbance, name)) is not None]
        said += [text.format(max(read))] if read else []
    disturbed = sum(bool(latency.disturbed) for latency in latencies)
    return "; ".join([*said, f"{disturbed} of {len(latencies)} latencies disturbed"]) if said else ""


def _kind(text: str) -> str:
    """Return a remark without its figures, so that alike ones stand together."""
    return _FIGURE.sub("…", text)


def choices(rows: Sequence[Row]) -> list[Choice]:
    """Return the fastest correct cell of each model, by origin of its weights, picture size and target, in the smallest batch.

    An emulated cell is none of the processor's. Latencies of one session were not taken in turns, so that close ones may be in
    another order; the page says that.
    """
    groups: dict[tuple[str, int, str, str], list[Row]] = {}
    for row in rows:
        if row.measured and not row.emulated:
            groups.setdefault((row.model, row.image_size, row.target, row.weights or ""), []).append(row)
    times = Counter((model, size, target) for model, size, target, _ in groups)
    found = []
    for (model, size, target, weights), own in groups.items():
        batch = min(row.batch for row in own)
        alike = [row for row in own if row.batch == batch]
        fastest = min(alike, key=lambda row: row.latency_s or math.inf)
        usual = [
            row
            for row in alike
            if (row.variant, row.runtime, row.precision) == (DENSE, "eager", "fp32")
            and (row.session, row.data) == (fastest.session, fastest.data)  # else the two say nothing of each other
        ]
        told = weights if times[model, size, target] > 1 else ""
        found.append(Choice(model, told, size, target, batch, fastest, usual[-1] if usual else None))
    return sorted(found, key=lambda choice: choice.fastest.latency_s or math.inf)
