"""Which pair comes next: screening, then confirmation, within a budget. The same for processes and for a recorded pool."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Protocol

from msgspec import Struct

from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.regression import CONFIRMING, EFFECT, HURRIED, LOOKS, Evidence, Spread
from plumbline.texts import number_of

CONTROLS = ("same code 1", "same code 2", "slowed by 5 %")  # in every suite, beside its cells
SAME, SLOWER = CONTROLS[:2], CONTROLS[2]
SCREEN, CONFIRM = "screen", "confirm"  # stages
DRAWN = 15  # suites, to say how long one takes
Say = Callable[[str, float], None]


class Pairs(Protocol):
    """Where pairs come from: processes that are run, or a recorded pool of them."""

    def take(self, name: str, stage: str) -> float | None:
        """Run one pair of a cell, and return its effect; None where it ended before."""

    def cost(self, name: str) -> float:
        """Say how many seconds a pair of this cell takes."""

    def renewal(self) -> float:
        """Say how many seconds `renew` takes."""

    def renew(self, stage: str) -> None:
        """Begin a pass, in which a cell takes one pair: what pairs of a pass have in common by chance is drawn anew."""

    def control(self, name: str) -> str:
        """Say which cell a control runs."""

    def clock(self) -> float:
        """Return the time in seconds, of whatever clock the costs are measured by."""


class Outcome(Struct):
    """The evidence of a suite, its common spread, and the cells for which the budget did not pay."""

    evidence: dict[str, Evidence]
    spread: Spread
    given_up: list[str]


def run(
    names: Sequence[str],
    pairs: Pairs,
    *,
    until: float = math.inf,
    evidence: dict[str, Evidence] | None = None,
    chance: random.Random | None = None,
    say: Say = lambda text, left: None,
) -> Outcome:
    """Screen the cells, then confirm what is not cleared, until the clock says `until`.

    `evidence` is that of a run which was interrupted, `chance` decides on the order of pairs. `say` is told what goes on, and how
    many seconds are left.
    """
    found = {} if evidence is None else evidence
    for name in (*names, *CONTROLS):
        found.setdefault(name, Evidence())
    chance = chance or random.Random()
    active, spread, too_long = _screened(names, pairs, until, found, chance, say)
    given_up = _confirm(active, spread, pairs, until, found, chance, say)
    return Outcome(found, spread, [*given_up, *too_long])


class _Supposed:
    """Pairs of a suite in which nothing is slower, and whose spreads are like those of an earlier one; on a clock of its own."""

    def __init__(self, names: Sequence[str], pairs: Pairs, spread: Spread, chance: random.Random) -> None:
        self._pairs, self._chance, self._now = pairs, chance, pairs.clock()
        self.cost, self.renewal, self.control = pairs.cost, pairs.renewal, pairs.control
        half = max(1.0, spread.freedom) / 2
        self._deviation = {name: math.sqrt(spread.variance * half / chance.gammavariate(half, 1.0)) for name in names}

    def take(self, name: str, stage: str) -> float:
        self._now += self._pairs.cost(name)
        cell = self._pairs.control(name) if name in CONTROLS else name
        return self._chance.gauss(EFFECT if name == SLOWER else 0.0, self._deviation[cell])

    def renew(self, stage: str) -> None:
        self._now += self._pairs.renewal()

    def clock(self) -> float:
        return self._now


def planned(names: Sequence[str], pairs: Pairs, spread: Spread, until: float = math.inf) -> list[float]:
    """Return the seconds of suites in which nothing is slower, the shortest first; they are drawn, with spreads like `spread`."""
    chance, began, taken = random.Random(0), pairs.clock(), []
    for _ in range(DRAWN):
        supposed = _Supposed(names, pairs, spread, chance)
        run(names, supposed, until=until, chance=chance)
        taken.append(supposed.clock() - began)
    return sorted(taken)


def _reserve(pairs: Pairs) -> float:
    """Return the seconds that the controls take, in a hurry."""
    return (sum(map(pairs.cost, CONTROLS)) + pairs.renewal()) * HURRIED


def _affordable(names: Sequence[str], pairs: Pairs, until: float, found: dict[str, Evidence]) -> list[str]:
    """Return the cells whose first look the budget pays for; those whose pairs are the longest are given up first."""
    missing = {name: max(0, LOOKS[0] - len(found[name].screen)) for name in names}
    left = until - pairs.clock() - _reserve(pairs) - pairs.renewal() * max(missing.values(), default=0)
    kept = set()
    for name in sorted(names, key=pairs.cost):
        left -= pairs.cost(name) * missing[name]
        if left >= 0:
            kept.add(name)
    return [name for name in names if name in kept]


def _screened(
    names: Sequence[str], pairs: Pairs, until: float, found: dict[str, Evidence], chance: random.Random, say: Say
) -> tuple[list[str], Spread, list[str]]:
    """Take pairs of all cells, then of those that are not cleared yet.

    Returns those that never were, the spread of all, and those for whose pairs the budget did not pay.
    """
    active, spread, too_long = list(names), Spread(0.0, 0.0), list[str]()
    for look in LOOKS:
        while wanted := [name for name in active if len(found[name].screen) < look]:
            if look == LOOKS[0]:  # what pairs take is known better with each pass
                paid = _affordable(wanted, pairs, until, found)
                too_long += [name for name in wanted if name not in paid]
                active = [name for name in active if name not in too_long]
                if not (wanted := paid):
                    break
            else:  # another look at those that are slower, as it seems, would only put off what convicts them
                slower = [name for name in active if fmean(found[name].screen) >= EFFECT]
                left = until - pairs.clock() - pairs.renewal() - sum(map(pairs.cost, wanted))
                if left < _reserve(pairs) or _plan(slower, spread, pairs, left, found, hurried=True)[1]:
                    return active, spread, too_long
            pairs.renew(SCREEN)
            chance.shuffle(wanted)  # all cells once, then all once more: what the machine does for a while is spread over them
            for number, name in enumerate(wanted):
                if pairs.clock() + pairs.cost(name) + _reserve(pairs) > until:  # pairs take longer than they did before
                    too_long.append(name)
                    active.remove(name)
                    continue
                left = sum(map(pairs.cost, wanted[number:])) + _reserve(pairs)
                later = max(0, LOOKS[0] - 1 - len(found[name].screen))  # passes that all cells take
                left += later * (pairs.renewal() + sum(map(pairs.cost, wanted)))
                say(f"screening {number_of(len(active), 'cell')}, pair {len(found[name].screen) + 1} of {look}", left)
                if not _took(name, found[name].screen, SCREEN, pairs):
                    active.remove(name)
        spread = Spread.of([found[name].screen for name in names if len(found[name].screen) > 1])
        active = [name for name in active if not regression.cleared(found[name].screen, spread)]
    return active, spread, too_long


def _confirm(
    suspects: list[str], spread: Spread, pairs: Pairs, until: float, found: dict[str, Evidence], chance: random.Random, say: Say
) -> list[str]:
    """Take fresh pairs of suspects and controls. Returns the suspects that the budget did not pay for."""
    left = until - pairs.clock()
    wanted, given_up = _plan(suspects, spread, pairs, left, found, hurried=False)
    if given_up:
        wanted, given_up = _plan(suspects, spread, pairs, left, found, hurried=True)
    while unfinished := [name for name, count in wanted.items() if len(found[name].confirm) < count]:
        pairs.renew(CONFIRM)
        chance.shuffle(unfinished)
        for name in unfinished:
            if pairs.clock() + pairs.cost(name) > until:  # it became slower than it was
                return [*given_up, *(other for other in unfinished if other not in CONTROLS)]
            missing = {other: max(0, count - len(found[other].confirm)) for other, count in wanted.items()}
            seconds = sum(pairs.cost(other) * count for other, count in missing.items())
            seconds += pairs.renewal() * (max(missing.values()) - 1)
            say(f"confirming {number_of(len(wanted) - len(CONTROLS), 'suspect')} and {len(CONTROLS)} controls", seconds)
            if not _took(name, found[name].confirm, CONFIRM, pairs):
                del wanted[name]
    return given_up


def _plan(
    suspects: list[str], spread: Spread, pairs: Pairs, left: float, found: dict[str, Evidence], hurried: bool
) -> tuple[dict[str, int], list[str]]:
    """Say how many fresh pairs each control and suspect gets in so many seconds, and for which suspects these do not suffice."""
    wanted = dict.fromkeys(CONTROLS, HURRIED if hurried else CONFIRMING[0])
    left -= (sum(map(pairs.cost, CONTROLS)) + pairs.renewal()) * wanted[SLOWER]

    def surer(suspects: int, hurried: bool) -> float:
        """Give the slowed control as many pairs as so many suspects would take, and return the seconds that are left."""
        if len(seen := found[pairs.control(SLOWER)].screen) < 2:
            return left
        more = max(0, regression.pairs_to_confirm(seen, suspects, spread, hurried) - wanted[SLOWER])
        each = pairs.cost(SLOWER) + pairs.renewal()
        paid = more if left == math.inf else min(more, max(0, int(left / each)))
        wanted[SLOWER] += paid
        return left - paid * each

    left = surer(1, True) if hurried else surer(10, False)  # surer than a suspect, as all hangs on it; not at their cost
    given_up = []
    for name in sorted(suspects, key=lambda name: regression.suspicion(found[name].screen, spread)):
        count = regression.pairs_to_confirm(found[name].screen, len(suspects), spread, hurried)
        seconds = count * pairs.cost(name) + max(0, count - max(wanted.values())) * pairs.renewal()
        if seconds > left:
            given_up.append(name)
        else:
            wanted[name] = count
            left -= seconds
    if hurried:
        surer(10, False)  # with what nobody else has a use for
    return wanted, given_up


def _took(name: str, effects: list[float], stage: str, pairs: Pairs) -> bool:
    effect = pairs.take(name, stage)
    if effect is not None:
        effects.append(effect)
    return effect is not None
