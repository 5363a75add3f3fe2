"""Several devices beside each other: the same cells, all axes but the target, as multiples of the first device's latency."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import altair as alt
from msgspec.structs import replace

from plumbline.harness.cell import AXES
from plumbline.harness.rows import Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.changes import hardware
from plumbline.harness.verdicts.comparison import ratio_of_medians
from plumbline.harness.views.report.picture import COLOURS, Picture
from plumbline.harness.views.report.pictures.drawing import (
    GREY,
    HREF,
    STEP,
    WIDTH,
    beyond,
    elsewhere,
    in_common,
    inline,
    kept,
    labels,
    logarithmic,
    named,
    of_cells,
    or_unavailable,
    picture,
    ratio_axis,
    styles_of,
    told,
    told_apart,
)
from plumbline.texts import number_of

SHOWN = 40  # cells
REST = [axis for axis in AXES if axis != "target"]
Same = tuple[Any, ...]  # what a cell is, without its target


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw the cells that several devices have measured."""
    return list(_side_by_side(evidence))


def _side_by_side(evidence: Evidence) -> Iterator[Picture]:
    able = [row for row in evidence.shown if row.measured]
    emulated = {row.key for row in able if evidence.records[row.key].machine.emulator is not None}
    found: dict[Same, dict[str, Row]] = {}
    devices: dict[str, int] = {}
    for row in sorted((row for row in able if row.key not in emulated), key=lambda row: row.started_at):
        device = _device(evidence, row)
        devices[device] = devices.get(device, 0) + 1
        found.setdefault(tuple(getattr(row, axis) for axis in REST), {})[device] = row  # the last one that it has measured
    if len(devices) < 2:
        return
    first = max(devices, key=lambda device: sum(device in of for of in found.values()))
    common = {same: of for same, of in found.items() if first in of and len(of) > 1}
    if not common:
        return
    chosen = dict(sorted(common.items(), key=lambda item: -_spread(item[1]))[:SHOWN])
    names = kept(device for of in common.values() for device in of)
    names[first] = first
    yield _picture(evidence, first, chosen, names, _summary(first, common), [
        elsewhere(len(common) - len(chosen), "cell", "whose ratios differ least"),
        f"{number_of(len(found) - len(common), 'cell')} of one device alone left out." if len(found) > len(common) else "",
        f"{number_of(len(emulated), 'cell')} of an emulator left out, as its times are of no processor." if emulated else "",
    ])  # fmt: skip


def _device(evidence: Evidence, row: Row) -> str:
    """Name the machine by its hardware, as its software may differ from session to session, and the target."""
    return f"{hardware(evidence.records[row.key].machine)}: {row.target}"


def _spread(of: Mapping[str, Row]) -> float:
    seconds = [row.latency_s or 0.0 for row in of.values()]
    return math.log(max(seconds) / min(seconds))


def _picture(
    evidence: Evidence,
    first: str,
    chosen: Mapping[Same, Mapping[str, Row]],
    names: Mapping[str, str],
    summary: str,
    left_out: Sequence[str],
) -> Picture:
    of_first = [of[first] for of in chosen.values()]
    texts = labels([_anywhere(row) for row in of_first])
    more: dict[str, dict[str, Any]] = {}
    for of in chosen.values():
        for device, row in of.items():
            ratio, interval = _ratio(of[first], row)
            low, high = interval or (None, None)
            more[row.key] = {"ratio": ratio, "low": low, "high": high, "device": names[device], "full": device,
                             "label": texts[of[first].key]}  # fmt: skip
    apart = told_apart("device", styles_of([first, *names.values()]), "device", columns=1)
    y = named("label", [texts[row.key] for row in of_first])
    ends = [end for each in more.values() for end in (each["low"], each["ratio"], each["high"]) if end is not None]
    x = alt.X("ratio:Q", title="latency, times the first device's", scale=logarithmic(ends), axis=ratio_axis(ends))
    one = alt.Chart(inline("one", [{"one": 1}])).mark_rule(color=GREY).encode(x=alt.X("one:Q"))
    tip = told(("id", "cell", ""), ("full", "device", ""), ("ms", "latency, ms", ""), ("ratio", "times the first", ".3~g"),
               ("ends", "95 % interval", ""))  # fmt: skip
    layers = alt.layer(
        one,
        alt.Chart().mark_rule(strokeWidth=2, opacity=0.8).transform_filter("isValid(datum.low)").encode(
            x=alt.X("low:Q"), x2="high:Q", y=y, color=apart["color"]
        ),
        alt.Chart().mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, tooltip=tip, **apart, **HREF),
    ).properties(width=WIDTH, height=alt.Step(STEP))  # fmt: skip
    chart = of_cells(layers, "devices", more).transform_calculate(
        ms=or_unavailable("latency_s", ".4~g", "1000"),
        ends="isValid(datum.low) ? format(datum.low, '.3~g') + ' to ' + format(datum.high, '.3~g') : 'unavailable'",
    )
    rows = [row for row in evidence.shown if row.key in more]
    bars = any(each["low"] is not None for each in more.values())
    return picture(
        "devices",
        "Which device runs the same cell how many times as long?",
        chart,
        rows,
        f"Each row is one cell, with one precision, batch and image size; the first device is {first}. Logarithmic.",
        "Bars are the 95 % intervals of the ratio of medians (Zou and Donner 2008)." if bars else "",
        "One name of a target may be several machines, so that a device is a machine's hardware and its target; of each the last "
        "session counts.",
        summary,
        beyond(evidence),
        in_common([_anywhere(row) for row in of_first]),
        *left_out,
    )


def _anywhere(row: Row) -> Row:
    """Return a row without its target, which the colour tells."""
    return replace(row, target="")


def _ratio(base: Row, row: Row) -> tuple[float, tuple[float, float] | None]:
    assert base.latency_s is not None and row.latency_s is not None
    if base is row:
        return 1.0, None
    ends = [(each.latency_low_s, each.latency_high_s) for each in (base, row)]
    (a, b), (c, d) = ends
    if a is None or b is None or c is None or d is None:
        return row.latency_s / base.latency_s, None
    return ratio_of_medians(base.latency_s, (a, b), row.latency_s, (c, d))


def _summary(first: str, common: Mapping[Same, Mapping[str, Row]]) -> str:
    """Say the typical ratio of each device over all cells that it shares with the first one."""
    ratios: dict[str, list[float]] = {}
    for of in common.values():
        for device, row in of.items():
            if device != first:
                ratios.setdefault(device, []).append(_ratio(of[first], row)[0])
    most = sorted(ratios.items(), key=lambda item: -len(item[1]))[: len(COLOURS) - 1]
    told = [f"{device}: {median(found):.3g} times, in the median of {number_of(len(found), 'cell')}" for device, found in most]
    return f"{'; '.join(told)}."
