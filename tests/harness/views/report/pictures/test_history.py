"""The history of cells, drawn."""

from __future__ import annotations

import math
import random

import pytest

from plumbline.harness.verdicts.changes import Change, Found, Series, Session, changes, level
from tests.harness.views.report.pictures.drawings import check, data_of, drawn, evidence_of, links
from tests.records import cell_of, latency_of, record_of

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from plumbline.harness.views.report.pictures import history


def series(medians_s: list[float], cell: str = "mlp-dense", machine: str = "m") -> Series:
    sessions = [
        Session(
            f"2026-01-{number:02}T10:00:00+00:00",
            median_s,
            f"rev{number}",
            f"s{number}",
            {"torch": {"torch": "2" if number < 11 else "3"}},
        )
        for number, median_s in enumerate(medians_s, 1)
    ]
    return Series(cell, machine, sessions)


def stepped(size: float, count: int = 20, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [1e-3 * (1 + size * (number >= count / 2)) * math.exp(chance.gauss(0, 0.005)) for number in range(count)]


def test_a_step_is_drawn_where_it_was_found() -> None:
    medians = stepped(0.3)
    found = changes(medians)
    one = series(medians)
    record = record_of(cell_of(), id="mlp-dense", session="s3", latency=latency_of())
    evidence = evidence_of(record, history=[(one, found)])
    (picture,) = history.pictures(evidence)
    check(picture)
    rows = data_of(picture, "history")
    sessions = [row for row in rows if row["what"] == "session"]
    assert [row["seconds"] for row in sessions] == medians
    assert [row["link"] for row in sessions] == [None, None, "#c0", *[None] * 17]
    assert sessions[4]["revision"] == "rev5"
    (change,) = [row for row in rows if row["what"] == "change"]
    assert (change["number"], change["size"], change["kind"]) == (10.5, found.changes[0].size, "slower")
    assert change["revision"] == "rev10 -> rev11"
    assert change["else"] == "torch: torch 2 -> 3"
    levels = [row for row in rows if row["what"] == "level"]
    assert [(row["number"], row["until"], row["seconds"]) for row in levels] == [
        (0.5, 10.5, level(one, 0, 10)), (10.5, 20.5, level(one, 10, 20)),
    ]  # fmt: skip
    assert links(drawn(picture, evidence)) == {"#c0"}


def test_cells_without_a_change_are_counted() -> None:
    steady, short = Found(), Found(short="3 sessions, expected 10 at least")
    drifting = Found(drift=0.5, drift_steps=2)
    told = [
        (series(stepped(0.0)), steady),
        (series([1e-3] * 3, "b"), short),
        (series(stepped(0.5), "c"), drifting),
        (series(stepped(0.0), "d"), steady),
    ]
    (picture,) = history.pictures(evidence_of(history=told))
    assert "2 cells without a change." in picture.caption
    assert "1 cell with fewer than 10 sessions, of which nothing is said." in picture.caption
    drift = [row["seconds"] for row in data_of(picture, "history") if row["what"] == "drift"]
    assert len(drift) == 20
    assert drift[-1] / drift[0] == pytest.approx(1.5)
    assert drift[1] / drift[0] == pytest.approx(1.5 ** (1 / 19)), "the same growth from session to session"
    assert history.pictures(evidence_of(history=told[:2])) == history.pictures(evidence_of()) == []


def test_faster_is_told_from_slower_and_the_largest_changes_are_drawn() -> None:
    told = [
        (series(stepped(0.0, seed=number), f"cell{number}"), Found([Change(10, -0.02 * (number + 1), (-0.5, 0.0))]))
        for number in range(20)
    ]
    (picture,) = history.pictures(evidence_of(history=told))
    check(picture)
    rows = data_of(picture, "history")
    assert {row["panel"] for row in rows} == {f"cell{number}" for number in range(8, 20)}
    assert {row["kind"] for row in rows if row["what"] == "change"} == {"faster"}
    assert "8 more cells" in picture.caption


def test_a_caption_names_levels_changes_and_drifts_where_there_are_some() -> None:
    medians = stepped(0.3)
    stepping = history.pictures(evidence_of(history=[(series(medians), changes(medians))]))[0].caption
    assert "lines are levels, at a point of change stands its size." in stepping and "drift" not in stepping
    drifting = history.pictures(evidence_of(history=[(series(medians), Found(drift=0.2))]))[0].caption
    assert "a dashed line is a drift, with its size." in drifting and "levels" not in drifting
