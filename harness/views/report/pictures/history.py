"""The history of cells that several sessions measured: those whose level changed, each in a panel of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import altair as alt

from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.changes import FALSE_POINTS, LEAST, Change, Found, Series, changed_with, level
from plumbline.harness.views.report.picture import COLOURS, Picture
from plumbline.harness.views.report.pictures.drawing import (
    GREY,
    HREF,
    LINES,
    PANEL,
    elsewhere,
    inline,
    picture,
    told,
    told_apart,
    wrapped,
)
from plumbline.texts import number_of

PANELS = 12
STYLES = {"slower": 5, "faster": 2}
SHAPES = {"slower": "triangle-up", "faster": "triangle-down"}


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw the series with a change of level or a drift; the others are counted."""
    return list(_history(evidence))


def _history(evidence: Evidence) -> Iterator[Picture]:
    changed = [each for each in evidence.history if each[1].changes or each[1].drift is not None]
    if not changed:
        return
    changed.sort(key=lambda each: -_largest(each[1]))
    chosen = changed[:PANELS]
    links = {(row.id, row.session): f"#{row.key}" for row in evidence.shown}
    several = len({series.machine for series, _ in evidence.history}) > 1
    names = _names([series for series, _ in chosen], several)
    rows = [one for (series, found), name in zip(chosen, names) for one in _drawn(series, found, name, links)]
    sessions = {session.session for series, _ in chosen for session in series.sessions}
    shown = [row for row in evidence.shown if row.session in sessions and row.id in {series.cell for series, _ in chosen}]
    others = Counter(_quiet(found) for _, found in evidence.history if not (found.changes or found.drift is not None))
    yield picture(
        "history",
        "Which cells became slower or faster from session to session?",
        _chart(rows, names),
        shown,
        "" if shown else _where_and_when([series for series, _ in chosen]),
        f"Each panel is a cell on one machine, each point the median of a session; {_lines(rows)}. Vertical axes "
        "differ, and do not begin at zero.",
        f"Of series without a change at most {FALSE_POINTS:.0%} have a point, by simulation of noise like theirs. This is a "
        "listing, and no gate: what many cells have in common at one session, the machine did.",
        *(f"{number_of(count, 'cell')} {words}." for words, count in others.items()),
        elsewhere(len(changed) - len(chosen), "cell", "that changed less"),
    )


def _where_and_when(chosen: Collection[Series]) -> str:
    """Say what `where_and_when` says of rows, of series whose rows the page does not hold."""
    days = sorted(session.at[:10] for series in chosen for session in series.sessions)
    machines = "; ".join(dict.fromkeys(series.machine for series in chosen))
    return f"On {machines}, measured {days[0]} to {days[-1]}; precision and batch are in the name of each cell."


def _lines(rows: Collection[Mapping[str, Any]]) -> str:
    """Say what is drawn beside the points."""
    words = {
        "level": "lines are levels",
        "change": "at a point of change stands its size",
        "drift": "a dashed line is a drift, with its size",
    }
    drawn = {row["what"] for row in rows}
    return ", ".join(text for what, text in words.items() if what in drawn)


def _largest(found: Found) -> float:
    sizes = [change.size for change in found.changes] + ([found.drift] if found.drift is not None else [])
    return max(abs(math.log1p(size)) for size in sizes)


def _quiet(found: Found) -> str:
    return f"with fewer than {LEAST} sessions, of which nothing is said" if found.short else "without a change"


def _names(chosen: list[Series], several: bool) -> list[str]:
    return [wrapped(f"{series.cell} ({series.machine})" if several else series.cell) for series in chosen]


def _drawn(series: Series, found: Found, name: str, links: Mapping[tuple[str, str], str]) -> Iterator[dict[str, Any]]:
    """Return sessions, levels and changes of a series; sessions are numbered from 1."""
    count = len(series.sessions)
    for number, session in enumerate(series.sessions, 1):
        yield {
            "panel": name,
            "what": "session",
            "number": number,
            "seconds": session.median_s,
            "at": session.at[:16],
            "revision": session.revision or "unknown",
            "session": session.session,
            "link": links.get((series.cell, session.session)),
        }
    ends = [0, *(change.first for change in found.changes), count]
    if found.drift is None:
        for first, last in zip(ends, ends[1:]):
            seconds = level(series, first, last)
            yield {
                "panel": name,
                "what": "level",
                "number": first + 0.5,
                "until": last + 0.5,
                "seconds": seconds,
                "to_s": seconds,
            }
    else:
        middle, growth = level(series, 0, count), math.log1p(found.drift)
        for number in range(count):
            share = number / (count - 1) - 0.5
            yield {"panel": name, "what": "drift", "number": number + 1, "seconds": middle * math.exp(share * growth)}
        yield {"panel": name, "what": "drift's size", "number": 1, "size": found.drift, "shown": f"{found.drift:+.1%}"}
    for change in found.changes:
        yield {"panel": name, **_change(series, change)}


def _change(series: Series, change: Change) -> dict[str, Any]:
    after, before = series.sessions[change.first], series.sessions[change.first - 1]
    return {
        "what": "change",
        "number": change.first + 0.5,
        "seconds": after.median_s,
        "size": change.size,
        "shown": f"{change.size:+.1%}",
        "kind": "slower" if change.size > 0 else "faster",
        "at": after.at[:16],
        "revision": f"{before.revision} -> {after.revision}",
        "ends": f"{change.interval[0]:+.1%} to {change.interval[1]:+.1%}",
        "else": "; ".join(changed_with(series, change)) or "nothing that is recorded",
    }


def _chart(rows: list[dict[str, Any]], names: list[str]) -> Any:
    apart = told_apart("kind", STYLES, "change of level", shapes=SHAPES)
    x = alt.X("number:Q", title="session", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    y = alt.Y("ms:Q", title="median latency (ms)", scale=alt.Scale(zero=False, padding=16))
    base = alt.Chart()

    def of(what: str) -> Any:
        return base.transform_filter(f"datum.what == '{what}'")

    session = told(("at", "began", ""), ("revision", "revision", ""), ("ms", "median, ms", ".4~g"))
    change = told(("shown", "change", ""), ("ends", "95 % interval", ""), ("revision", "revisions", ""), ("at", "since", ""),
                  ("else", "what else changed", ""))  # fmt: skip
    layers = alt.layer(
        of("session").mark_point(filled=True, size=22, color=COLOURS[0], opacity=0.9).encode(x=x, y=y, tooltip=session, **HREF),
        of("level").mark_rule(strokeWidth=2, color=GREY).encode(x=x, x2="until:Q", y=y),
        of("drift").mark_line(strokeWidth=2, color=GREY, strokeDash=[6, 4]).encode(x=x, y=y),
        of("change").mark_rule(strokeDash=[2, 2]).encode(x=x, color=apart["color"], tooltip=change),
        of("change").mark_point(filled=True, size=70, opacity=1).encode(x=x, y=alt.value(6), tooltip=change, **apart),
        base.transform_filter("isValid(datum.shown)")
        .mark_text(align="left", dx=6, baseline="middle")
        .encode(x=x, y=alt.value(6), text="shown:N"),
    ).properties(width=PANEL, height=130)
    facet = alt.Facet(
        field="panel", type="nominal", sort=names, header=alt.Header(title=None, labelExpr=LINES, labelLimit=PANEL + 40)
    )
    chart = alt.FacetChart(spec=layers, facet=facet, columns=2, data=inline("history", rows)).resolve_scale(
        x="independent", y="independent"
    )
    return chart.transform_calculate(ms="datum.seconds * 1000")
