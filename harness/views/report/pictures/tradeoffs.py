"""What is weighed against what: latency and accuracy by MACs, and the frontiers of two quantities, with what a step bought."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt
from msgspec.structs import replace

from plumbline.harness.cell import shown_model
from plumbline.harness.rows import DENSE, QUANTITIES, Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.choice import frontier
from plumbline.harness.verdicts.fits import Fit, log_log
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
    of_cells,
    picture,
    styles_of,
    told,
    told_apart,
)
from plumbline.texts import number_of

PLACES = 3  # machines and targets, or sets of pictures, that get pictures of their own
BATCHES = 3  # panels
STEPS = 40  # points of a line
STEPS_SHOWN = 30  # wedges from dense nets to variants; of more those to the frontier alone
# Quantities that are traded, by the name of the picture; the first one on the horizontal axis.
TRADED = {
    "latency-accuracy": ("image_s", "top1", "What does accuracy cost in time?"),
    "memory-accuracy": ("inference_bytes", "top1", "What does accuracy cost in memory?"),
    "size-accuracy": ("stored_bytes", "top1", "What does accuracy cost on disk?"),
    "energy-accuracy": ("joules", "top1", "What does accuracy cost in energy?"),
    "latency-memory": ("image_s", "inference_bytes", "Does speed cost memory?"),
    "latency-energy": ("image_s", "joules", "Does speed cost energy?"),
}


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw latency by MACs, accuracy by MACs, and each pair of TRADED of which anything is known."""
    known = [row for row in evidence.shown if row.measured and not row.emulated]
    found: list[Picture] = []
    for place, rows in _places(known):
        found += [*_latency(place, rows), *_accuracy(place, rows)]
        for name in TRADED:
            found += _traded(name, place, rows)
    places = len({(row.machine_id, row.target) for row in known})
    few = f"Not drawn: {number_of(places - PLACES, 'more place')} with fewer cells." if places > PLACES else ""
    said = " ".join(filter(None, [emulated(evidence.shown), few]))
    return [replace(picture, caption=f"{picture.caption} {said}".strip()) for picture in found]


def _places(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Group rows by machine and target, the largest groups first; the name of a picture of the first one has no ending."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.machine_id, row.target), []).append(row)
    largest = sorted(groups.values(), key=len, reverse=True)[:PLACES]
    return [("" if not number else f"-{number + 1}", own) for number, own in enumerate(largest)]


def _latency(place: str, rows: Sequence[Row]) -> Iterator[Picture]:
    drawn = [row for row in rows if row.effective_macs]
    batches = sorted({row.batch for row in drawn}, key=lambda batch: -sum(row.batch == batch for row in drawn))[:BATCHES]
    drawn = [row for row in drawn if row.batch in batches]
    if len({row.effective_macs for row in drawn}) < 2:
        return
    names = kept(_run_as(row) for row in drawn)
    more = {row.key: {"series": names[_run_as(row)]} for row in drawn}
    fits = {batch: fit for batch in sorted(batches) if (fit := _fit(drawn, batch)) is not None}
    across, up = "effective MACs of an image, M", "latency (median), ms"
    x = alt.X("macs_m:Q", title=across, scale=alt.Scale(type="log", nice=False, padding=12))
    y = alt.Y("ms:Q", title=up, scale=alt.Scale(type="log", nice=False, padding=12))
    tip = told(("id", "cell", ""), ("series", "run as", ""), ("ms", "latency, ms", ".4g"), ("macs_m", "effective MACs, M", ".4g"))
    styles = styles_of(names.values())
    panels = []
    for batch in sorted(batches):
        own = {row.key: more[row.key] for row in drawn if row.batch == batch}
        points = of_cells(alt.Chart().mark_point(filled=True, size=60, opacity=0.85), f"macs_latency{place}_{batch}", own)
        points = points.transform_calculate(ms="datum.latency_s * 1e3", macs_m="datum.effective_macs / 1e6").encode(
            x=x, y=y, tooltip=tip, **told_apart("series", styles, "run as"), **HREF
        )
        layers: list[Any] = [points]
        if batch in fits:
            ends = [row.effective_macs or 0 for row in drawn if row.batch == batch and _usual(row)]
            line = inline(f"macs_latency_fit{place}_{batch}", _line(fits[batch], min(ends), max(ends)))
            base = alt.Chart(line).encode(x=alt.X("x:Q", title=across))
            layers = [
                base.mark_area(opacity=0.08, color=GREY).encode(y=alt.Y("least:Q", title=up), y2="most:Q"),
                base.mark_area(opacity=0.18, color=GREY).encode(y=alt.Y("low:Q", title=up), y2="high:Q"),
                base.mark_line(color=GREY).encode(y=alt.Y("y:Q", title=up)),
                *layers,
            ]
        panels.append(
            alt.layer(*layers).properties(width=WIDTH if len(batches) == 1 else PANEL, height=280, title=f"batch {batch}")
        )
    said = [
        f"Batch {batch}: latency grows with MACs to the power of {fit.slope:.2f} (95 %: {fit.slope_interval[0]:.2f} to "
        f"{fit.slope_interval[1]:.2f}; R² {fit.r2:.2f}, {number_of(fit.points, 'net')})."
        for batch, fit in fits.items()
    ]
    yield picture(
        f"macs-latency{place}",
        "How does latency grow with MACs?",
        alt.hconcat(*panels) if len(panels) > 1 else panels[0],
        drawn,
        in_common(drawn),
        "Both axes are logarithmic.",
        "The line is a least-squares fit of the logarithms, through dense nets in eager fp32; the dark band is its 95 % "
        "interval, the light one that of one more net."
        if fits
        else "Dense nets in eager fp32 are too few for a line.",
        f"No line in {_batches(set(batches) - set(fits))}, of which there are too few dense nets in eager fp32."
        if fits and len(fits) < len(batches)
        else "",
        *said,
        elsewhere(len(rows) - len(drawn), "measured cell", "in other batches"),
    )


def _batches(batches: Iterable[int]) -> str:
    found = sorted(batches)
    return f"{'batch' if len(found) == 1 else 'batches'} {' and '.join(map(str, found))}"


def _usual(row: Row) -> bool:
    return (row.variant, row.runtime, row.precision) == (DENSE, "eager", "fp32")


def _run_as(row: Row) -> str:
    return f"{row.runtime} {row.precision}"


def _fit(rows: Sequence[Row], batch: int) -> Fit | None:
    """Fit latency on MACs, of one cell of each net."""
    own = {(row.model, row.image_size): row for row in rows if row.batch == batch and _usual(row)}
    return log_log([row.effective_macs or 1 for row in own.values()], [row.latency_s or 1 for row in own.values()])


def _line(fit: Fit, least: float, most: float) -> Iterator[dict[str, float]]:
    for step in range(STEPS + 1):
        x = least * (most / least) ** (step / STEPS)
        (low, high), (least_s, most_s) = fit.interval(x), fit.prediction(x)
        ends = {"low": low, "high": high, "least": least_s, "most": most_s}
        yield {"x": x / 1e6, "y": fit.at(x) * 1e3, **{end: seconds * 1e3 for end, seconds in ends.items()}}


def _accuracy(place: str, rows: Sequence[Row]) -> Iterator[Picture]:
    """Draw accuracy by MACs, for each set of pictures; accuracy depends on no batch, so that the smallest stands for all."""
    for number, (data, own) in enumerate(_data_sets(rows)):
        drawn = [row for row in own if row.effective_macs]
        if len({row.effective_macs for row in drawn}) < 2:
            continue
        yield _points(
            f"macs-accuracy{place}{'' if not number else f'-{data}'}",
            f"Do more MACs classify better, on {data}?",
            ("effective_macs", "top1"),
            drawn,
        )


def _traded(name: str, place: str, rows: Sequence[Row]) -> Iterator[Picture]:
    first, second, title = TRADED[name]
    for number, (data, own) in enumerate(_data_sets(rows) if second == "top1" else [("", list(rows))]):
        drawn = [row for row in own if getattr(row, first) is not None and getattr(row, second) is not None]
        known = len(drawn)
        drawn = [row for row in drawn if not (row.energy_is_estimate and "joules" in (first, second))]
        guessed = known - len(drawn)
        smallest = min((row.batch for row in drawn), default=1)
        several, drawn = len(drawn), [row for row in drawn if row.batch == smallest]
        if len({(getattr(row, first), getattr(row, second)) for row in drawn}) < 3:
            continue
        bound = any(row.inference_is_bound for row in drawn) and "inference_bytes" in (first, second)
        yield _points(
            f"{name}{place}{'' if not number else f'-{data}'}",
            f"{title[:-1]}, on {data}?" if data else title,
            (first, second),
            drawn,
            "Memory of runtimes that keep what they took is an upper bound." if bound else "",
            elsewhere(several - len(drawn), "cell", "in larger batches"),
            elsewhere(guessed, "cell", "whose energy is an estimate"),
            best=True,
        )


def _data_sets(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Group rows with an accuracy by their pictures, the largest groups first, each net once in its smallest batch."""
    groups: dict[str, dict[tuple[Any, ...], Row]] = {}
    for row in sorted(rows, key=lambda row: -row.batch):
        if row.top1 is not None and row.data is not None:
            key = (row.model, row.variant, row.runtime, row.precision, row.image_size)
            groups.setdefault(row.data, {})[key] = row
    found = sorted(groups.items(), key=lambda each: -len(each[1]))[:PLACES]
    return [(data, list(own.values())) for data, own in found]


def _points(name: str, title: str, quantities: tuple[str, str], drawn: Sequence[Row], *words: str, best: bool = False) -> Picture:
    """Draw a point a cell, its doubt, lines from dense parents to variants, and the frontier."""
    first, second = (QUANTITIES[quantity] for quantity in quantities)
    models = kept(shown_model(row.model) for row in drawn)
    more = {row.key: {"net": models[shown_model(row.model)]} for row in drawn}
    values = [getattr(row, quantities[0]) / first.scale for row in drawn]
    wide = max(values) > 5 * min(values) > 0
    across, up = (f"{quantity.title}, {quantity.unit}" for quantity in (first, second))
    x = alt.X("x:Q", title=across, scale=_scale(wide))
    seconds = [getattr(row, quantities[1]) / second.scale for row in drawn]
    tall = quantities[1] != "top1" and max(seconds) > 5 * min(seconds) > 0
    y = alt.Y("y:Q", title=up, scale=_scale(tall))
    apart = told_apart("net", styles_of(models.values()), "net")
    calculated = {"x": f"datum.{quantities[0]} / {first.scale}", "y": f"datum.{quantities[1]} / {second.scale}"}
    if quantities[1] == "top1":
        calculated |= {end: f"datum.top1_{end} / {second.scale}" for end in ("low", "high")}
    tip = told(("id", "cell", ""), ("x", across, ".4g"), ("y", up, ".4g"))
    points = of_cells(alt.Chart().mark_point(filled=True, size=80, opacity=0.9), f"{name}_points", more)
    points = points.transform_calculate(**calculated).encode(x=x, y=y, tooltip=tip, **apart, **HREF)
    layers: list[Any] = []
    unbeaten = list(frontier(drawn, *quantities)) if best else []
    if len(unbeaten) > 1:
        edge = [{"x": getattr(row, quantities[0]) / first.scale, "y": getattr(row, quantities[1]) / second.scale}
                for row in unbeaten]  # fmt: skip
        line = alt.Chart(inline(f"{name}_frontier", edge)).mark_line(color=GREY, interpolate="step-after", strokeDash=[5, 4])
        layers.append(line.encode(x=alt.X("x:Q", title=across), y=alt.Y("y:Q", title=up)))
    steps = list(_steps(drawn, quantities, (first.scale, second.scale)))
    if len(steps) > 2 * STEPS_SHOWN:
        on_edge = {row.key for row in frontier(drawn, *quantities)}
        steps = [step for step in steps if step["step"] in on_edge]
    if steps:
        trail = alt.Chart(inline(f"{name}_steps", steps)).mark_trail(opacity=0.45, color=GREY)
        layers.append(
            trail.encode(x=alt.X("x:Q", title=across), y=alt.Y("y:Q", title=up), detail="step:N",
                         size=alt.Size("order:O", scale=alt.Scale(domain=[0, 1], range=[0.5, 7]), legend=None))
        )  # fmt: skip
    with_bars = quantities[1] == "top1" and any(row.top1_low is not None for row in drawn)
    if with_bars:
        bars = of_cells(alt.Chart().mark_rule(opacity=0.5), f"{name}_bars", more).transform_calculate(**calculated)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q", title=up), y2="high:Q", color=apart["color"]))
    said = [
        "The dashed line joins the cells that no other one beats in both." if len(unbeaten) > 1 else "",
        f"{unbeaten[0].id} beats all others in both, or is as good." if len(unbeaten) == 1 else "",
        "A wedge leads from a dense net to its variant, its thick end." if steps else "",
        f"{'Horizontal axis logarithmic. ' if wide else ''}{'Vertical axis logarithmic.' if tall else ''}".strip(),
        "Bars are 95 % intervals of the accuracy (Wilson 1927)." if with_bars else "",
    ]
    return picture(
        name, title, alt.layer(*layers, points).properties(width=WIDTH, height=340), drawn, in_common(drawn), *said, *words
    )


def _scale(logarithmic: bool) -> Any:
    kind = {"type": "log"} if logarithmic else {"type": "linear", "zero": False}
    return alt.Scale(**kind, padding=15, nice=False)


def _steps(rows: Sequence[Row], quantities: tuple[str, str], scales: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """Return both ends of the way from each net to its variant: of a chain, from the part of it that was measured, too."""
    alike: dict[tuple[Any, ...], dict[str, Row]] = {}  # by variant
    for row in rows:
        alike.setdefault(_but_variant(row), {})[row.variant] = row
    for row in rows:
        if (start := _parent(row, alike[_but_variant(row)])) is not None:
            for order, one in enumerate((start, row)):
                x, y = (getattr(one, quantity) / scale for quantity, scale in zip(quantities, scales))
                if math.isfinite(x) and math.isfinite(y):
                    yield {"step": row.key, "order": order, "x": x, "y": y}


def _parent(row: Row, alike: Mapping[str, Row]) -> Row | None:
    """Return the longest part of its chain of techniques, among cells alike but for the variant; at last the dense net."""
    if row.parent is None:
        return None
    chain = row.variant.split("+")
    parts = ["+".join(chain[:length]) for length in range(len(chain) - 1, 0, -1)]
    return next((alike[part] for part in (*parts, DENSE) if part in alike), None)


def _but_variant(row: Row) -> tuple[Any, ...]:
    return row.model, row.runtime, row.precision, row.batch, row.image_size, row.target, row.session
