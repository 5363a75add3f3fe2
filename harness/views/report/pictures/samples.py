"""How the samples of a latency are distributed, and in which order they came, with what meters read meanwhile below them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from statistics import median
from typing import Any

import altair as alt
from msgspec import Struct

from plumbline.harness.facts import Energy, Latency
from plumbline.harness.quiet import severity
from plumbline.harness.readings import Reading
from plumbline.harness.record import Record
from plumbline.harness.rows import Row
from plumbline.harness.statistics import percentile
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report.picture import COLOURS, Picture
from plumbline.harness.views.report.pictures.drawing import (
    HREF,
    LOG_LABELS,
    STEP,
    WIDTH,
    beyond,
    counted,
    elsewhere,
    in_common,
    inline,
    labels,
    link,
    logarithmic,
    named,
    picture,
    ratio_axis,
    told,
    told_apart,
)
from plumbline.texts import number_of

QUANTILES = 64
SHOWN, IN_ORDER = 12, 4  # cells
FEW, BINS = 10, 300  # samples that have an order to look at, at least; points that stand for them, at most
DISTURBED, VAGUE, UNSTEADY, TAILS = "disturbed", "median not well known", "warm-up not steady", "widest tails"
PARTS = {
    "a 64th of the samples": 0,
    "median, with its 95 % interval": 5,
    "p90, upper bound (99 %)": 2,
    "p99, upper bound (99 %)": 3,
}
SAMPLES, MEDIAN, P90, P99 = PARTS
SHAPES = {SAMPLES: "M-0.2,-1h0.4v2h-0.4z", MEDIAN: "diamond", P90: "triangle-right", P99: "cross"}  # the first is a tick
# What is read in units of which people see others: the scale, and the unit that is seen.
SEEN = {"Hz": (1e-9, "GHz"), "byte": (2**-20, "MiB"), "s": (1e3, "ms")}


class Why(Struct, frozen=True, order=True):
    """Why a cell is looked at: the smaller, the sooner; `words` say it."""

    rank: int
    score: float
    kind: str
    words: str


Odd = tuple[Row, Latency, Why]


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw the distributions that are least like those of a quiet machine, and the worst of them in time."""
    able = _looked_at(evidence)
    return [*_distributions(evidence, able), *_in_order(evidence, able)]


def quantiles(samples: Sequence[float], count: int = QUANTILES) -> list[tuple[float, float]]:
    """Return shares and the samples at them: the middles of as many parts of equal weight, or where there are fewer, all."""
    ordered = sorted(samples)
    shares = [(number + 0.5) / min(count, len(ordered)) for number in range(min(count, len(ordered)))]
    return [(share, percentile(ordered, share)) for share in shares]


def why(latency: Latency) -> Why:
    """Say what is odd about the samples of a latency, or how long their tail is."""
    model = latency.model
    if latency.disturbed:
        return Why(0, -severity(latency.disturbance), DISTURBED, f"disturbed: {latency.disturbed[0]}")
    if latency.vague and model.interval_s is not None:
        half = (model.interval_s[1] - model.interval_s[0]) / 2 / model.median_s
        return Why(1, -half, VAGUE, f"its median is known to ±{half:.0%}")
    tail = model.percentiles["p99"].value_s / model.median_s if "p99" in model.percentiles else 1.0
    if not model.steady and not latency.emulated:
        return Why(2, -tail, UNSTEADY, "its warm-up did not become steady")
    return Why(3, -tail, TAILS, f"p99 is {tail:.2f} times the median")


def _looked_at(evidence: Evidence) -> list[Odd]:
    """Return the cells with samples, those first that are to be looked at first."""
    found = []
    for row in evidence.shown:
        latency = evidence.records[row.key].latency
        if latency is not None and latency.model.samples_s:
            found.append((row, latency, why(latency)))
    return sorted(found, key=lambda each: each[2])


def _distributions(evidence: Evidence, able: Sequence[Odd]) -> Iterator[Picture]:
    chosen = able[:SHOWN]
    if not chosen:
        return
    rows = [row for row, _, _ in chosen]
    names = labels(rows)
    strips, marks = [], []
    for row, latency, reason in chosen:
        cell = {"label": names[row.key], "id": row.id, "why": reason.words, "link": link(row), "median_s": latency.model.median_s}
        strips += [
            {**cell, "part": SAMPLES, "share": share, "seconds": seconds} for share, seconds in quantiles(latency.model.samples_s)
        ]
        marks += [{**cell, **mark} for mark in _marks(latency)]
    shown = {part: place for part, place in PARTS.items() if part == SAMPLES or any(mark["part"] == part for mark in marks)}
    apart = told_apart("part", shown, "marks", columns=2, shapes=SHAPES)
    y = named("label", [names[row.key] for row in rows])
    ends = [each[end] / each["median_s"] for each in [*strips, *marks] for end in ("seconds", "low_s", "high_s") if each.get(end)]
    title = "duration of an inference, times the cell's median"
    x = alt.X("times:Q", title=title, scale=logarithmic(ends), axis=ratio_axis(ends))
    tip = [
        ("id", "cell", ""),
        ("part", "what", ""),
        ("ms", "ms", ".4~g"),
        ("times", "times the median", ".3~f"),
        ("why", "chosen as", ""),
    ]
    calculated = {"ms": "datum.seconds * 1000", "times": "datum.seconds / datum.median_s"}
    ticks = alt.Chart(inline("quantiles", strips)).mark_tick(thickness=1, size=14, opacity=0.7).transform_calculate(**calculated)
    ticks = ticks.encode(x=x, y=y, color=apart["color"], tooltip=told(("share", "quantile", ".3~%"), *tip), **HREF)
    bounds = alt.Chart(inline("bounds", marks)).transform_calculate(
        **calculated, low="datum.low_s / datum.median_s", high="datum.high_s / datum.median_s"
    )
    interval = bounds.mark_rule(strokeWidth=3).transform_filter("isValid(datum.low_s)")
    chart = alt.layer(
        ticks,
        interval.encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=apart["color"]),
        bounds.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, tooltip=told(*tip), **apart, **HREF),
    ).properties(width=WIDTH, height=alt.Step(STEP))
    without = sum(row.latency_s is not None for row in evidence.shown) - len(able)
    yield picture(
        "samples",
        "How far do single inferences lie from the median?",
        chart,
        rows,
        f"Each row is a cell; each tick stands for a 64th of its samples. Drawn are {len(chosen)} of {len(able)} "
        f"cells, the odd ones first: {counted((reason.kind for _, _, reason in chosen), most=4)}. Each record has its quantiles.",
        "A percentile without a bound had too few samples (64 for p90, 662 for p99)."
        if any({P90, P99} - {mark["part"] for mark in _marks(latency)} for _, latency, _ in chosen)
        else "",
        in_common(rows),
        beyond(evidence),
        f"Timed without samples, so that nothing can be drawn: {number_of(without, 'cell')}." if without else "",
    )


def _marks(latency: Latency) -> Iterator[dict[str, Any]]:
    model = latency.model
    low, high = model.interval_s or (None, None)
    yield {"part": MEDIAN, "seconds": model.median_s, "low_s": low, "high_s": high}
    for name, part in (("p90", P90), ("p99", P99)):
        bound = model.percentiles[name].bound_s if name in model.percentiles else None
        if bound is not None:
            yield {"part": part, "seconds": bound, "low_s": None, "high_s": None}


def _in_order(evidence: Evidence, able: Sequence[Odd]) -> Iterator[Picture]:
    """One picture for each cell: its samples in time, and below them what meters read at a rate that is known."""
    long = [each for each in able if len(each[1].model.samples_s) >= FEW]
    odd = [each for each in long if each[2].kind != TAILS]
    metered = [each for each in long if each[2].kind == TAILS and (_rated(each[1]) or _powers(each[1]))]
    chosen = [*odd, *metered][:IN_ORDER]
    for row, latency, reason in chosen:
        record = evidence.records[row.key]
        ends_s = latency.model.warmup_s + sum(latency.model.samples_s)
        panels = [_timeline(row, latency, ends_s)]
        panels += [_reading(row, name, reading, ends_s) for name, reading in _rated(latency).items()]
        panels += [_power(row, name, energy) for name, energy in _powers(latency).items()]
        later = (
            "Energy was read in a window of further inferences, after these: its time begins anew." if _powers(latency) else ""
        )
        yield picture(
            f"samples-{row.key}",
            f"What happened while {row.id} was timed?",
            alt.vconcat(*panels),
            [row],
            f"Why this cell: {reason.words if reason.kind != TAILS else 'meters were read beside it'}. Samples in their order, "
            f"one after another from the end of warm-up, on a logarithmic axis; {_points(latency.model.samples_s)}.",
            _before_and_after(record),
            _unread(latency),
            later,
            elsewhere(len(odd) - IN_ORDER, "odd cell", "disturbed, vague or not steady"),
        )


def _points(samples: Sequence[float]) -> str:
    """Say what the points of a timeline are."""
    size = _bin(samples)
    many = f"is the median of {size} samples, its bar reaches from the shortest to the longest of them"
    return f"each point {'is a sample' if size == 1 else many}"


def _bin(samples: Sequence[float]) -> int:
    """Return how many samples a point stands for."""
    return -(-len(samples) // BINS)


def binned(samples_s: Sequence[float], begin_s: float) -> Iterator[dict[str, float]]:
    """Summarise samples that follow each other: when the first of them began, their median and their ends, in seconds."""
    size = _bin(samples_s)
    begins = list(accumulate(samples_s, initial=begin_s))
    for first in range(0, len(samples_s), size):
        some = samples_s[first : first + size]
        yield {"at_s": begins[first], "median_s": median(some), "least_s": min(some), "most_s": max(some), "first": first + 1}


def _timeline(row: Row, latency: Latency, ends_s: float) -> Any:
    model = latency.model
    rows: list[dict[str, Any]] = [{**each, "link": link(row)} for each in binned(model.samples_s, model.warmup_s)]
    base = alt.Chart(inline(f"order_{row.key}", rows)).transform_calculate(
        ms="datum.median_s * 1000", low="datum.least_s * 1000", high="datum.most_s * 1000"
    )
    ms = [1e3 * each[end] for each in rows for end in ("least_s", "most_s")]
    x, y = _time(ends_s), alt.Y("ms:Q", title="latency (ms)", scale=logarithmic(ms), axis=alt.Axis(labelExpr=LOG_LABELS))
    tip = told(("first", "sample", "d"), ("at_s", "s", ".3~f"), ("ms", "median, ms", ".4~g"), ("low", "shortest, ms", ".4~g"),
               ("high", "longest, ms", ".4~g"))  # fmt: skip
    return alt.layer(
        base.mark_rule(color=COLOURS[0], opacity=0.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=16, color=COLOURS[0], opacity=1).encode(x=x, y=y, tooltip=tip, **HREF),
    ).properties(width=WIDTH, height=200)


def _time(ends_s: float) -> Any:
    title = "seconds since warm-up began"
    return alt.X("at_s:Q", title=title, scale=alt.Scale(domain=[0, ends_s], nice=False))


def _rated(latency: Latency) -> Mapping[str, Reading]:
    """Return the readings of which it is known when each value was read."""
    return {name: reading for name, reading in latency.telemetry.items() if reading.rate_hz and len(reading.values) > 1}


def _reading(row: Row, name: str, reading: Reading, ends_s: float) -> Any:
    assert reading.rate_hz is not None
    scale, unit = SEEN.get(reading.unit, (1.0, "" if reading.unit == "1" else reading.unit))
    rows = [{"at_s": number / reading.rate_hz, "value": value} for number, value in enumerate(reading.values)]
    line = alt.Chart(inline(f"{name}_{row.key}", rows)).transform_calculate(seen=f"datum.value * {scale!r}")
    title = f"{name} ({unit})" if unit else name
    return line.mark_line(color=COLOURS[5], point={"size": 16, "color": COLOURS[5]}).encode(
        x=_time(max(ends_s, rows[-1]["at_s"])),
        y=alt.Y("seen:Q", title=title, scale=alt.Scale(zero=False)),
        tooltip=told(("at_s", "s", ".3~f"), ("seen", title, ".4~g")),
    ).properties(width=WIDTH, height=90)  # fmt: skip


def _powers(latency: Latency) -> Mapping[str, Energy]:
    """Return the meters that sampled their window of energy."""
    return {name: one for name, one in latency.energy.items() if one.seconds and len(one.samples) > 2}


def power(energy: Energy) -> list[dict[str, float]]:
    """Return watts in time, in seconds since the window began, as if its samples were evenly spaced; of a counter, its growth."""
    assert energy.seconds is not None
    samples, step_s = energy.samples, energy.seconds / len(energy.samples)
    if energy.unit == "J":
        return [{"at_s": (number + 0.5) * step_s, "watts": (after - before) / step_s}
                for number, (before, after) in enumerate(zip(samples, samples[1:]))]  # fmt: skip
    return [{"at_s": number * step_s, "watts": watts} for number, watts in enumerate(samples)]


def _power(row: Row, name: str, energy: Energy) -> Any:
    line = alt.Chart(inline(f"power_{name}_{row.key}", power(energy))).mark_line(
        color=COLOURS[3], point={"size": 16, "color": COLOURS[3]}
    )
    estimate = "estimated " if energy.estimate else ""
    return line.encode(
        x=alt.X(
            "at_s:Q", title="seconds since the window of energy began", scale=alt.Scale(domain=[0, energy.seconds], nice=False)
        ),
        y=alt.Y("watts:Q", title=[f"{estimate}power (W)", f"by {name}"], scale=alt.Scale(zero=False)),
        tooltip=told(("at_s", "s", ".3~f"), ("watts", "W", ".4~g")),
    ).properties(width=WIDTH, height=90)


def seen(reading: Reading | None, shown: str = ".4g") -> str | None:
    """Return the value of a reading as people see it."""
    if reading is None or reading.value is None:
        return None
    scale, unit = SEEN.get(reading.unit, (1.0, "" if reading.unit == "1" else reading.unit))
    return f"{reading.value * scale:{shown}} {unit}".strip()


def _before_and_after(record: Record) -> str:
    """Say what the machine's state was at both ends, of what can be read."""
    pairs = {name: (seen(reading), seen(record.state_after.get(name))) for name, reading in record.state_before.items()}
    told = [f"{name.replace('_', ' ')} {before}, then {after}" for name, (before, after) in pairs.items() if before and after]
    return f"Before the cell and after it: {'; '.join(told)}." if told else ""


def _unread(latency: Latency) -> str:
    silent = [name for name, reading in latency.telemetry.items() if reading.unavailable]
    silent += [name for name, energy in latency.energy.items() if not energy.samples and energy.unavailable]
    return f"Meters that read nothing: {', '.join(silent)}; the record says why." if silent else ""
