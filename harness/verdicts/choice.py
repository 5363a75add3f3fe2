"""Which rows stand for all where there are too many to look at: the best ones, what went wrong, and some of the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import TypeVar

from plumbline.harness.outcomes import OK
from plumbline.harness.rows import QUANTITIES, Row

# What is weighed against each other, on one machine and target, and with one set of pictures.
TRADED = (
    ("image_s", "top1"), ("inference_bytes", "top1"), ("joules", "top1"), ("stored_bytes", "top1"),
    ("image_s", "inference_bytes"), ("image_s", "joules"),
)  # fmt: skip
BEST, WRONG = 0.5, 0.25  # of the rows that are chosen, at most
Some = TypeVar("Some")


def chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """Return `most` rows at most, in their order, and always the same ones.

    First those that no other row beats in two quantities at once, the ends of each such frontier before its middle, with their
    dense parents; then those that did not end ok; then every n-th of the others.
    """
    if len(rows) <= most:
        return list(rows)
    best = evenly(best_of(rows, math.ceil(BEST * most / 2)), math.ceil(BEST * most))
    wrong = evenly([row for row in rows if row.outcome != OK], math.ceil(WRONG * most))
    kept = {row.key for row in (*best, *wrong)}
    others = evenly([row for row in rows if row.key not in kept], most - len(kept))
    kept |= {row.key for row in others}
    return [row for row in rows if row.key in kept]


def best_of(rows: Sequence[Row], most: int) -> list[Row]:
    """Return rows on a frontier of two quantities, about `most` of them, and the dense parents of those that are variants."""
    groups: dict[tuple[str, str, str | None], list[Row]] = {}
    for row in rows:
        if row.measured:
            groups.setdefault((row.machine_id, row.target, row.data), []).append(row)
    frontiers = [frontier(group, *pair) for group in groups.values() for pair in TRADED]
    each = max(2, most // max(1, len(frontiers)))
    best = {row.key for found in frontiers for row in evenly(found, each)}
    parents = {(row.machine_id, row.session, row.parent) for row in rows if row.key in best and row.parent}
    return [row for row in rows if row.key in best or (row.machine_id, row.session, row.id) in parents]


def frontier(rows: Sequence[Row], first: str, second: str) -> list[Row]:
    """Return the rows that no other one equals or beats in both quantities, the best by the first one first.

    Energy that is an estimate is weighed against nothing.
    """
    if "joules" in (first, second):
        rows = [row for row in rows if not row.energy_is_estimate]
    signs = [-1 if QUANTITIES[name].better == "higher" else 1 for name in (first, second)]
    values = enumerate(map(attrgetter(first, second), rows))
    costs = sorted((signs[0] * a, signs[1] * b, at) for at, (a, b) in values if a is not None and b is not None)
    found, best = [], math.inf
    for _, cost, at in costs:
        if cost < best:
            best = cost
            found.append(rows[at])
    return found


def evenly(some: Sequence[Some], most: int) -> list[Some]:
    """Return `most` of a sequence at most: its ends, and others at even distances."""
    if len(some) <= most:
        return list(some)
    return [some[round(number * (len(some) - 1) / max(1, most - 1))] for number in range(most)]
