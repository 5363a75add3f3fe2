"""What a gate found, as a forest plot: how much slower the head is than its base, cell by cell, with the controls apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from plumbline.harness.studies.gate import Report
from plumbline.harness.studies.gate import Row as Judged
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.regression import (
    EFFECT,
    IMPROVED,
    INCOMPARABLE,
    INCONCLUSIVE,
    MARGIN,
    MISSING,
    NEW,
    REGRESSED,
    UNCHANGED,
    WITHIN_NOISE,
)
from plumbline.harness.views import gate as words
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.pictures.drawing import (
    GREY,
    HREF,
    STEP,
    counted,
    dashes,
    inline,
    named,
    picture,
    sentence,
    told,
    told_apart,
    wrapped,
)
from plumbline.texts import number_of

STYLES = {REGRESSED: 5, IMPROVED: 2, WITHIN_NOISE: 0, INCONCLUSIVE: 1, INCOMPARABLE: 3, MISSING: 6, NEW: 4, UNCHANGED: 7}
WIDTH = 420
NONE, EDGE, FOUND = "no change", "margin: less is no slowdown", f"{math.expm1(EFFECT):.0%} slower: promised to be found"
# of a ratio, in steps that look alike on a logarithmic axis
TICKS = [0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 0.98, 1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10]


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw each gate's verdicts."""
    return [each for number, report in enumerate(evidence.gates, 1) for each in _forest(evidence, report, number)]


def _forest(evidence: Evidence, report: Report, number: int) -> Iterator[Picture]:
    timed = [row for row in report.rows if row.judgement.interval is not None]
    untimed = [row for row in report.rows if row.judgement.interval is None]
    if not timed and not report.controls:
        return
    shown = _shown(timed)
    links = {row.id: f"#{row.key}" for row in evidence.shown}
    rows = [_plain(row, links) for row in shown]
    controls = [_plain(row, links) for row in report.controls if row.judgement.interval is not None]
    domain = reach([*rows, *controls])
    verdicts = {word: place for word, place in STYLES.items() if word in {row["verdict"] for row in [*rows, *controls]}}
    parts = [_part(f"gate_{number}_{name}", own, domain, verdicts, title) for name, own, title in
             (("cells", rows, "cells"), ("controls", controls, "controls")) if own]  # fmt: skip
    verdict = words.summary(report).partition("\n")[0]
    day = "" if report.started_at is None else f", measured {report.started_at[:10]}"
    yield picture(
        f"gate-{number}",
        f"Is {report.head} slower than {report.base}?",
        alt.vconcat(*parts).resolve_scale(color="shared", shape="shared", strokeDash="shared"),
        [],
        f"{sentence(verdict)} On {report.machine}{day}; precision and batch are in the name of each cell.",
        "Points are effects of the head over the base on the median inference, of pairs of processes that take turns, bars their "
        "99 % intervals. Logarithmic.",
        "A bar that is wider than the axis is cut off." if _cut([*rows, *controls], domain) else "",
        f"Not to be trusted: {'; '.join(report.distrust)}." if report.distrust else "",
        f"{number_of(len(timed) - len(shown), 'more cell')} within noise left out." if len(timed) > len(shown) else "",
        f"Without an effect: {counted(_reason(row) for row in untimed)}." if untimed else "",
        f"On neither side: {counted(report.skipped.values())}." if report.skipped else "",
        "" if controls else "No control was timed.",
    )


def _shown(timed: Sequence[Judged]) -> list[Judged]:
    """Leave out what is within noise where there is much of it, as views/gate.py does: what is known best."""
    fine = [row for row in timed if row.judgement.verdict == WITHIN_NOISE and not row.changes]
    if len(fine) <= words.MANY:
        return list(timed)
    surest = {row.name for row in sorted(fine, key=_width)[: len(fine) - words.MANY]}
    return [row for row in timed if row.name not in surest]


def _width(row: Judged) -> float:
    low, high = row.judgement.interval or (0.0, 0.0)
    return high - low


def _reason(row: Judged) -> str:
    return f"{row.judgement.verdict}: {row.judgement.reason}" if row.judgement.reason else row.judgement.verdict


def _plain(row: Judged, links: dict[str, str]) -> dict[str, Any]:
    judged = row.judgement
    low, high = judged.interval or (None, None)
    return {
        "label": wrapped(row.name),
        "name": row.name,
        "verdict": judged.verdict,
        "effect": judged.effect,
        "low": low,
        "high": high,
        "pairs": judged.pairs,
        "detectable": judged.detectable,
        "base_s": row.base_s,
        "head_s": row.head_s,
        "why": "; ".join(dict.fromkeys(filter(None, [judged.reason, *row.changes]))) or "nothing to add",
        "link": links.get(row.name),
    }


def reach(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the ends of the axis: all effects, what is promised, and intervals as far as three times the largest of these."""
    most = max(EFFECT * 1.5, *(abs(math.log1p(row["effect"])) for row in rows))
    low = min(math.log1p(max(row["low"], -1 + 1e-9)) for row in rows)  # 1 and less than that are the same in floating point
    high = max(math.log1p(row["high"]) for row in rows)
    return [math.exp(max(-3 * most, min(low, -EFFECT))) * 0.995, math.exp(min(3 * most, max(high, 1.2 * EFFECT))) * 1.005]


def _cut(rows: Sequence[dict[str, Any]], domain: Sequence[float]) -> bool:
    """Whether an interval is wider than the axis."""
    return any(1 + row["low"] < domain[0] or 1 + row["high"] > domain[1] for row in rows)


def _part(name: str, rows: Sequence[dict[str, Any]], domain: Sequence[float], verdicts: dict[str, int], title: str) -> Any:
    axis = alt.Axis(
        values=[tick for tick in TICKS if domain[0] <= tick <= domain[1]],
        labelExpr="datum.value == 1 ? '0%' : format(datum.value - 1, '+.0%')",
        labelOverlap="greedy",
    )
    x = alt.X("times:Q", title="head beside base (slower to the right)", axis=axis,
              scale=alt.Scale(type="log", domain=list(domain), nice=False, clamp=True))  # fmt: skip
    y = named("label", [row["label"] for row in rows])
    apart = told_apart("verdict", verdicts, "verdict")
    tip = told(
        ("name", "cell", ""), ("verdict", "verdict", ""), ("effect", "change", "+.2%"), ("ends", "99 % interval", ""),
        ("pairs", "pairs", "d"), ("finds", "slowdown that would have been found", ""), ("base", "base, ms", ""),
        ("head", "head, ms", ""), ("why", "why", ""),
    )  # fmt: skip
    margin = math.exp(MARGIN)
    marks = [{"line": NONE, "times": 1.0}, {"line": EDGE, "times": margin}, {"line": EDGE, "times": 1 / margin},
             {"line": FOUND, "times": math.exp(EFFECT)}]  # fmt: skip
    band = alt.Chart(inline(f"{name}_band", [{"from": 1 / margin, "to": margin}])).mark_rect(color=GREY, opacity=0.2)
    lines = alt.Chart(inline(f"{name}_lines", marks)).mark_rule(color=GREY)
    layers = alt.layer(
        band.encode(x=alt.X("from:Q"), x2="to:Q"),
        lines.encode(x=alt.X("times:Q"), strokeDash=dashes([NONE, EDGE, FOUND])),
        alt.Chart().mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("least:Q"), x2="most:Q", y=y, color=apart["color"]),
        alt.Chart().mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, tooltip=tip, **apart, **HREF),
        data=inline(name, rows),
    ).transform_calculate(
        times="1 + datum.effect", least="1 + datum.low", most="1 + datum.high",
        ends="format(datum.low, '+.1%') + ' to ' + format(datum.high, '+.1%')",
        finds="isValid(datum.detectable) ? format(datum.detectable, '.1%') : 'unavailable'",
        base="isValid(datum.base_s) ? format(datum.base_s * 1000, '.3~g') : 'not measured'",
        head="isValid(datum.head_s) ? format(datum.head_s * 1000, '.3~g') : 'not measured'",
    )  # fmt: skip
    return layers.properties(width=WIDTH, height=alt.Step(STEP), title=alt.Title(title, anchor="start"))
