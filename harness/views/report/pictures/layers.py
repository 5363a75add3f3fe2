"""Where the time of an inference goes, layer by layer, and what a variant does differently from its dense parent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from plumbline.harness.facts import Part
from plumbline.harness.record import Record
from plumbline.harness.rows import Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.layers import EVERYTHING_ELSE, by_layer, compared, summary
from plumbline.harness.views.report.picture import COLOURS, Picture
from plumbline.harness.views.report.pictures.drawing import (
    GREY,
    HREF,
    beyond,
    counted,
    inline,
    link,
    named,
    or_unavailable,
    picture,
    sentence,
    told,
    told_apart,
)
from plumbline.texts import number_of

CELLS_SHOWN, PAIRS_SHOWN, ROWS = 4, 4, 30
OWN, PARENT = "this cell", "its dense parent"
WHOLE = "(the model itself)"  # a layer without a name


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw where the time of the fastest cell of each model goes, and what variants save in which layer."""
    known = [row for row in evidence.shown if _parts(evidence.records[row.key])]
    unknown = [record.layers.unavailable for record in evidence.records.values() if record.layers and record.layers.unavailable]
    silent = f"Of {number_of(len(unknown), 'cell')} it is not known: {counted(unknown)}." if unknown else ""
    return [*_spent(evidence, known, silent), *_differences(evidence, known)]


def _parts(record: Record) -> Sequence[Part]:
    return [] if record.layers is None or not record.layers.sum_s else record.layers.parts


def _spent(evidence: Evidence, known: Sequence[Row], silent: str) -> Iterator[Picture]:
    fastest: dict[str, Row] = {}
    for row in sorted((row for row in known if row.image_s is not None), key=lambda row: row.image_s or 0.0):
        fastest.setdefault(row.model, row)
    chosen = sorted(fastest.values(), key=lambda row: -(row.latency_s or 0.0))[:CELLS_SHOWN]
    others = len(known) - len(chosen)
    left_out = f"Drawn is the fastest cell of each model, of {CELLS_SHOWN} models at most; plumbline layers prints {others} more."
    for row in chosen:
        record = evidence.records[row.key]
        rows, rest = _largest(_layers(record, link(row)))
        assert record.layers is not None
        yield picture(
            f"layers-{row.key}",
            f"Where does the time of {row.id} go?",
            _bars(f"layers_{row.key}", rows),
            [row],
            "One inference by the runtime's own account, in the order in which the layers ran.",
            "What belongs to no layer of the model stands under its operator, in brackets."
            if any(one["layer"].startswith("(") for one in rows)
            else "",
            rest,
            sentence(summary(record.layers)),
            left_out if others else "",
            beyond(evidence),
            silent,
        )


def _layers(record: Record, where: str | None) -> list[dict[str, Any]]:
    """Return what each layer takes, and under the operator's name what belongs to none."""
    assert record.layers is not None
    seconds = by_layer(record)
    found: dict[str, dict[str, Any]] = {}
    for part in record.layers.parts:
        name = part.layer or f"({part.operator})"
        one = found.setdefault(name, {"layer": name, "seconds": seconds.get(name, 0.0), "macs": None, "parts": 0, "link": where})
        one["parts"] += 1
        if not part.layer:  # of none, or the model itself
            one["seconds"] += part.seconds
        elif part.macs:
            one["macs"] = max(one["macs"] or 0, part.macs)  # a layer in several parts: each of them has all of its MACs
    whole, batch = record.layers.sum_s or 1.0, record.cell.batch
    for one in found.values():
        one["share"] = one["seconds"] / whole
        one["macs_per_s"] = one["macs"] * batch / one["seconds"] if one["macs"] and one["seconds"] else None
    return list(found.values())


def _largest(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return the rows that take most, in the order that they have, and what the others take."""
    if len(rows) <= ROWS:
        return rows, ""
    large = sorted(rows, key=lambda one: -one["seconds"])[:ROWS]
    rest = [one for one in rows if one not in large]
    seconds = sum(one["seconds"] for one in rest)
    return [
        one for one in rows if one in large
    ], f"{len(rest)} more layers take {seconds * 1e3:.3g} ms together, and are left out."


def _bars(name: str, rows: Sequence[dict[str, Any]]) -> Any:
    order = [one["layer"] for one in rows]
    tip = told(("layer", "layer", ""), ("ms", "ms", ".3~f"), ("share", "share", ".1%"), ("mac", "MACs of an image", ""),
               ("rate", "GMAC/s", ""), ("parts", "parts", "d"))  # fmt: skip
    bars = alt.Chart().properties(height=alt.Step(16))
    time = bars.mark_bar(color=COLOURS[0]).encode(
        x=alt.X("ms:Q", title="time (ms)"), y=named("layer", order, labelLimit=200), tooltip=tip, **HREF
    )
    macs = (
        bars.mark_bar(color=COLOURS[1])
        .transform_filter("isValid(datum.macs)")
        .encode(
            x=alt.X("mmac:Q", title="MACs of an image (M)"),
            y=alt.Y(
                field="layer", type="nominal", scale=alt.Scale(domain=order), axis=alt.Axis(labels=False, ticks=False, title=None)
            ),
            tooltip=tip,
            **HREF,
        )
    )
    sides = [time.properties(width=260), macs.properties(width=160)] if any(one["macs"] for one in rows) else [time]
    return alt.hconcat(*sides, data=inline(name, rows)).transform_calculate(
        ms="datum.seconds * 1000", mmac="datum.macs / 1000000", mac=or_unavailable("macs", ".3s"),
        rate=or_unavailable("macs_per_s", ".3~g", "1e-9"),
    )  # fmt: skip


def _differences(evidence: Evidence, known: Sequence[Row]) -> Iterator[Picture]:
    pairs = [(row, parent) for row in known if (parent := _parent(row, known)) is not None]
    found = {row.key: compared(evidence.records[row.key], evidence.records[parent.key]) for row, parent in pairs}
    pairs.sort(key=lambda pair: -_relative(found[pair[0].key][-1]))
    for row, parent in pairs[:PAIRS_SHOWN]:
        *layers, whole = found[row.key]
        rows: list[dict[str, Any]] = [
            {"layer": name or WHOLE, "seconds": own, "against": against, "link": link(row)} for name, own, against in layers
        ]
        large = sorted(rows, key=lambda one: -abs(one["seconds"] - one["against"]))[:ROWS]
        shown = [one for one in rows if one in large]
        sums = f"The sum is {whole[1] * 1e3:.3g} ms, and {whole[2] * 1e3:.3g} ms of the parent."
        yield picture(
            f"layers-{row.key}-and-parent",
            f"In which layers does {row.id} differ from its dense parent?",
            _dumbbells(f"difference_{row.key}", shown),
            [row, parent],
            "Both by the account of one runtime.",
            f"“{EVERYTHING_ELSE}” belongs to no layer of both." if any(one["layer"] == EVERYTHING_ELSE for one in shown) else "",
            sums,
            f"{len(rows) - len(shown)} layers that differ less are left out." if len(rows) > len(shown) else "",
            f"{len(pairs) - PAIRS_SHOWN} more variants were looked into, whose sums differ less."
            if len(pairs) > PAIRS_SHOWN
            else "",
        )


def _parent(row: Row, known: Sequence[Row]) -> Row | None:
    """Return the dense parent of a variant on the same machine: of the same session, or the last one before."""
    same = [other for other in known if other.id == row.parent and other.machine_id == row.machine_id]
    return max(same, key=lambda other: (other.session == row.session, other.started_at), default=None)


def _relative(whole: tuple[str, float, float]) -> float:
    return abs(whole[1] - whole[2]) / max(whole[2], 1e-12)


def _dumbbells(name: str, rows: Sequence[dict[str, Any]]) -> Any:
    order = [one["layer"] for one in rows]
    tip = told(("layer", "layer", ""), ("ms", f"{OWN}, ms", ".3~f"), ("other_ms", f"{PARENT}, ms", ".3~f"),
               ("difference", "difference, ms", "+.3~f"))  # fmt: skip
    y = named("layer", order, labelLimit=200)
    apart = told_apart("which", {OWN: 0, PARENT: 1}, "time of the layer in")
    between = alt.Chart().mark_rule(color=GREY, strokeWidth=2).encode(x=alt.X("ms:Q", title="time (ms)"), x2="other_ms:Q", y=y)
    ends = alt.Chart().mark_point(filled=True, size=70, opacity=1).transform_fold(["ms", "other_ms"], as_=["end", "time"])
    ends = ends.transform_calculate(which=f"datum.end == 'ms' ? '{OWN}' : '{PARENT}'")
    chart = alt.layer(
        between, ends.encode(x=alt.X("time:Q"), y=y, tooltip=tip, **apart, **HREF), data=inline(name, rows)
    ).properties(width=400, height=alt.Step(16))  # fmt: skip
    return chart.transform_calculate(
        ms="datum.seconds * 1000", other_ms="datum.against * 1000", difference="(datum.seconds - datum.against) * 1000"
    )
