"""`plumbline gate --self-test`: how often the gate cries wolf, and what it finds, on this machine.

Live: whole suites of one revision against itself, in which some cells are slowed down by a known share. Resampled: thousands of
suites drawn from the pairs of those, by the same procedure (schedule.py). The two are reported apart.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, median, stdev

from msgspec import Struct
from msgspec.structs import replace

from plumbline.harness.machine import here
from plumbline.harness.session.places import Place
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import wilson_interval
from plumbline.harness.studies.gate import SETTINGS, GateError, facts_of, read, ready, schedule
from plumbline.harness.studies.gate.processes import Contestant, Entry
from plumbline.harness.studies.gate.schedule import CONTROLS, SAME, SLOWER
from plumbline.harness.studies.gate.sides import Side
from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.regression import INCONCLUSIVE, REGRESSED
from plumbline.harness.views.table import tabulated
from plumbline.texts import duration

SHARES = (0.02, 0.05, 0.10)
RED, FOUND = 0.01, {0.05: 0.95, 0.10: 0.99}  # the promise
CELLS = 200  # of a resampled suite
LIMITS_S = (25 * 60.0, 40 * 60.0, 60 * 60.0)  # within the first of these in which the promise holds here


class Pool(Struct, frozen=True):
    """Pairs of processes with the same code on both sides: effects and seconds of each, by cell; seconds to start probes anew."""

    effects: dict[str, list[float]]
    seconds: dict[str, float]
    renewal_s: float = 8.0

    @property
    def deviation(self) -> float:
        """The standard deviation of a pair, the median over cells."""
        return median(stdev(effects) for effects in self.effects.values())

    @property
    def bias(self) -> float:
        """The mean effect of all pairs: 0 where both sides are treated alike."""
        return fmean(effect for effects in self.effects.values() for effect in effects)

    @property
    def pairs(self) -> int:
        return sum(map(len, self.effects.values()))


class Resampled:
    """Pairs drawn from a pool (`schedule.Pairs`), on a clock that goes on by what they took; `slowed` is the share by cell.

    Which process of a pair is the base is chance, so that its effect has either sign; a bias that all pairs have is kept.
    """

    def __init__(self, pool: Pool, cells: int, slowed: Mapping[str, float], chance: random.Random) -> None:
        kinds = sorted(pool.effects)
        self.names = [f"cell {number}" for number in range(cells)]
        self._kind = {name: kinds[number % len(kinds)] for number, name in enumerate(self.names)}
        quickest = min(kinds, key=lambda kind: pool.seconds[kind])
        self._kind |= dict.fromkeys(CONTROLS, quickest)
        self._control = next(name for name in self.names if self._kind[name] == quickest and name not in slowed)
        self._means = {kind: fmean(effects) for kind, effects in pool.effects.items()}
        self._pool, self._slowed, self._chance, self._now = pool, {**slowed, SLOWER: 0.05}, chance, 0.0

    def take(self, name: str, stage: str) -> float:
        """Draw a pair."""
        self._now += self.cost(name)
        kind = self._kind[name]
        by_chance = self._chance.choice(self._pool.effects[kind]) - self._means[kind]
        return self._chance.choice((1, -1)) * by_chance + self._pool.bias + math.log1p(self._slowed.get(name, 0.0))

    def cost(self, name: str) -> float:
        return self._pool.seconds[self._kind[name]]

    def control(self, name: str) -> str:
        return self._control

    def renewal(self) -> float:
        return self._pool.renewal_s

    def renew(self, stage: str) -> None:
        self._now += self._pool.renewal_s

    def clock(self) -> float:
        return self._now


class Tally(Struct):
    """What became of suites: of those without a slowdown how many were red, of slowed cells how many were found, by share."""

    suites: int = 0
    red: int = 0
    could_not_tell: int = 0
    distrusted: int = 0
    found: dict[float, int] = {}
    slowed: dict[float, int] = {}
    seconds: list[float] = []

    def add(self, outcome: schedule.Outcome, slowed: Mapping[str, float], seconds: float) -> None:
        """Count a suite. A cell that was not slowed down and is called regressed makes it a false alarm."""
        judged = regression.judge(outcome.evidence, outcome.spread, CONTROLS, outcome.given_up)
        told = {name: judged[name].verdict for name in judged if name not in CONTROLS}
        distrusted = bool(regression.distrust(outcome.evidence, outcome.spread, SAME, SLOWER))
        self.suites += 1
        self.seconds.append(seconds)
        self.distrusted += distrusted
        self.red += not distrusted and any(told[name] == REGRESSED for name in told if name not in slowed)
        self.could_not_tell += distrusted or INCONCLUSIVE in told.values()
        for name, share in slowed.items():
            self.slowed[share] = self.slowed.get(share, 0) + 1
            self.found[share] = self.found.get(share, 0) + (not distrusted and told[name] == REGRESSED)


def live(
    sides: tuple[Side, Side, Place],
    settings: Settings,
    folder: Path,
    suites: int,
    *,
    say: Callable[[str], None] = print,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Tally, Pool]:
    """Run whole suites of one revision against itself; in each, one cell is slowed down by each of SHARES.

    Returns what became of them, and the pairs of the cells that were not slowed down. Raises Busy, BrokenSide and GateError.
    """
    base, head, _ = sides
    settings, cells = (
        replace(settings, **SETTINGS),
        {name: Contestant(cell, head.cells[name]) for name, cell in base.cells.items()},
    )
    able = {name: both for name, both in cells.items() if name not in base.impossible}
    folder.mkdir(parents=True, exist_ok=True)
    tally, chance = Tally(), random.Random(0)
    kept: list[Entry] = []
    with ready(sides, settings, able, folder / "facts.jsonl", 0.0, say, progress) as (probes, processes):
        probes.start()
        facts = facts_of(able, processes, (), probes)
        names = [name for name in able if all(one.reason is None for one in facts[name].values())]
        if len(names) <= len(SHARES):
            raise GateError(f"a self-test takes more than {len(SHARES)} cells that run here, got {len(names)}")
        for name in names:
            processes.know(name, facts[name]["base"], facts[name]["head"])
        processes.choose_controls(names)
        for number in range(1, suites + 1):
            path = folder / f"suite-{number}.jsonl"
            processes.slowed = slowed = dict(zip(chance.sample(names, len(SHARES)), SHARES))
            began = time.monotonic()

            def tell(text: str, left: float, number: int = number) -> None:
                probes.said = f"live suite {number} of {suites}, about {duration(left)} left of it, {text}"
                progress(probes.said)

            with path.open("wb") as journal:
                processes.write_to(journal)
                outcome = schedule.run(names, processes, say=tell)
            tally.add(outcome, slowed, time.monotonic() - began)
            kept += [entry for entry in read(path) if entry.name not in slowed]
            say(f"suite {number}: {duration(tally.seconds[-1])}, {tally.red} red, {tally.distrusted} distrusted so far")
    progress("")
    return tally, pool_of(kept, {name: processes.cost(name) for name in names}, processes.renewal())


def pool_of(entries: Sequence[Entry], seconds: Mapping[str, float], renewal_s: float) -> Pool:
    """Return the pairs of a journal in which both sides were the same, of cells with three of them at least."""
    effects: dict[str, list[float]] = {}
    for entry in entries:
        if entry.base_s and entry.name not in CONTROLS:
            effects.setdefault(entry.name, []).append(regression.pair_effect(entry.base_s, entry.head_s))
    kept = {name: found for name, found in effects.items() if len(found) > 2}
    return Pool(kept, {name: seconds[name] for name in kept}, renewal_s)


def resample(
    pool: Pool,
    suites: int,
    *,
    budget_s: float,
    cells: int = CELLS,
    slowed_each: int = 0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Tally:
    """Draw so many suites of so many cells, each within a budget; `slowed_each` of them are slowed down by each of SHARES."""
    chance, tally = random.Random(seed), Tally()
    for number in range(suites):
        if number % 20 == 0:
            progress(f"resampled suite {number} of {suites}")
        slowed = {f"cell {index}": share for index, share in enumerate(SHARES * slowed_each)}
        order = chance.sample(range(cells), len(slowed))
        slowed = {f"cell {index}": share for index, share in zip(order, slowed.values())}
        pairs = Resampled(pool, cells, slowed, chance)
        tally.add(schedule.run(pairs.names, pairs, until=budget_s, chance=chance), slowed, pairs.clock())
    return tally


def resampled(pool: Pool, suites: int, progress: Callable[[str], None] = lambda text: None) -> tuple[dict[str, Tally], float]:
    """Draw so many suites without a slowdown, and a quarter as many with; returns the tallies, and the seconds that a suite had.

    These are the first of LIMITS_S in which the promise holds, or the last. A quarter of the suites finds out which.
    """
    few = max(1, suites // 4)
    for limit_s in LIMITS_S:
        found = {
            "resampled, one cell slowed by each": resample(pool, few, budget_s=limit_s, slowed_each=1, seed=1, progress=progress)
        }
        if not promise_broken(found):
            break
    return {"resampled": resample(pool, suites, budget_s=limit_s, progress=progress), **found}, limit_s


def table(tallies: Mapping[str, Tally]) -> list[list[str]]:
    """Return a row for each rate: what, live or resampled, how many of how many, the rate and its 95 % interval."""
    rows = []
    for kind, tally in tallies.items():
        counts = {"suites without a slowdown that are red": (tally.red, tally.suites)}
        for share in sorted(tally.slowed):
            counts[f"slowdowns by {share:.0%} that are found"] = (tally.found[share], tally.slowed[share])
        counts |= {"suites in which something could not be told": (tally.could_not_tell, tally.suites)}
        for what, (count, of) in counts.items():
            low, high = wilson_interval(count, of) if of else (0.0, 1.0)
            rows.append([what, kind, f"{count} of {of}", f"{count / max(1, of):.2%}", f"{low:.2%} to {high:.2%}"])
        if tally.seconds:
            minutes = sorted(seconds / 60 for seconds in tally.seconds)
            rows.append(["minutes of a suite, and at most", kind, "", f"{median(minutes):.1f}", f"{minutes[-1]:.1f}"])
    return rows


def promise_broken(tallies: Mapping[str, Tally]) -> list[str]:
    """Say what of the promise does not hold in the resampled suites; empty where all of it does."""
    drawn = [tally for kind, tally in tallies.items() if kind != "live"]
    red, suites = sum(tally.red for tally in drawn), sum(tally.suites for tally in drawn)
    broken = [f"{red} of {suites} suites are red, expected 1 % at most"] if red > RED * suites else []
    for share, least in FOUND.items():
        found, slowed = (sum(counts.get(share, 0) for counts in each) for each in zip(*((t.found, t.slowed) for t in drawn)))
        if found < least * slowed:
            broken.append(f"{found} of {slowed} slowdowns by {share:.0%} are found, expected {least:.0%}")
    return broken


def report(tallies: Mapping[str, Tally], pool: Pool, limit_s: float, style: str = "simple") -> str:
    """Return the rates with their intervals, and the conditions of the pool."""
    error = stdev(effect for effects in pool.effects.values() for effect in effects) / math.sqrt(pool.pairs)
    words = [
        f"{here()}, {datetime.now(timezone.utc):%Y-%m-%d}",
        f"pool: {pool.pairs} pairs of processes with the same code, of {len(pool.effects)} cells; a pair spreads by "
        f"{pool.deviation:.2%} (median over cells), bias {pool.bias:+.2%} +- {1.96 * error:.2%}",
        f"resampled: suites of {CELLS} cells, at most {duration(limit_s)}; live: suites of {len(pool.effects)} cells; a pair "
        f"takes {median(pool.seconds.values()):.1f} s",
    ]
    heads = ["what", "how", "count", "rate", "95 %"]
    return "\n".join([*words, "", tabulated(table(tallies), heads, heads[:2], style)])
