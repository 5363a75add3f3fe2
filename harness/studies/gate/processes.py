"""Real pairs: a process of each side, resident side by side, that take turns; then two more, started in the other order."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import IO

from msgspec import Struct
from msgspec.structs import replace

from plumbline import PlumblineError
from plumbline.harness import messages, timing
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Energy
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.readings import Readings, value_of
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.places import Place
from plumbline.harness.settings import Settings
from plumbline.harness.studies.gate.exact import Facts
from plumbline.harness.studies.gate.schedule import CONTROLS, SCREEN, SLOWER
from plumbline.harness.studies.gate.sides import BASE, HEAD, TWIN
from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.qualification import qualify
from plumbline.harness.verdicts.regression import Evidence

ROUNDS, MOST_ROUNDS = 10, 30  # of each order; more than the first where the effect is known to no better than KNOWN
KNOWN = 0.011  # standard error of the effect in one order, as its rounds show it; processes of the same code differ by as much
BLOCK_S = 0.015  # of the timed inferences of a turn
CALLS = 1000  # of them at most
SLOWED = 0.05
RENEWAL_S = 2.0  # before it is known
CHECKED_S = 0.3  # of a process, beside what its net takes to be built: it is forked, and its outputs are compared
WAKING_S = 0.003  # of a turn: a process is woken up, and stops itself after it


class Contestant(Struct, frozen=True):
    """A cell on both sides: what each runs of it."""

    base: Cell
    head: Cell


class Entry(Struct, frozen=True):
    """A line of the journal: a cell's facts on a side, or a pair: seconds of each round, a list for each of its two orders.

    `amounts` are what a process of the base and of the head took of memory and, where there is a meter, of energy.
    """

    name: str
    side: str | None = None
    facts: Facts | None = None
    stage: str | None = None
    base_s: list[list[float]] = []
    head_s: list[list[float]] = []
    amounts: dict[str, list[float]] = {}
    reason: str | None = None


class Sides:
    """Three probes, by the names of their sides: of the base, of the head, and of the head once more, for the controls."""

    def __init__(
        self,
        places: Mapping[str, Place],
        connect: Callable[..., Connection],
        folder: Path,
        progress: Callable[[str], None],
    ) -> None:
        self._progress, self.said = progress, ""
        self._connections: dict[str, Connection] = {}
        for name, place in places.items():
            kept = folder if not place.name else place.scratch
            keep = None if kept is None else kept / (HEAD if name == TWIN else name)  # what one head has made the other one takes
            self._connections[name] = connect(progress=self._forward, place=place, keep=keep)

    def start(self, sides: Sequence[str] = (BASE, HEAD)) -> None:
        """Start the probes of these sides, all at once. Raises BrokenSide."""
        for side in sides:
            self._connections[side].launch()
        for side in sides:
            try:
                self._connections[side].start()
            except CellEnded as end:
                raise BrokenSide(side, end.reason) from end

    def renew(self, sides: Sequence[str]) -> None:
        """Start the probes of these sides anew. Raises BrokenSide.

        A cell's process is a fork of its probe, and has its memory where that has it, which makes all its pairs a little faster
        or slower.
        """
        for side in sides:
            self._connections[side].close()
        self.start(sides)

    def probe(self, side: str, cell: Cell, settings: Settings) -> CellProbe:
        return CellProbe(self._connections[side], cell, settings)

    def has_sources(self, side: str) -> bool:
        """Whether the files of a side lie in a folder of its own."""
        return self._connections[side].place.root is not None

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _forward(self, text: str) -> None:
        self._progress(f"{self.said}: {text}" if self.said else text)


class BrokenSide(PlumblineError):
    """A side whose probe does not start."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"the {HEAD if side == TWIN else side} does not start: {reason}")
        self.side, self.reason = side, reason


class Processes:
    """Pairs of real processes (`Pairs`). Each is written to the journal before the next one starts."""

    def __init__(self, sides: Sides, settings: Settings, cells: Mapping[str, Contestant], journal: IO[bytes]) -> None:
        self._sides, self._settings, self._cells, self._journal = sides, settings, dict(cells), journal
        self._calls: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._guessed: dict[str, float] = {}
        self._slower = 1.0  # pairs than they were guessed to be
        self._controls: dict[str, str] = {}
        self._taken: dict[tuple[str, str], list[float]] = {}
        self.amounts: dict[tuple[str, str], list[float]] = {}  # log(head / base) of each pair, by cell and quantity
        self._renewals: list[float] = []
        self.failed: dict[str, str] = {}
        self.slowed: dict[str, float] = {}  # cells that are slowed down on purpose, and by which share

    def know(self, name: str, base: Facts, head: Facts) -> None:
        """Learn how long an inference takes: the longer side fills the block, and both make as many calls."""
        slower = max(base.turn_s, head.turn_s)
        self._calls[name] = max(1, min(CALLS, math.ceil(BLOCK_S / slower)))
        turn = WAKING_S + timing.TOUCH_S + slower + max(slower, self._calls[name] * slower)
        self._guessed[name] = 2 * ((ROUNDS + MOST_ROUNDS) * turn + base.seconds + head.seconds)

    def write_to(self, journal: IO[bytes]) -> None:
        """Go on in another journal."""
        self._journal = journal

    def choose_controls(self, names: Iterable[str]) -> None:
        """Let the cells whose pairs are the quickest, of a millisecond at least where there are such, be the controls."""
        by_cost = sorted(names, key=self.cost)
        long = [name for name in by_cost if self._calls[name] <= BLOCK_S / 1e-3] or by_cost
        for number, control in enumerate(CONTROLS):
            self._controls[control] = long[number % len(long)]

    def control(self, name: str) -> str:
        """Return the cell that a control runs."""
        return self._controls[name]

    def cost(self, name: str) -> float:
        name = self._controls.get(name, name)
        return median(self._seconds[name]) if name in self._seconds else self._guessed[name] * self._slower

    def remember(self, entries: Iterable[Entry]) -> dict[str, Evidence]:
        """Keep the pairs of this run, or of one that was interrupted; returns their effects."""
        found: dict[str, Evidence] = {}
        for entry in entries:
            if entry.stage is None or not entry.base_s:
                continue
            for side, seconds in ((BASE, entry.base_s), (HEAD, entry.head_s)):
                self._taken.setdefault((entry.name, side), []).extend(chain.from_iterable(seconds))
            for quantity, (base, head) in entry.amounts.items():
                if entry.name not in CONTROLS:
                    self.amounts.setdefault((entry.name, quantity), []).append(math.log(head / base))
            effects = getattr(found.setdefault(entry.name, Evidence()), entry.stage)
            effects.append(regression.pair_effect(entry.base_s, entry.head_s))
        return found

    def medians(self, name: str) -> tuple[float, float] | tuple[None, None]:
        """Return the median inference of the base and of the head, in seconds, over all pairs."""
        base, head = (self._taken.get((name, side)) for side in (BASE, HEAD))
        return (median(base), median(head)) if base and head else (None, None)

    def clock(self) -> float:
        return time.monotonic()

    def renewal(self) -> float:
        return median(self._renewals) if self._renewals else RENEWAL_S

    def renew(self, stage: str) -> None:
        began = self.clock()
        self._sides.renew((BASE, HEAD) if stage == SCREEN else (BASE, HEAD, TWIN))
        self._renewals.append(self.clock() - began)

    def take(self, name: str, stage: str) -> float | None:
        cell = self._controls.get(name, name)
        contestant, calls, began = self._cells[cell], self._calls[cell], self.clock()
        base = (TWIN, contestant.head) if name in CONTROLS else (BASE, contestant.base)
        sides = {BASE: base, HEAD: (HEAD, contestant.head)}
        slowed = {HEAD: SLOWED if name == SLOWER else self.slowed.get(name, 0.0), BASE: 0.0}
        taken: dict[str, list[list[float]]] = {BASE: [], HEAD: []}
        used: dict[str, list[dict[str, float]]] = {BASE: [], HEAD: []}
        order = random.sample(list(sides), 2)
        try:
            # who is started first is slower, by one or two percent: each side is so once (docs/results/gate.md)
            for started in (order, order[::-1]):
                with ExitStack() as running:
                    probes = {
                        side: self._sides.probe(*sides[side], replace(self._settings, slowed=slowed[side])) for side in started
                    }
                    for probe in probes.values():
                        running.callback(probe.close)
                        probe.prepared()
                    rounds = self._turns({side: partial(probe.turn, calls) for side, probe in probes.items()})
                    for side, probe in probes.items():
                        taken[side].append(rounds[side])
                        used[side].append({**_bytes(probe.memory()), **_joules(probe.energy())})
        except CellEnded as end:
            self.failed[name] = f"{end.outcome}: {end.reason}"
            self.write(Entry(name, stage=stage, reason=self.failed[name]))
            return None
        self._seconds.setdefault(cell, []).append(self.clock() - began)
        self._slower = median(median(seconds) / self._guessed[timed] for timed, seconds in self._seconds.items())
        ours, theirs = _mean(used[HEAD]), _mean(used[BASE])
        amounts = {quantity: [theirs[quantity], ours[quantity]] for quantity in theirs if quantity in ours}
        entry = Entry(name, stage=stage, base_s=taken[BASE], head_s=taken[HEAD], amounts=amounts)
        self.write(entry)
        self.remember([entry])
        return regression.pair_effect(entry.base_s, entry.head_s)

    def _turns(self, turns: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Let both take turns; where rounds differ much, more of them: they cost less than another pair does."""
        taken: dict[str, list[float]] = {side: [] for side in turns}
        while True:
            for side, seconds in timing.interleave(turns, rounds=ROUNDS).items():
                taken[side] += seconds
            known = regression.rounds_error(taken[BASE], taken[HEAD]) <= KNOWN
            if known or len(taken[BASE]) >= MOST_ROUNDS:
                return taken

    def facts(self, name: str, side: str) -> Facts:
        """Build and check a cell on a side, and ask what is exact of it."""
        contestant, began = self._cells[name], self.clock()
        probe = self._sides.probe(side, getattr(contestant, side), self._settings)
        try:
            qualify(probe)
            counts, prepared, outputs = probe.counts(), probe.prepared(), probe.outputs()
            weights = value_of(probe.memory(), "weights")
            turn_s = min(probe.turn(1) for _ in range(5))
            sources = probe.sources() if self._sides.has_sources(side) else []
            found = Facts(None, counts, prepared, outputs, weights, turn_s, prepared.seconds + CHECKED_S, sources)
        except CellEnded as end:
            found = Facts(f"{end.outcome}: {end.reason}", seconds=self.clock() - began)
        finally:
            probe.close()
        self.write(Entry(name, side=side, facts=found))
        return found

    def write(self, entry: Entry) -> None:
        self._journal.write(messages.encode(entry) + b"\n")
        self._journal.flush()


def _joules(energy: Mapping[str, Energy]) -> dict[str, float]:
    """Return the joules of an inference by each meter that measures them: an estimate says no more than the time does."""
    measured = {name: found.joules for name, found in energy.items() if not found.estimate and found.joules is not None}
    return {f"energy by {name}": joules for name, joules in measured.items() if joules > 0}


def _bytes(memory: Readings) -> dict[str, float]:
    """Return the bytes that a process holds at most, of what was read."""
    named = {"process_peak": "peak memory", "cuda_allocated": "peak of CUDA memory"}
    found = {words: value_of(memory, key) for key, words in named.items()}
    return {words: value for words, value in found.items() if value}


def _mean(used: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each quantity that was read every time."""
    return {quantity: fmean(each[quantity] for each in used) for quantity in used[0] if all(quantity in each for each in used)}
