"""How a net scales: by batch, by picture size, by its own options; and how much longer its first inference takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from plumbline.harness.cell import shown_model
from plumbline.harness.outcomes import CRASHED, FAILED, OUT_OF_MEMORY, TIMED_OUT
from plumbline.harness.rows import QUANTITIES, Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.pictures.drawing import (
    GREY,
    HREF,
    PANEL,
    WIDTH,
    elsewhere,
    emulated,
    in_common,
    inline,
    kept,
    link,
    of_cells,
    picture,
    styles_of,
    told,
    told_apart,
)
from plumbline.models.model import split

UNFIT = (OUT_OF_MEMORY, TIMED_OUT, CRASHED, FAILED)
AXES = {
    "batch": ("batches", "How do throughput, latency and memory grow with the batch?", "batch, images"),
    "image_size": ("picture-sizes", "How do throughput, latency and memory grow with the picture?", "picture, pixels"),
}
SHOWN = ("images_per_s", "latency_s", "inference_bytes")
SWEPT = ("latency_s", "image_s", "first_s", "top1")  # of an option; the second where a batch has several images
SERIES = 8  # lines
OTHER_AXES = ("model", "variant", "runtime", "precision", "batch", "image_size", "target", "machine_id")


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw both axes on which a net scales, each option of a model that was swept, and first inferences."""
    rows = [row for row in evidence.shown if not row.emulated]
    without = emulated(evidence.shown)
    found: list[Picture] = []
    for axis in AXES:
        found += _by_axis(rows, axis, without)
    return [*found, *_sweeps(rows, without), *_first(rows, without)]


def _by_axis(rows: Sequence[Row], axis: str, without: str) -> Iterator[Picture]:
    name, title, across = AXES[axis]
    series: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.measured or row.outcome in UNFIT:
            series.setdefault(tuple(getattr(row, other) for other in OTHER_AXES if other != axis), []).append(row)
    swept = [own for own in series.values() if len({getattr(row, axis) for row in own}) > 1 and any(row.measured for row in own)]
    largest = sorted(swept, key=lambda own: -len({getattr(row, axis) for row in own}))[:SERIES]
    if not largest:
        return
    drawn = [row for own in largest for row in own]
    said = _told_apart([own[0] for own in largest], axis)
    names = {row.key: text for own, text in zip(largest, said) for row in own}
    values = [
        {
            "key": row.key, "link": link(row), "id": row.id, "outcome": row.outcome,
            "series": names[row.key], "x": getattr(row, axis),
            **{quantity: None if getattr(row, quantity) is None else getattr(row, quantity) / QUANTITIES[quantity].scale
               for quantity in SHOWN},
        }
        for row in drawn
    ]  # fmt: skip
    apart = told_apart("series", styles_of(said), "net, run as", columns=2)
    panels = [
        _panel(f"{name}_{quantity}", values, quantity, across, apart)
        for quantity in SHOWN
        if any(value[quantity] is not None for value in values)
    ]
    unfit = sum(row.outcome in UNFIT for row in drawn)
    yield picture(
        name,
        title,
        alt.hconcat(*panels),
        [row for row in drawn if row.measured],
        in_common(drawn),
        "All axes are logarithmic.",
        f"A cross at the top is a cell that did not fit, or failed: {unfit} of them." if unfit else "",
        without,
        elsewhere(sum(map(len, swept)) - len(drawn), "cell", "of shorter lines"),
    )


def _panel(name: str, values: Sequence[dict[str, Any]], quantity: str, across: str, apart: dict[str, Any]) -> Any:
    up = f"{QUANTITIES[quantity].title}, {QUANTITIES[quantity].unit}"
    ends = sorted({value["x"] for value in values})
    x = alt.X(
        "x:Q", title=across, scale=alt.Scale(type="log", base=2, nice=False, padding=12), axis=alt.Axis(values=ends, format="d")
    )
    y = alt.Y(f"{quantity}:Q", title=up, scale=alt.Scale(type="log", nice=False, padding=14))
    tip = told(("id", "cell", ""), ("x", across, "d"), (quantity, up, ".4g"))
    known = [value for value in values if value[quantity] is not None]
    base = alt.Chart(inline(name, known)).encode(x=x, y=y)
    layers: list[Any] = []
    if unfit := [value for value in values if value["outcome"] in UNFIT]:
        marks = alt.Chart(inline(f"{name}_unfit", unfit)).mark_point(shape="cross", angle=45, size=90, filled=True)
        told_of = told(("id", "cell", ""), ("outcome", "outcome", ""))
        layers.append(marks.encode(x=x, y=alt.value(4), color=apart["color"], tooltip=told_of, **HREF))
    lines = base.mark_line(opacity=0.5).encode(color=apart["color"], detail="series:N")
    points = base.mark_point(filled=True, size=60).encode(tooltip=tip, **apart, **HREF)
    return alt.layer(lines, points, *layers).properties(width=PANEL, height=240)


def _told_apart(rows: Sequence[Row], axis: str) -> list[str]:
    """Name lines by what differs between them, the model always."""
    own = ["machine" if other == "machine_id" else other for other in OTHER_AXES if other != axis]
    axes = [other for other in own if other == "model" or len({getattr(row, other) for row in rows}) > 1]
    marks = {"batch": "b{}", "image_size": "{} px", "machine": "on {}"}
    said = [" ".join(_said(row, other, marks) for other in axes) for row in rows]
    return said if len(set(said)) == len(said) else [f"{text} ({row.key})" for text, row in zip(said, rows)]


def _said(row: Row, axis: str, marks: dict[str, str]) -> str:
    return shown_model(row.model) if axis == "model" else marks.get(axis, "{}").format(getattr(row, axis))


def _sweeps(rows: Sequence[Row], without: str) -> Iterator[Picture]:
    """Draw latency, first inference and accuracy by each option of a model that has three values at least, as depth and width.

    On one machine and target, in one picture size and on one set of pictures: of the groups that are alike, the largest one.
    """
    swept: dict[tuple[str, str], list[tuple[float, str, Row]]] = {}
    for row in rows:
        if row.measured:
            for option, value, rest in _options(row.model):
                swept.setdefault((split(row.model)[0], option), []).append((value, rest, row))
    for (model, option), found in swept.items():
        groups: dict[tuple[Any, ...], list[tuple[float, str, Row]]] = {}
        for value, rest, row in found:
            if (row.variant, row.runtime, row.precision) == ("dense", "eager", "fp32"):
                key = (row.batch, row.image_size, row.target, row.machine_id, row.session, row.data)
                groups.setdefault(key, []).append((value, rest, row))
        usual = max(groups.values(), key=lambda own: len({value for value, _, _ in own}), default=[])
        if len({value for value, _, _ in usual}) < 3:
            continue
        names = kept(rest for _, rest, _ in usual)
        values = [
            {
                "key": row.key, "link": link(row), "id": row.id, "rest": names[rest], "x": value,
                **{quantity: None if getattr(row, quantity) is None else getattr(row, quantity) / QUANTITIES[quantity].scale
                   for quantity in SWEPT},
            }
            for value, rest, row in usual
        ]  # fmt: skip
        apart = told_apart("rest", styles_of(names.values()), "with")
        panels = [
            _of_option(f"{model}_{option}_{quantity}", values, quantity, option, apart)
            for quantity in SWEPT
            if any(value[quantity] is not None for value in values) and (quantity != "image_s" or usual[0][2].batch > 1)
        ]
        drawn = [row for _, _, row in usual]
        data = drawn[0].data
        yield picture(
            f"{model}-{option}",
            f"What does the {option.replace('_', ' ')} of {model} change?",
            alt.concat(*panels, columns=2),
            drawn,
            in_common(drawn),
            f"Accuracy on {data}." if data else "",
            without,
            elsewhere(len(found) - len(usual), "cell", "in other batches, sizes, runtimes, precisions, sessions and places"),
        )


def _options(model: str) -> Iterator[tuple[str, float, str]]:
    """Return each numeric option of a model's name, its value, and what else the name says."""
    _, *settings = split(model)
    for setting in settings:
        option, _, text = setting.partition("=")
        if text.replace(".", "", 1).isdigit():
            yield option, float(text), " ".join(other for other in settings if other != setting) or "nothing else"


def _of_option(name: str, values: Sequence[dict[str, Any]], quantity: str, option: str, apart: dict[str, Any]) -> Any:
    up = f"{QUANTITIES[quantity].title}, {QUANTITIES[quantity].unit}"
    kind = {"zero": False} if quantity == "top1" else {"type": "log", "nice": False}
    x = alt.X("x:Q", title=option.replace("_", " "), scale=alt.Scale(zero=False, padding=12, nice=False))
    y = alt.Y(f"{quantity}:Q", title=up, scale=alt.Scale(padding=12, **kind))
    base = alt.Chart(inline(name, [value for value in values if value[quantity] is not None])).encode(x=x, y=y)
    tip = told(("id", "cell", ""), ("x", option, "g"), (quantity, up, ".4g"))
    return alt.layer(
        base.mark_line(opacity=0.5).encode(color=apart["color"]),
        base.mark_point(filled=True, size=60).encode(tooltip=tip, **apart, **HREF),
    ).properties(width=PANEL + 40, height=240)


def _first(rows: Sequence[Row], without: str) -> Iterator[Picture]:
    drawn = [row for row in rows if row.measured and row.first_s]
    if len(drawn) < 3:
        return
    alone = len({(row.machine_id, row.target) for row in drawn}) == 1
    run_by = {row.key: row.runtime if alone else f"{row.runtime} on {row.target}, {row.machine}" for row in drawn}
    names = kept(run_by.values())
    more = {key: {"run_by": names[text]} for key, text in run_by.items()}
    both = [seconds * 1e3 for row in drawn for seconds in (row.first_s or 0, row.latency_s or 0)]
    ends = [{"x": end, "y": end} for end in (min(both), max(row.latency_s or 0 for row in drawn) * 1e3)]
    across, up = "latency (median), ms", "first inference, ms"
    x = alt.X("x:Q", title=across, scale=alt.Scale(type="log", nice=False, padding=12))
    y = alt.Y("y:Q", title=up, scale=alt.Scale(type="log", nice=False, padding=12))
    points = of_cells(alt.Chart().mark_point(filled=True, size=60, opacity=0.85), "first_points", more)
    points = points.transform_calculate(x="datum.latency_s * 1e3", y="datum.first_s * 1e3").encode(
        x=x, y=y, tooltip=told(("id", "cell", ""), ("x", across, ".4g"), ("y", up, ".4g")),
        **told_apart("run_by", styles_of(names.values()), "runtime"), **HREF,
    )  # fmt: skip
    line = alt.Chart(inline("first_line", ends)).mark_line(color=GREY, strokeDash=[5, 4]).encode(x=x, y=y)
    yield picture(
        "first-inference",
        "How much longer does the first inference take?",
        alt.layer(line, points).properties(width=WIDTH, height=320),
        drawn,
        in_common(drawn),
        without,
        "Both axes are logarithmic. On the dashed line the very first inference of a process is as fast as the later ones.",
    )
