"""Figures beside their limits: what a study or the suite itself is to reach."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from plumbline.harness.verdicts.words import FAILED, MISSING, PASSED


class Limit(Struct, frozen=True):
    """A figure and what it is to reach: at least the limit, or at `most`. `got` is None where it was not measured.

    `low` and `high` are the ends of an interval of the figure: it fails where the whole interval lies beyond the limit.
    """

    figure: str
    got: float | None
    limit: float
    unit: str
    most: bool = False
    interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """`passed`, `failed`, or `missing` where it was not measured."""
        if self.got is None:
            return MISSING
        low, high = self.interval or (self.got, self.got)
        return PASSED if (low <= self.limit if self.most else high >= self.limit) else FAILED


def failed(limits: Iterable[Limit]) -> list[str]:
    """Return the figures that were measured and are beyond their limit."""
    return [limit.figure for limit in limits if limit.verdict == FAILED]
