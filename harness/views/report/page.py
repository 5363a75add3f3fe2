"""A report as one page: the verdict, what to take, the matrix, the pictures, and the record behind each row.

Everything is in the file. Scripts are allowed by their hashes alone, and nothing may be fetched (a content security policy). What
runs said reaches the page as text: through the template, which escapes it, and as data, which scripts set as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs
from msgspec.structs import replace

from plumbline.harness import messages
from plumbline.harness.cell import AXES, shown_model
from plumbline.harness.facts import Timing
from plumbline.harness.outcomes import OK, UNAVAILABLE, UNSUPPORTED
from plumbline.harness.readings import value_of
from plumbline.harness.record import Record
from plumbline.harness.rows import DENSE, QUANTITIES, Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views import gate as gate_view
from plumbline.harness.views.report import assets
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.results import settings_of
from plumbline.texts import number_of

FOLDER = Path(__file__).parent
QUANTILES = 64  # of samples, in place of all of them
LONGEST = 64  # other lists of a record, as telemetry: so many of their values are shown, evenly
FEWER = 16  # quantiles of inferences with transfers
_LONG = re.compile(rb"(\.0*[1-9]\d{5})\d+")  # a number in JSON with more digits than anybody reads
_FIGURE = re.compile(r"(?<![\w.])\d+(\.\d+)?(e[+-]?\d+)?%?(?![\w.]*\w)")
SKIPPED = (UNSUPPORTED, UNAVAILABLE)
NAMED = 12  # cells that are named behind a reason
AGAIN = 1.1  # by which medians of one cell in two sessions may differ without a word
COUNTED = "counted only"
HEADS = {"image_size": "px"}
COLUMNS = (
    "latency_s", "p90_s", "p99_s", "first_s", "end_to_end_s", "images_per_s", "top1", "accuracy_loss", "error", "macs",
    "effective_macs", "parameters", "inference_bytes", "process_bytes", "stored_bytes", "joules", "theoretical_speedup",
    "speedup",
)  # fmt: skip


class Shown(Struct, frozen=True):
    """A cell of a table: what is read, and the number by which it is sorted."""

    text: str = ""
    value: float | None = None
    doubt: str = ""


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


def page(evidence: Evidence, pictures: Sequence[Picture], title: str) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader

    rows = evidence.shown
    axes = [axis for axis in AXES if axis == "model" or len({getattr(row, axis) for row in rows}) > 1]
    columns = [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]
    tables, style = assets.datatables()
    scripts = [_inline(assets.vega()), _inline(f"{tables}\n{(FOLDER / 'page.js').read_text()}")]
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.j2").render(
        title=title,
        policy=_policy(scripts),
        scripts=scripts,
        styles=[style, (FOLDER / "page.css").read_text()],
        data=_packed(evidence, pictures),
        evidence=evidence,
        rows=rows,
        facts=facts(evidence),
        verdict=verdict(evidence.rows),
        failed=reasons(row for row in evidence.rows if row.outcome != OK and row.outcome not in SKIPPED),
        skipped=reasons(row for row in evidence.rows if row.outcome in SKIPPED),
        doubts=doubts(evidence.rows),
        gates=[gate_view.summary(report) for report in evidence.gates],
        choices=choices(rows),
        axes=axes,
        heads={**{axis: HEADS.get(axis, axis.replace("_", " ")) for axis in AXES}, **{name: head(name) for name in QUANTITIES}},
        columns=columns,
        values={axis: sorted({getattr(row, axis) for row in rows}, key=lambda value: (str(type(value)), value)) for axis in AXES},
        outcomes=sorted({outcome(row) for row in rows}),
        outcome=outcome,
        shown=shown,
        shown_model=shown_model,
        pictures=pictures,
        number_of=number_of,
        named=NAMED,
        link=lambda row: f"#{row.key}" if row.key in evidence.records else None,
    )


def verdict(rows: Sequence[Row]) -> str:
    """Say in a sentence what became of all cells."""
    if not rows:
        return "Nothing was measured: these runs hold no record."
    counts = Counter(row.outcome for row in rows)
    measured = sum(row.measured for row in rows)
    others = [f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.most_common() if outcome != OK]
    words = f"{measured} of {number_of(len(rows), 'cell')} passed all checks and were timed"
    counted = counts[OK] - measured
    return "; ".join([words, *([f"{counted} counted only"] if counted else []), *others]) + "."


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
        found.setdefault((row.outcome, _kind(row.reason or "no reason was kept")), []).append(row)
    groups = sorted(found.items(), key=lambda each: -len(each[1]))
    same = {key: {row.reason for row in own} for key, own in groups}
    return [Reason(key[0], own[0].reason or key[1] if len(same[key]) == 1 else key[1], own) for key, own in groups]


def doubts(rows: Sequence[Row]) -> list[Reason]:
    """Say of which latencies one cannot be sure, and why."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.latency_s is None:
            continue
        for text in filter(None, "; ".join(filter(None, (row.disturbed, row.remarks))).split("; ")):
            found.setdefault(_kind(text), []).append(row)
        if row.vague:
            found.setdefault("the median is known to no better than 10 %", []).append(row)
        if row.steady is False and not row.emulated:
            found.setdefault("the warm-up did not become steady", []).append(row)
        if row.emulated:
            found.setdefault("the processor lacks this arithmetic, which is emulated", []).append(row)
    for own in _measured_again(rows):
        found.setdefault("measured by several sessions, whose medians differ by more than 10 %", []).extend(own)
    return [Reason("", text, own) for text, own in found.items()]


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


def outcome(row: Row) -> str:
    """Return the outcome of a row as people see it: what is only counted was not timed, and is another thing."""
    return COUNTED if row.outcome == OK and not row.measured else row.outcome


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


def head(name: str) -> str:
    """Return the head of a column, with its unit."""
    quantity = QUANTITIES[name]
    return f"{quantity.title}, {quantity.unit}" if quantity.unit else quantity.title


def shown(row: Row, name: str) -> Shown:
    """Return a number of a row as it is read, in the unit of its column."""
    value = getattr(row, name)
    if value is None:
        return Shown("untrained") if name == "top1" and row.measured and row.weights == "seeded" else Shown()
    scale = QUANTITIES[name].scale
    text, doubt = number(value / scale), ""
    if name == "latency_s" and row.latency_low_s is not None and row.latency_high_s is not None:
        if row.vague:
            text = f"{number(row.latency_low_s / scale)}–{number(row.latency_high_s / scale)}"
        else:
            doubt = f"±{(row.latency_high_s - row.latency_low_s) / 2 / value:.1%}"
    if name == "latency_s":
        text += row.latency_marks
    if name == "top1" and row.top1_low is not None and row.top1_high is not None:
        text = f"{value / scale:.2f}"
        doubt = f"{row.top1_low / scale:.1f}–{row.top1_high / scale:.1f} of {row.images}"
    if name == "inference_bytes" and row.inference_is_bound:
        text = f"≤{text}"
    if name == "joules":
        text = f"≈{text}" if row.energy_is_estimate else text
        if row.joules_low is not None and row.joules_high is not None:
            doubt = f"{number(row.joules_low / scale)}–{number(row.joules_high / scale)}"
    if name == "speedup" and row.speedup_low is not None and row.speedup_high is not None:
        doubt = f"{row.speedup_low:.2f}–{row.speedup_high:.2f}"
    return Shown(text, value, doubt)


def number(value: float) -> str:
    """Return three digits, of a thousand and more all of them."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _policy(scripts: Sequence[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    sources = {"default-src": "'none'", "script-src": allowed, "style-src": "'unsafe-inline'", "img-src": "data:"}
    return "; ".join(f"{name} {value}" for name, value in {**sources, "base-uri": "'none'", "form-action": "'none'"}.items())


def _inline(script: str) -> str:
    """Return a script as it may stand in a page: nothing in it ends the element (HTML, 'Restrictions for contents of script')."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _packed(evidence: Evidence, pictures: Sequence[Picture]) -> str:
    """Return what scripts read, compressed: cells, charts, and records by key, in six digits."""
    data = {
        "cells": [{**_known(structs.asdict(row)), "link": f"#{row.key}"} for row in evidence.shown],
        "pictures": {picture.name: picture.specification for picture in pictures},
        "records": {key: brief(record) for key, record in evidence.records.items()},
    }
    text = messages.encode(data).replace(b'"samples_s":', b'"quantiles_s":')
    return base64.b64encode(gzip.compress(_LONG.sub(lambda found: found[1], text), 8, mtime=0)).decode()


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
