"""What `plumbline doctor` finds: instruments against known truths, and circumstances that a measurement depends on."""

from __future__ import annotations

from msgspec import Struct

FIT, BETTER, UNFIT, MISSING = "fit", "could be better", "not fit", "not here"  # verdicts


class Check(Struct, frozen=True):
    """An instrument held against a truth that is known: `expected` and `got` in `unit`; `error` is by which share it is off.

    `limit` is the largest error that is let pass. Of what has an `interval`, that as a whole has to be beyond it: noise is no
    fault of an instrument. One that is wider than what is let pass shows nothing, and could be better. `unavailable` says why the
    instrument cannot be asked here.
    """

    instrument: str
    truth: str
    unit: str
    limit: float
    expected: float | None = None
    got: float | None = None
    interval: tuple[float, float] | None = None
    unavailable: str | None = None

    @property
    def error(self) -> float | None:
        """Share of the truth, with its sign; None where it was not measured."""
        return None if self.got is None or not self.expected else self.got / self.expected - 1

    @property
    def verdict(self) -> str:
        """FIT, UNFIT, BETTER where the machine is too noisy to tell, or MISSING where it was not measured."""
        if self.error is None or self.got is None or self.expected is None:
            return MISSING
        low, high = self.interval or (self.got, self.got)
        within = self.expected * (1 - self.limit), self.expected * (1 + self.limit)
        if low > within[1] or high < within[0]:
            return UNFIT
        return FIT if high - low <= within[1] - within[0] else BETTER


class Circumstance(Struct, frozen=True):
    """Something of the machine that a measurement depends on: what was found, and what would be better."""

    name: str
    found: str
    verdict: str = FIT
    advice: str = ""


class Examination(Struct, frozen=True):
    """All that was looked at, in `seconds`."""

    checks: list[Check]
    circumstances: list[Circumstance]
    seconds: float

    @property
    def better(self) -> list[str]:
        """Name what could be better."""
        found = [*(each.instrument for each in self.checks if each.verdict == BETTER)]
        return list(dict.fromkeys([*found, *(each.name for each in self.circumstances if each.verdict == BETTER)]))

    @property
    def unfit(self) -> list[str]:
        """Name what makes the machine not fit to measure."""
        return [
            *(f"{check.instrument}: {check.truth}" for check in self.checks if check.verdict == UNFIT),
            *(f"{each.name}: {each.found}" for each in self.circumstances if each.verdict == UNFIT),
        ]
