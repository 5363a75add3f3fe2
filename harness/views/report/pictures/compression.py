"""What compression brings: the speed-up that its MACs promise beside the realised one, and what accuracy its zeros cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from plumbline.harness.cell import shown_model
from plumbline.harness.record import Record
from plumbline.harness.rows import Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.realised import GAIN, KEPT, SIZE, SLOWER, explained, shortfalls, verdict
from plumbline.harness.verdicts.words import PASSED
from plumbline.harness.views.report.legend import chain
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.pictures.drawing import (
    GREY,
    HREF,
    PANEL,
    WIDTH,
    beyond,
    counted,
    dashes,
    decades,
    elsewhere,
    inline,
    kept,
    logarithmic,
    of_cells,
    or_unavailable,
    picture,
    sentence,
    styles_of,
    told,
    told_apart,
)
from plumbline.models.compression import variants

EMULATED = "no verdict: emulated"
STYLES = {PASSED: 0, "under-delivers": 1, "no faster": 5, "slower": 3, "dense again": 4, EMULATED: 6}
FULL, HALF, DENSE = "all of the theoretical speed-up", f"{KEPT:.0%} of its gain", f"slower than the dense net ({SLOWER:g}x)"
PANELS = 6
# Of techniques that push weights to zero while they train: the option that is swept, and the one that tells lines apart.
SWEPT = {"l1": ("penalty", "decimals"), "serene": ("decay", "threshold")}
TRAINED = {True: "trained with it, or after it", False: "not trained", None: "not known"}
RINGS = {
    TRAINED[True]: "filled: trained with it, or after it",
    TRAINED[False]: "ring: not trained",
    TRAINED[None]: "pale: not known",
}


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw both speed-ups, accuracy by the share that is not zero, and accuracy by penalty."""
    return [*_speedups(evidence), *_sparsities(evidence), *_sweeps(evidence)]


def _speedups(evidence: Evidence) -> Iterator[Picture]:
    variants_shown = [row for row in evidence.shown if row.theoretical_speedup is not None]
    rows = [row for row in variants_shown if row.speedup and row.theoretical_speedup]
    if not rows:
        return
    records = [evidence.records[row.key] for row in rows]
    more = {row.key: {"verdict": _verdict(record), "words": verdict(record) or EMULATED} for row, record in zip(rows, records)}
    promised = [_known(row.theoretical_speedup) for row in rows]
    realised = [_known(end) for row in rows for end in (row.speedup, row.speedup_low, row.speedup_high) if end is not None]
    least, most = min(1.0, *promised) * 0.9, max(2.0, *promised) * 1.1
    x = alt.X("theoretical_speedup:Q", title="theoretical speed-up (MACs of the dense net / effective MACs)",
              scale=alt.Scale(type="log", domain=[least, most], nice=False))  # fmt: skip
    y = alt.Y(
        "speedup:Q",
        title="realised speed-up over the dense net",
        scale=alt.Scale(type="log", domain=[min(0.9, *realised) * 0.95, max(1.5, *realised) * 1.1], nice=False),
    )
    apart = told_apart("verdict", {word: place for word, place in STYLES.items() if word in _all(more, "verdict")}, "verdict")
    lines = alt.Chart(inline("speedup_lines", _lines(least, most))).mark_line(color=GREY, clip=True)
    intervals = (
        alt.Chart().mark_rule(opacity=0.8).encode(x=x, y=alt.Y("speedup_low:Q"), y2="speedup_high:Q", color=apart["color"])
    )
    points = alt.Chart().mark_point(filled=True, size=70, opacity=0.9)
    tip = told(
        ("id", "cell", ""), ("words", "verdict", ""), ("theoretical_speedup", "theoretical speed-up", ".3g"),
        ("speedup", "realised speed-up", ".3g"), ("interval", "95 % interval", ""), ("loss", "points of top-1 lost", ""),
    )  # fmt: skip
    chart = alt.layer(
        lines.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), strokeDash=dashes([FULL, HALF, DENSE])),
        intervals.transform_filter("isValid(datum.speedup_low)"),
        points.encode(x=x, y=y, tooltip=tip, **apart, **HREF),
    ).properties(width=WIDTH, height=360)
    chart = of_cells(chart, "speedup_verdicts", more).transform_calculate(
        interval="isValid(datum.speedup_low) ? format(datum.speedup_low, '.3g') + ' to ' + format(datum.speedup_high, '.3g') "
        ": 'unavailable'",
        loss=or_unavailable("accuracy_loss", "+.2f", "100"),
    )
    yield picture(
        "promised-and-realised",
        "Do variants become as fast as the MACs that they save promise?",
        chart,
        rows,
        "Each point is a variant that was timed in turns with its dense parent, on the same runtime in one process"
        f"{'; the bar is its 95 % interval' if any(row.speedup_low is not None for row in rows) else ''}. Both axes are "
        f"logarithmic. Below the dashed line it realises less than {KEPT:.0%} of its theoretical gain.",
        *(sentence(words) for words in explained(records) if not words.startswith(SIZE)),
        _without_speedup([evidence.records[row.key] for row in variants_shown if not (row.speedup and row.theoretical_speedup)]),
        beyond(evidence),
    )


def _lines(least: float, most: float, steps: int = 60) -> Iterator[dict[str, Any]]:
    """Return the lines with which a variant is compared; the rule is that of verdicts/realised.py."""
    ratio = (most / least) ** (1 / steps)
    for x in (least * ratio**step for step in range(steps + 1)):
        yield {"line": FULL, "x": x, "y": x}
        yield {"line": DENSE, "x": x, "y": SLOWER}
        if x >= GAIN:
            yield {"line": HALF, "x": x, "y": 1 + (x - 1) * KEPT}


def _verdict(record: Record) -> str:
    """Return the word about its time, of all that hold."""
    if record.machine.emulator is not None:
        return EMULATED
    return next((word for word in shortfalls(record) if word != SIZE), PASSED)


def _without_speedup(records: Sequence[Record]) -> str:
    if not records:
        return ""
    said = [record.delivery.unavailable if record.delivery else None for record in records]
    reasons = (why or f"not timed: {record.reason or record.outcome}" for why, record in zip(said, records))
    return f"Left out are {len(records)} without a realised speed-up: {counted(reasons)}."


def _sparsities(evidence: Evidence) -> Iterator[Picture]:
    """Accuracy by the share of parameters that is not zero, of each variant once."""
    able = [row for row in evidence.shown if row.nonzero_share is not None and row.top1 is not None]
    nothing_left = [row for row in able if not row.nonzero_share]
    rows = _once(row for row in able if row.nonzero_share)
    panels = _panels([_panel(row) for row in rows])
    drawn = [row for row in rows if _panel(row) in panels]
    if not drawn:
        return
    techniques = kept(_technique(row.variant) for row in drawn)
    more = {
        row.key: {
            "panel": _panel(row),
            "technique": techniques[_technique(row.variant)],
            "trained": _trained(row.variant),
            "parent_top1": _parent(evidence.records[row.key]),
        }
        for row in drawn
    }
    legend = ["technique, the first of a chain", *(words for kind, words in RINGS.items() if kind in _all(more, "trained"))]
    apart = told_apart("technique", styles_of(sorted(techniques.values(), key=_position)), legend, columns=4)
    fill = alt.Fill(field="technique", type="nominal", scale=apart["color"]["scale"], legend=apart["color"]["legend"])
    shares = alt.Scale(type="ordinal", domain=list(TRAINED.values()), range=[0.85, 0.0, 0.4])
    trained = alt.FillOpacity(
        field="trained", type="ordinal", sort=list(TRAINED.values()), scale=shares, legend=None
    )  # of which Vega draws no legend
    left = [_known(row.nonzero_share) for row in drawn]
    axis = alt.Axis(format="~%", values=decades(left), labelOverlap=True)
    x = alt.X("nonzero_share:Q", title="parameters not zero", axis=axis, scale=logarithmic(left, 1.1))
    y = alt.Y("top1:Q", title="top-1 accuracy", axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False))
    tip = told(
        ("id", "cell", ""), ("top1", "top-1", ".2%"), ("ends", "95 % interval", ""), ("nonzero_share", "not zero", ".3~%"),
        ("trained", "training", ""),
    )  # fmt: skip
    points = (
        alt.Chart().mark_point(size=70, opacity=1).encode(x=x, y=y, fill=fill, fillOpacity=trained, tooltip=tip, **apart, **HREF)
    )
    layers = alt.layer(_dense(), _intervals(x, apart["color"]), points).properties(**_size(panels))
    yield picture(
        "accuracy-by-sparsity",
        "How much accuracy is left when parameters go?",
        of_cells(_facets(layers, panels), "sparse_variants", more).transform_calculate(ends=ENDS),
        drawn,
        f"Each point is a variant, in fp32 where that was measured{_said_of(evidence, drawn)}. Logarithmic from left to right"
        f"{'; each panel has an axis of its own' if len(panels) > 1 else ''}.",
        f"{len(able) - len(nothing_left) - len(rows)} cells of the same variants in other precisions, batches, runtimes and "
        "sessions are left out." if len(able) - len(nothing_left) > len(rows) else "",
        f"{len(nothing_left)} with no parameter left cannot be drawn." if nothing_left else "",
        elsewhere(len(rows) - len(drawn), "variant", "of other models"),
        beyond(evidence),
    )  # fmt: skip


def _sweeps(evidence: Evidence) -> Iterator[Picture]:
    """Accuracy and zeros by what a technique's penalty was."""
    for technique, (swept, other) in SWEPT.items():
        found: dict[str, dict[str, Any]] = {}
        for row in _once(row for row in evidence.shown if row.nonzero_share is not None and row.top1 is not None):
            options = _options(row.variant, technique)
            if options is not None and options[swept] > 0:
                record = evidence.records[row.key]
                found[row.key] = {
                    "panel": f"{_panel(row)}{_epochs(record)}",
                    "amount": options[swept],
                    "line": f"{options[other]:g}",
                    "parent_top1": _parent(record),
                }
        amounts: dict[str, set[float]] = {}
        for each in found.values():
            amounts.setdefault(each["panel"], set()).add(each["amount"])
        panels = _panels([each["panel"] for each in found.values() if len(amounts[each["panel"]]) > 1])
        drawn = {key: each for key, each in found.items() if each["panel"] in panels}
        if drawn:
            yield _sweep(evidence, technique, drawn, panels, len(found) - len(drawn))


def _sweep(evidence: Evidence, technique: str, drawn: Mapping[str, Any], panels: Sequence[str], left_out: int) -> Picture:
    swept, other = SWEPT[technique]
    lines = sorted({each["line"] for each in drawn.values()}, key=float)
    styles = styles_of(kept(lines).values())
    drawn = {key: {**each, "line": kept(lines)[each["line"]]} for key, each in drawn.items()}
    apart = told_apart("line", styles, other, columns=4)
    amounts = sorted({each["amount"] for each in drawn.values()})
    axis = alt.Axis(format="~e", values=amounts, labelOverlap=True)
    x = alt.X("amount:Q", title=f"{swept} of {technique}", axis=axis, scale=logarithmic(amounts, 1.2))
    tip = told(
        ("id", "cell", ""), ("amount", swept, "~g"), ("line", other, ""), ("top1", "top-1", ".2%"), ("ends", "95 % interval", ""),
        ("nonzero_share", "not zero", ".3~%"),
    )  # fmt: skip

    def quantity(field: str, title: str, *below: Any) -> Any:
        y = alt.Y(f"{field}:Q", title=title, axis=alt.Axis(format="~%"), scale=alt.Scale(zero=field != "top1"))
        line = alt.Chart().mark_line().encode(x=x, y=y, color=apart["color"])
        point = alt.Chart().mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, tooltip=tip, **apart, **HREF)
        return _facets(alt.layer(*below, line, point).properties(**_size(panels, 150)), panels)

    chart = alt.vconcat(
        quantity("top1", "top-1 accuracy", _dense(), _intervals(x, apart["color"])),
        quantity("nonzero_share", "parameters not zero"),
    )
    rows = [row for row in evidence.shown if row.key in drawn]
    return picture(
        f"accuracy-by-{swept}",
        f"Which {swept} of {technique} costs accuracy, and how many zeros does it bring?",
        of_cells(chart, f"{technique}_{swept}", drawn).transform_calculate(ends=ENDS),
        rows,
        f"Each point is a net that was trained with {technique} alone, once{_said_of(evidence, rows)}. Logarithmic from left to "
        "right.",
        f"{left_out} more are left out, of models with one {swept} only or beyond {PANELS} panels." if left_out else "",
        beyond(evidence),
    )


ENDS = "isValid(datum.top1_low) ? format(datum.top1_low, '.2%') + ' to ' + format(datum.top1_high, '.2%') : 'unavailable'"


def _said_of(evidence: Evidence, rows: Sequence[Row]) -> str:
    """Say which lines are drawn beside the points of accuracy."""
    bars = "; bars are Wilson's 95 % intervals" if any(row.top1_low is not None for row in rows) else ""
    with_parent = [row for row in rows if _parent(evidence.records[row.key]) is not None]
    return f"{bars}{'; the dashed line is the dense net on the same images' if with_parent else ''}"


def _dense() -> Any:
    """Draw the top-1 of the dense net, once for each panel."""
    rule = alt.Chart().mark_rule(color=GREY, strokeDash=[6, 4])
    each = rule.transform_filter("isValid(datum.parent_top1)").transform_aggregate(cells="count()", groupby=["parent_top1"])
    return each.encode(y=alt.Y("parent_top1:Q"), tooltip=told(("parent_top1", "the dense net's top-1", ".2%")))


def _intervals(x: Any, color: Any) -> Any:
    rule = alt.Chart().mark_rule(opacity=0.8).transform_filter("isValid(datum.top1_low)")
    return rule.encode(x=x, y=alt.Y("top1_low:Q"), y2="top1_high:Q", color=color)


def _facets(layers: Any, panels: Sequence[str]) -> Any:
    """Put panels beside each other, each with its own vertical axis."""
    facet = alt.Facet(field="panel", type="nominal", sort=list(panels), header=alt.Header(title=None))
    return alt.FacetChart(spec=layers, facet=facet, columns=2).resolve_scale(y="independent")


def _size(panels: Sequence[str], height: int = 220) -> dict[str, int]:
    return {"width": WIDTH if len(panels) == 1 else PANEL, "height": height}


def _panel(row: Row) -> str:
    return f"{shown_model(row.model)} at {row.image_size} px"


def _panels(names: Sequence[str]) -> list[str]:
    """Return the panels that have most to show."""
    return [name for name, _ in Counter(names).most_common(PANELS)]


def _once(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each variant of a model at an image size: the first in fp32, else the first."""
    found: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        same = row.model, row.image_size, row.variant
        if same not in found or (row.precision == "fp32" and found[same].precision != "fp32"):
            found[same] = row
    return list(found.values())


def _technique(name: str) -> str:
    found = chain(name)
    return name.partition("+")[0] if found is None else found.steps[0].technique.name if found.steps else name


def _position(technique: str) -> int:
    return list(variants.TECHNIQUES).index(technique) if technique in variants.TECHNIQUES else len(variants.TECHNIQUES)


def _trained(name: str) -> str:
    found = chain(name)
    return TRAINED[None if found is None or found.outside else found.trains]


def _options(name: str, technique: str) -> Mapping[str, Any] | None:
    """Return the options of a technique that stands alone."""
    found = chain(name)
    if found is None or len(found.steps) != 1 or found.steps[0].technique.name != technique:
        return None
    return found.steps[0].options


def _epochs(record: Record) -> str:
    trainings = [] if record.promise is None else record.promise.trainings
    epochs = trainings[-1].get("epochs") if trainings else None
    return "" if epochs is None else f", {epochs} epochs"


def _parent(record: Record) -> float | None:
    return None if record.accuracy is None else record.accuracy.parent_top1


def _all(more: Mapping[str, Mapping[str, Any]], field: str) -> set[Any]:
    return {values[field] for values in more.values()}


def _known(value: float | None) -> float:
    assert value is not None
    return value
