"""Which rows are chosen of too many, on rows whose best ones are known."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plumbline.harness.rows import Row, row_of
from plumbline.harness.verdicts.choice import best_of, chosen, evenly, frontier
from tests.records import record_of

BLANK = row_of(record_of(), "c0")


def row(key: str, **fields: Any) -> Row:
    return msgspec.structs.replace(BLANK, key=key, id=key, **fields)


def timed(key: str, image_s: float, top1: float | None, **fields: Any) -> Row:
    return row(key, image_s=image_s, latency_s=image_s, top1=top1, data="pictures", **fields)


def keys(rows: list[Row]) -> list[str]:
    return [each.key for each in rows]


def test_a_frontier_by_hand() -> None:
    """b is beaten by a, d has no accuracy, e equals c and is no better."""
    rows = [timed("a", 1.0, 0.8), timed("b", 2.0, 0.7), timed("c", 3.0, 0.9), timed("d", 0.1, None), timed("e", 3.0, 0.9)]
    assert keys(frontier(rows, "image_s", "top1")) == ["a", "c"]
    assert keys(frontier(rows[::-1], "image_s", "top1")) == ["a", "e"]


def test_the_best_are_those_of_each_machine_with_their_parents() -> None:
    """c is the parent of the variant b, in the same session; d is beaten on the machine of a, but has one of its own."""
    rows = [timed("a", 1.0, 0.8), timed("b", 0.5, 0.7, parent="c"), timed("c", 3.0, 0.75), timed("x", 4.0, 0.1)]
    assert keys(best_of(rows, 99)) == ["a", "b", "c"]
    assert keys(best_of([*rows, timed("d", 9.0, 0.1, machine_id="other")], 99)) == ["a", "b", "c", "d"]


def test_what_failed_is_never_best() -> None:
    assert best_of([timed("a", 1.0, 0.8, outcome="failed")], 99) == []


def test_the_choice_has_the_best_what_went_wrong_and_some_of_the_rest() -> None:
    usual = [timed(f"r{number}", 2.0 + number / 1000, 0.5) for number in range(1000)]
    rows = [*usual[:700], timed("best", 1.0, 0.9), *usual[700:], *(row(f"f{n}", outcome="failed", reason="so") for n in range(3))]
    found = keys(chosen(rows, 40))
    assert len(found) == 40
    assert {"best", "f0", "f1", "f2"} <= set(found)
    assert found == [key for key in keys(rows) if key in found], "in their order"
    numbers = [int(key[1:]) for key in found if key.startswith("r")]
    assert max(after - before for before, after in zip(numbers, numbers[1:])) <= 60, "evenly"
    assert found == keys(chosen(rows, 40))
    assert keys(chosen(rows, len(rows))) == keys(rows)


def test_where_all_are_best_the_ends_stay() -> None:
    """A thousand rows, each slower and more accurate than the one before."""
    rows = [timed(f"r{number}", 1.0 + number, 0.5 + number / 10_000) for number in range(1000)]
    assert {"r0", "r999"} <= set(keys(best_of(rows, 10)))
    assert {"r0", "r999"} <= set(keys(chosen(rows, 40)))


def test_many_failures_do_not_crowd_out_the_others() -> None:
    rows = [
        *(row(f"f{n}", outcome="crashed", reason="so") for n in range(500)),
        *(timed(f"r{n}", 1.0 + n, 0.5) for n in range(500)),
    ]
    found = chosen(rows, 100)
    assert len(found) == 100
    assert sum(each.outcome == "crashed" for each in found) < 65


@pytest.mark.parametrize(("count", "most"), [(0, 3), (3, 3), (10, 3), (7, 5), (100_000, 5000)])
def test_evenly(count: int, most: int) -> None:
    found = evenly(range(count), most)
    assert len(found) == len(set(found)) == min(count, most)
    assert sorted(found) == found
    assert (0 in found and count - 1 in found) or count == 0
