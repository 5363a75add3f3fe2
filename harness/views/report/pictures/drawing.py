"""What drawings share: the data of cells, labels that say no more than what differs, categories by colour and shape."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
from msgspec import json

from plumbline.harness.cell import AXES, id_of, shown_model
from plumbline.harness.rows import Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report.picture import CELLS, COLOURS, SHAPES, Picture, where_and_when
from plumbline.texts import number_of

WIDTH, PANEL, STEP = 560, 250, 26  # pixels: of a chart, of one of several beside each other, of a row with two lines of label
GREY = COLOURS[6]
OTHER = "other"
Values = Mapping[str, Any]


def picture(name: str, title: str, chart: Any, rows: Sequence[Row], *words: str) -> Picture:
    """Make a picture of a chart; its caption says where and when the rows were measured, then the words that are not empty.

    Tests hold each kind against altair's schema of Vega-Lite, which would take a second here.
    """
    specification = _with_values(chart.properties(description=title).to_dict(validate=False))
    specification.pop("config", None)  # the page has one for all
    places = where_and_when(rows)
    return Picture(name, title, " ".join(filter(None, [places and f"{places}.", *words])), specification)


def inline(name: str, rows: Iterable[Values]) -> Any:
    """Return data that a chart holds itself; the name lets a page be asked for them, and keeps altair from moving them.

    Altair checks each value several times over, so that they go through it as one text (3,000 variants: 0.4 s instead of 3).
    """
    return alt.InlineData(values=json.encode([dict(row) for row in rows]).decode(), name=name)


def _with_values(part: Any) -> Any:
    """Return a part of a specification with the data of `inline` as values again."""
    if isinstance(part, list):
        return [_with_values(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        key: json.decode(each) if key == "values" and isinstance(each, str) else _with_values(each) for key, each in part.items()
    }


def of_cells(chart: Any, name: str, more: Mapping[str, Values]) -> Any:
    """Give a chart the rows of the cells that are keys of `more`, with those values beside their own; the first is never None."""
    fields = list(next(iter(more.values())))
    found = inline(name, ({"key": key, **values} for key, values in more.items()))
    chart.data = alt.NamedData(name=CELLS)
    joined = chart.transform_lookup("key", from_=alt.LookupData(data=found, key="key", fields=fields))
    return joined.transform_filter(f"isValid(datum.{fields[0]})")


def link(row: Row | None) -> str | None:
    """Return where the record of a row is on the page."""
    return None if row is None else f"#{row.key}"


HREF = {"href": alt.Href(field="link", type="nominal")}


def told(*fields: tuple[str, str, str]) -> list[Any]:
    """Return a tooltip: of each field the name, the title and the format, which is empty for text.

    A number that may be missing is to be made a text by `or_unavailable`: a format makes 0 of nothing.
    """
    return [
        alt.Tooltip(field=field, type="quantitative" if shown else "nominal", title=title, **({"format": shown} if shown else {}))
        for field, title, shown in fields
    ]


def or_unavailable(field: str, shown: str, times: str = "1") -> str:
    """Return the expression of a number as text, multiplied and in a format; where it is missing, a word."""
    return f"isValid(datum.{field}) ? format(datum.{field} * {times}, '{shown}') : 'unavailable'"


def told_apart(
    field: str, styles: Mapping[str, int], title: str | list[str], columns: int = 3, shapes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return colour and shape of a category, by the place of each name among COLOURS and SHAPES, or by `shapes`."""
    legend = alt.Legend(title=title, orient="bottom", columns=columns, labelLimit=320, titleLimit=WIDTH)
    own = shapes or {name: SHAPES[place] for name, place in styles.items()}
    colours = alt.Scale(domain=list(styles), range=[COLOURS[place] for place in styles.values()])
    return {
        "color": alt.Color(field=field, type="nominal", scale=colours, legend=legend),
        "shape": alt.Shape(
            field=field, type="nominal", scale=alt.Scale(domain=list(styles), range=[own[name] for name in styles]), legend=legend
        ),
    }


def dashes(names: Sequence[str], field: str = "line") -> Any:
    """Return dashes of lines that have a name, with their legend."""
    patterns = ([1, 0], [6, 4], [2, 3])[: len(names)]
    legend = alt.Legend(title=None, orient="top", columns=len(names), labelLimit=320, symbolType="stroke", symbolSize=400)
    return alt.StrokeDash(field=field, type="nominal", scale=alt.Scale(domain=list(names), range=patterns), legend=legend)


def kept(names: Iterable[str], most: int = len(COLOURS)) -> dict[str, str]:
    """Return what each name is shown as: itself, or OTHER where there are more than can be told apart, for the rare ones."""
    counts = Counter(names)
    if len(counts) <= most:
        return {name: name for name in counts}
    large = {name for name, _ in counts.most_common(most - 1)}
    return {name: name if name in large else OTHER for name in counts}


def styles_of(names: Iterable[str]) -> dict[str, int]:
    """Return a style for each name; grey is for OTHER."""
    known, grey = list(dict.fromkeys(names)), COLOURS.index(GREY)
    if OTHER not in known:
        return dict(zip(known, range(len(COLOURS))))
    places = (place for place in range(len(COLOURS)) if place != grey)
    return {**dict(zip((name for name in known if name != OTHER), places)), OTHER: grey}


def labels(rows: Sequence[Row]) -> dict[str, str]:
    """Return of each row, by its key, what tells it from the others: model and variant, and in a second line other axes."""
    first = [axis for axis in ("model", "variant") if axis == "model" or len({row.variant for row in rows}) > 1]
    second = _differing(rows)
    found = {}
    for row in rows:
        lines = [" ".join(_said(row, axis) for axis in first), id_of(second, (getattr(row, axis) for axis in second))]
        found[row.key] = "\n".join(filter(None, lines))
    twice = Counter(found.values())
    return {key: label if twice[label] == 1 else f"{label} ({key})" for key, label in found.items()}


def in_common(rows: Sequence[Row]) -> str:
    """Say on which axes all rows agree, of those that neither a label nor `where_and_when` names."""
    differing = {*_differing(rows), *([] if len({row.variant for row in rows}) == 1 else ["variant"])}
    alike = {"variant": "variant {}", "runtime": "runtime {}", "image_size": "{} pixels", "target": "target {}"}
    same = {axis: getattr(rows[0], axis) for axis in alike if axis not in differing}
    found = [alike[axis].format(value) for axis, value in same.items() if value]
    return f"All of them: {', '.join(found)}." if found and rows else ""


def wrapped(name: str, width: int = 44) -> str:
    """Return a cell's id in as few lines as it takes, which are about as long as each other."""
    if len(name) <= width:
        return name
    least = len(textwrap.wrap(name, width))
    tried = (textwrap.wrap(name, narrow) for narrow in range(len(name) // least, width + 1))
    return "\n".join(next(lines for lines in tried if len(lines) == least))


LINES = "split(datum.label, '\\n')"  # a label in lines
LOG_LABELS = "format(datum.value, '~g')"  # Vega leaves many labels of a logarithmic axis empty
FINE = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4]
COARSE = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30]


def logarithmic(values: Iterable[float], room: float = 1.03, **scale: Any) -> Any:
    """Return a logarithmic scale that just holds the values; whole powers of ten at its ends would leave most of it empty.

    A value of 0, as of a clock that is too coarse, has no place on it.
    """
    found = [value for value in values if value > 0] or [1.0]
    return alt.Scale(type="log", domain=[min(found) / room, max(found) * room], nice=False, **scale)


def ratio_axis(values: Iterable[float]) -> Any:
    """Return the axis of ratios, with the more ticks around 1 the less far they reach."""
    found = [value for value in values if value > 0] or [1.0]
    reach = max(found) / min(found)
    wanted = decades(found) if reach > 30 else COARSE if reach > 4 else FINE
    ticks = [tick for tick in wanted if min(found) <= tick <= max(found)]
    return alt.Axis(values=ticks, labelExpr=LOG_LABELS, labelOverlap="greedy")


def decades(values: Iterable[float]) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between the least and the largest value, for the ticks of a logarithmic axis."""
    found = list(values)
    least, most = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    steps = [float(f"{step}e{power}") for power in range(least, most + 1) for step in (1, 2, 5)]
    return [step for step in steps if min(found) <= step * 1.0001 and step <= max(found) * 1.0001]


def named(field: str, order: Sequence[str], **axis: Any) -> Any:
    """Return a vertical axis of labels, in an order."""
    usual = {"title": None, "labelExpr": LINES, "labelLimit": 270, "labelLineHeight": 11, "ticks": False, "domain": False}
    return alt.Y(field=field, type="nominal", sort=list(order), axis=alt.Axis(**{**usual, **axis}))


def counted(reasons: Iterable[str], most: int = 3) -> str:
    """Return reasons with how often each holds, the most frequent first."""
    found = Counter(reasons).most_common()
    said = [f"{reason} ({count})" for reason, count in found[:most]]
    rest = sum(count for _, count in found[most:])
    return "; ".join([*said, *([f"other reasons ({rest})"] if rest else [])])


def elsewhere(left_out: int, thing: str, which: str = "") -> str:
    """Say how many things are not drawn, and which."""
    more = f"{number_of(left_out, f'more {thing}')}{which and f', {which}'}"
    return f"Not drawn: {more}; the table and the CSV have them." if left_out > 0 else ""


def beyond(evidence: Evidence) -> str:
    """Say that a page holds a choice of the records, where it does."""
    shown, rows = len(evidence.shown), len(evidence.rows)
    return f"Looked at are the {shown} records of {rows} that this page holds." if shown < rows else ""


def emulated(rows: Iterable[Row]) -> str:
    """Say how many cells are left out, as their arithmetic is emulated; nothing where none is."""
    count = sum(row.emulated for row in rows)
    return f"Left out: {number_of(count, 'cell')} whose arithmetic the processor lacks, and emulates." if count else ""


def sentence(words: str) -> str:
    """Return words as a sentence."""
    return f"{words[0].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


def _differing(rows: Sequence[Row]) -> list[str]:
    return [axis for axis in AXES if axis not in ("model", "variant") and len({getattr(row, axis) for row in rows}) > 1]


def _said(row: Row, axis: str) -> str:
    return shown_model(row.model) if axis == "model" else str(getattr(row, axis))
