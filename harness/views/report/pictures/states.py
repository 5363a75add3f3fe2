"""Clock, temperature, load and power of the machine, from cell to cell of a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import altair as alt

from plumbline.harness.rows import Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.pictures.drawing import HREF, WIDTH, beyond, counted, inline, link, picture, told, told_apart
from plumbline.harness.views.report.pictures.samples import SEEN, seen
from plumbline.texts import number_of

CELLS_SHOWN = 250
ENDS = {"before the cell": 0, "after it": 1}
BEFORE, AFTER = ENDS
LEFT_OUT = ("power_mode", "throttled")  # numbers that stand for words


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw what of the machine's state has changed during the last session."""
    return list(_states(evidence))


def _states(evidence: Evidence) -> Iterator[Picture]:
    last = max(evidence.shown, key=lambda row: row.started_at, default=None)
    if last is None:
        return
    session = sorted((row for row in evidence.shown if row.session == last.session), key=lambda row: row.started_at)
    rows = session[:: -(-len(session) // CELLS_SHOWN)]
    points = list(_points(evidence, rows))
    panels, constant = [], []
    for quantity in dict.fromkeys(point["quantity"] for point in points):
        own = [point for point in points if point["quantity"] == quantity]
        values = {point["value"] for point in own}
        if len(values) > 1:
            panels.append(_panel(quantity, own))
        else:
            constant.append(f"{quantity.replace('_', ' ')} {own[0]['seen']}")
    if not panels:
        return
    sessions = len({row.session for row in evidence.rows})
    yield picture(
        "machine-during-the-session",
        "Did the machine change while the session ran?",
        alt.vconcat(*panels).resolve_scale(color="shared", shape="shared"),
        rows,
        "Read before each cell, and after it.",
        f"The same all the time: {'; '.join(constant)}." if constant else "",
        _unread(evidence, rows),
        f"{len(rows)} of {len(session)} cells are drawn, evenly spaced." if len(rows) < len(session) else "",
        beyond(evidence),
        f"This is the last of {number_of(sessions, 'session')}." if sessions > 1 else "",
    )


def _points(evidence: Evidence, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    begun = datetime.fromisoformat(rows[0].started_at)
    for row in rows:
        record = evidence.records[row.key]
        at_s = (datetime.fromisoformat(row.started_at) - begun).total_seconds()
        for when, later_s, state in ((BEFORE, 0.0, record.state_before), (AFTER, row.seconds, record.state_after)):
            for quantity, reading in state.items():
                if reading.value is not None and quantity not in LEFT_OUT:
                    yield {
                        "quantity": quantity, "when": when, "at_s": at_s + later_s, "value": reading.value, "unit": reading.unit,
                        "seen": seen(reading), "id": row.id, "disturbed": row.disturbed or "not disturbed", "link": link(row),
                    }  # fmt: skip
        for name, energy in record.latency.energy.items() if record.latency else ():
            if energy.running_w is not None and not energy.estimate:
                yield {
                    "quantity": f"power by {name}",
                    "when": AFTER,
                    "at_s": at_s + row.seconds,
                    "value": energy.running_w,
                    "unit": "W",
                    "seen": f"{energy.running_w:.4g} W",
                    "id": row.id,
                    "disturbed": row.disturbed or "not disturbed",
                    "link": link(row),
                }


def _panel(quantity: str, points: Sequence[dict[str, Any]]) -> Any:
    scale, unit = SEEN.get(points[0]["unit"], (1.0, "" if points[0]["unit"] == "1" else points[0]["unit"]))
    title = f"{quantity.replace('_', ' ')} ({unit})" if unit else quantity.replace("_", " ")
    base = alt.Chart(inline(f"state_{quantity}", points)).transform_calculate(
        shown=f"datum.value * {scale!r}", minutes="datum.at_s / 60"
    )
    return base.mark_point(size=40, opacity=1).encode(
        x=alt.X("minutes:Q", title="minutes since the session began"),
        y=alt.Y("shown:Q", title=title, scale=alt.Scale(zero=False)),
        tooltip=told(("id", "cell", ""), ("when", "read", ""), ("seen", quantity, ""), ("minutes", "minutes", ".3~f"),
                     ("disturbed", "disturbed", "")),
        **told_apart("when", ENDS, "read"), **HREF,
    ).properties(width=WIDTH, height=110)  # fmt: skip


def _unread(evidence: Evidence, rows: Sequence[Row]) -> str:
    silent = {
        f"{name.replace('_', ' ')}: {reading.unavailable}"
        for row in rows
        for name, reading in evidence.records[row.key].state_before.items()
        if reading.unavailable
    }
    return f"Not read: {counted(sorted(silent), most=5).replace(' (1)', '')}." if silent else ""
