"""What must hold of a cell before it is timed: the one list of it, for tests, races, studies and plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from plumbline.harness.facts import Accuracy, Agreement, Counts, Prepared, Promise
from plumbline.harness.outcomes import FAILED, CellEnded


class Claim(Struct, frozen=True):
    """A sentence about a cell, whether it holds, and what was found."""

    text: str
    holds: bool
    found: str


class Checked(Protocol):
    """What is asked of a cell; each question can raise `CellEnded`."""

    def counts(self) -> Counts: ...

    def prepared(self) -> Prepared: ...

    def promise(self) -> Promise | None: ...

    def agreement(self) -> Agreement: ...

    def accuracy(self) -> Accuracy: ...


def counted(counts: Counts) -> Iterator[Claim]:
    """Claim that the routes of counting agree."""
    yield Claim("the formula gives what torch's counter finds", counts.formula_holds, counts.explanation)
    yield Claim("two counters that know nothing of each other agree", counts.counters_agree, counts.explanation)
    yield Claim("the counts are the published ones", counts.as_published, counts.explanation)


def claims(cell: Checked) -> Iterator[Claim]:
    """Check the counts, the size of the very object, its outputs and its accuracy, one after the other."""
    counts = cell.counts()
    yield from counted(counts)
    parameters, promise = cell.prepared().parameters, cell.promise()
    expected = counts.parameters if promise is None else promise.parameters_stored
    yield Claim(
        "the object has the parameters that were counted", parameters == expected, f"expected {expected}, got {parameters}"
    )
    if promise is not None:
        yield Claim("the compressed net is what its dense parent allows", promise.keeps_to(counts), promise.explanation)
    agreement = cell.agreement()
    yield Claim("two calls on one input give the same", agreement.repeatable, agreement.explanation)
    yield Claim("the outputs are those of the float64 reference", agreement.same_function, agreement.explanation)
    accuracy = cell.accuracy()
    yield Claim("the accuracy reaches its floor", accuracy.reaches_floor, accuracy.explanation)
    yield Claim("the accuracy keeps to that of the fp32 parent", accuracy.keeps_to_parent, accuracy.explanation)


def qualify(cell: Checked) -> None:
    """Check all claims. Raises CellEnded at the first that does not hold."""
    for claim in claims(cell):
        if not claim.holds:
            raise CellEnded(FAILED, f"not so: {claim.text}: {claim.found}")
