"""A guess of a latency that nobody measured, from published ones of other nets on that device, with an interval or none at all.

t = a MACs + b bytes + c operations: three constants that are not negative, by least squares of the relative error.
docs/fit.md has how far it is off, and what was tried beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy
from msgspec import Struct
from scipy.optimize import nnls

from plumbline import PlumblineError
from plumbline.harness.statistics import student

CONSTANTS = 3
LEAST_FAMILIES = 4  # fewer kinds of nets say nothing of another kind
BEYOND = 2.0  # times as much as any anchor, or as little, is another kind of net
UNSEEN = 0.05  # of the bytes that a net moves: the most that operations may have which no anchor has


class NoEstimate(PlumblineError, LookupError):
    """A net or a device of which nothing is estimated; says why."""


class Amounts(Struct, frozen=True):
    """What an inference does: MACs, bytes that its operations read and write, their number, and the bytes of each kind."""

    macs: int
    bytes: int
    operations: int
    kinds: dict[str, int]

    @property
    def row(self) -> tuple[float, float, float]:
        return float(self.macs), float(self.bytes), float(self.operations)


class Anchor(Struct, frozen=True):
    """A net that was measured on a device, of a family such as `resnet`."""

    name: str
    family: str
    seconds: float
    amounts: Amounts


class Estimate(Struct, frozen=True):
    """A guess in seconds, with its 95 % interval; `kin` says whether an anchor is of the same family."""

    seconds: float
    interval: tuple[float, float]
    kin: bool


class Additive:
    """Three constants, in seconds a MAC, a byte and an operation, and how far they were off for anchors that they did not see.

    `errors` are logarithms of estimated over measured of each anchor, without it; `family_errors` without its whole family.
    `factor` is that of a calibration. Raises NoEstimate.
    """

    def __init__(self, anchors: Sequence[Anchor]) -> None:
        families = {anchor.family for anchor in anchors}
        if len(families) < LEAST_FAMILIES:
            got = ", ".join(sorted(families)) or "none"
            raise NoEstimate(f"expected anchors of {LEAST_FAMILIES} families of nets at least, got {len(families)} ({got})")
        self.anchors, self.families, self.factor = list(anchors), families, 1.0
        self.constants = _fitted(anchors)
        self.errors = {one.name: _off(one, [other for other in anchors if other is not one]) for one in anchors}
        self.family_errors = {one.name: _off(one, [other for other in anchors if other.family != one.family]) for one in anchors}

    def of(self, amounts: Amounts, family: str) -> Estimate:
        """Guess what an inference takes. Raises NoEstimate of one that is unlike the anchors."""
        self.check(amounts)
        kin = family in self.families
        errors = list((self.errors if kin else self.family_errors).values())
        freedom = (len(errors) if kin else len(self.families)) - (CONSTANTS if kin else 1)
        spread = math.sqrt(fmean([error**2 for error in errors]))
        around = math.exp(student(0.975, max(1, freedom)) * spread)
        seconds = self.factor * float(numpy.dot(amounts.row, self.constants))
        return Estimate(seconds, (seconds / around, seconds * around), kin)

    def check(self, amounts: Amounts) -> None:
        """Raise NoEstimate where operations are of kinds that no anchor has, or do much more or less than all anchors."""
        known = {kind for anchor in self.anchors for kind in anchor.amounts.kinds}
        unseen = {kind: moved for kind, moved in amounts.kinds.items() if kind not in known}
        share = sum(unseen.values()) / max(1, amounts.bytes)
        if share > UNSEEN:
            names = ", ".join(sorted(unseen, key=lambda kind: -unseen[kind])[:4])
            raise NoEstimate(f"{share:.0%} of what it reads and writes is in operations that no anchor has ({names})")
        for name in ("macs", "bytes", "operations"):
            found = [getattr(anchor.amounts, name) for anchor in self.anchors]
            least, most, got = min(found) / BEYOND, max(found) * BEYOND, getattr(amounts, name)
            if not least <= got <= most:
                what = "MACs" if name == "macs" else name
                raise NoEstimate(f"it has {got:.2g} {what}, and the anchors {min(found):.2g} to {max(found):.2g}")

    def calibrate(self, measured: Mapping[str, tuple[Amounts, float]]) -> None:
        """Scale it so that it gives on the average what was measured: amounts and seconds by name. Raises NoEstimate."""
        for name, (amounts, _) in measured.items():
            try:
                self.check(amounts)
            except NoEstimate as reason:
                raise NoEstimate(f"{name} calibrates nothing: {reason}") from reason
        ratios = [math.log(seconds / float(numpy.dot(amounts.row, self.constants))) for amounts, seconds in measured.values()]
        self.factor = math.exp(fmean(ratios)) if ratios else 1.0


def mean_error(errors: Mapping[str, float]) -> float:
    """Return the mean of the errors' sizes, as a share of what was measured."""
    return fmean([abs(math.expm1(error)) for error in errors.values()])


def _fitted(anchors: Sequence[Anchor]) -> Any:
    rows = numpy.array([[each / anchor.seconds for each in anchor.amounts.row] for anchor in anchors])
    scale = rows.mean(axis=0)
    found, _ = nnls(rows / scale, numpy.ones(len(anchors)))
    return found / scale


def _off(anchor: Anchor, others: Sequence[Anchor]) -> float:
    return math.log(float(numpy.dot(anchor.amounts.row, _fitted(others))) / anchor.seconds)
