"""`plumbline gate`: whether a head is slower than its base, or computes something else.

Both sides run on this machine, by the measuring code that is running. First each cell is built and checked on both sides, and
what is exact is compared exactly (exact.py). Then all cells are screened, and what screening does not clear is confirmed by fresh
pairs (schedule.py, harness/verdicts/regression.py) of processes that take turns (processes.py). Three controls run in every
suite: two cells with the same code on both sides, and one that is slowed down by 5 %.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO

from msgspec import Struct
from msgspec.structs import replace

from plumbline import PlumblineError
from plumbline.harness import environment, messages
from plumbline.harness.boot import PRELOAD
from plumbline.harness.environment import IMPORT
from plumbline.harness.lock import lock_machine
from plumbline.harness.machine import Machine, described, here
from plumbline.harness.nursery import Nursery, serving
from plumbline.harness.outcomes import UNAVAILABLE, UNSUPPORTED, CellEnded
from plumbline.harness.session import environments
from plumbline.harness.session.client import WHO, Connection
from plumbline.harness.session.elsewhere import Elsewhere
from plumbline.harness.session.places import BadPlace, Place
from plumbline.harness.session.revisions import Difference, Tree
from plumbline.harness.settings import Settings
from plumbline.harness.studies.gate import exact, schedule
from plumbline.harness.studies.gate.exact import Facts
from plumbline.harness.studies.gate.processes import BrokenSide, Contestant, Entry, Processes, Sides
from plumbline.harness.studies.gate.schedule import CONTROLS, SAME, SLOWER, Outcome
from plumbline.harness.studies.gate.sides import BASE, HEAD, TWIN, Side
from plumbline.harness.target import HERE
from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.regression import (
    IMPROVED,
    INCOMPARABLE,
    INCONCLUSIVE,
    MISSING,
    NEW,
    REGRESSED,
    UNCHANGED,
    Judgement,
)
from plumbline.texts import duration, number_of

FINE, SLOWER_CODE, BROKEN, COULD_NOT_TELL = 0, 1, 2, 3  # exit codes
JOURNAL, REPORT = "gate.jsonl", "gate.json"
SPREAD, USUAL_SPREAD = Path("gate", "spread.json"), regression.Spread(0.015**2, 4.0)
NOTHING_LOADED = (
    "it loads nothing of the revisions: expected a net in the repository's folder or its src/, got one from elsewhere"
)
SETTINGS = {"accuracy_images": 0, "warmup_s": 0.0, "sampling_s": 0.0, "train_minutes": 0.0}


class GateError(PlumblineError, ValueError):
    """A gate that cannot run; the message says what to do."""


class Row(Struct, frozen=True):
    """A cell's judgement, the median inference on both sides in seconds, and what changed exactly."""

    name: str
    judgement: Judgement
    base_s: float | None = None
    head_s: float | None = None
    changes: list[str] = []


class Report(Struct, frozen=True):
    """What a gate found. `distrust` says why it is not to be trusted; `skipped` which cells run on neither side, and why.

    It took `seconds`, of which pairs took `timed_s` where `planned_s` were expected, and began at `started_at` (ISO 8601, UTC).
    """

    base: str
    head: str
    machine: str
    rows: list[Row]
    controls: list[Row]
    skipped: dict[str, str]
    distrust: list[str]
    seconds: float
    planned_s: float
    timed_s: float = 0.0
    budget_s: float | None = None
    started_at: str | None = None

    @property
    def code(self) -> int:
        """FINE, SLOWER_CODE, or COULD_NOT_TELL."""
        verdicts = {row.judgement.verdict for row in self.rows}
        proven = any(row.judgement.verdict == REGRESSED and row.judgement.reason for row in self.rows)  # exactly, without a clock
        if proven or (REGRESSED in verdicts and not self.distrust):
            return SLOWER_CODE
        return COULD_NOT_TELL if self.distrust or verdicts & {REGRESSED, MISSING, INCOMPARABLE, INCONCLUSIVE} else FINE


def gate(
    base: Side,
    head: Side,
    twin: Place,
    settings: Settings,
    folder: Path,
    *,
    budget_s: float | None = None,
    resume: bool = False,
    allowed: Collection[str] = (),
    wait_s: float = 0.0,
    say: Callable[[str], None] = print,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare two sides, and keep every pair in `folder`.

    Raises Busy, GateError, and BrokenSide of a head that does not start.
    """
    began, started_at = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    settings = replace(settings, **SETTINGS)
    common = {name: Contestant(cell, head.cells[name]) for name, cell in base.cells.items() if name in head.cells}
    able = {name: pair for name, pair in common.items() if name not in base.impossible and name not in head.impossible}
    skipped = {name: head.impossible[name] for name in common if name in base.impossible and name in head.impossible}
    machine = _machine(head.place)
    path, identity = folder / JOURNAL, f"{base.shown} | {head.shown} | {machine} | {settings.seed}"
    earlier = _resumed(path, identity) if resume else _begun(path, identity)
    with ready((base, head, twin), settings, able, path, wait_s, say, progress) as (sides, processes):
        say(f"base: {base.shown}\nhead: {head.shown}\n{machine}")
        say(f"{number_of(len(able), 'cell')} on both sides; each is built and checked first")
        broken = base.broken or _started(sides)
        if broken is not None:
            able = {}
        facts = facts_of(able, processes, earlier, sides, head.differs)
        runs = [name for name in able if all(facts[name][side].reason is None for side in (BASE, HEAD))]
        same = [name for name in runs if facts[name][BASE] is facts[name][HEAD]]
        timed = [name for name in runs if name not in same]
        if same:
            say(f"{number_of(len(same), 'cell')} of {len(able)} load nothing that the change touches, and are not timed")
        for name in timed:
            processes.know(name, facts[name][BASE], facts[name][HEAD])
        outcome, planned_s, timed_s = Outcome({}, regression.Spread(0.0, 0.0), []), 0.0, 0.0
        if timed:
            processes.choose_controls(timed)
            until = math.inf if budget_s is None else began + budget_s
            drawn = schedule.planned(timed, processes, _earlier_spread(settings.cache, machine), until)
            planned_s = median(drawn)
            within = "" if budget_s is None else f", within a budget of {duration(budget_s)}"
            spent = duration(time.monotonic() - began)
            cells = number_of(len(timed), "cell")
            say(f"{cells} to be timed: about {_between(drawn)} after {spent} of getting ready{within}; more if one is slower")

            def tell(text: str, left: float) -> None:
                sides.said = f"about {duration(left)} left, {text}"
                progress(sides.said)

            started = time.monotonic()
            outcome = schedule.run(timed, processes, until=until, evidence=processes.remember(earlier), say=tell)
            timed_s = time.monotonic() - started
            say(f"planned {duration(planned_s)}, took {duration(timed_s)}")
            _keep_spread(settings.cache, machine, outcome.spread)
        progress("")
    judged = _judged(outcome, processes)
    amounts = regression.judge_amounts(processes.amounts)
    rows = _untimed(base, head, able, facts, skipped, allowed) if broken is None else _incomparable(head, broken)
    rows |= {name: Row(name, Judgement(UNCHANGED)) for name in same}
    rows |= {name: _row(name, judged[name], facts[name], processes, amounts, allowed) for name in timed}
    report = Report(
        base=base.shown,
        head=head.shown,
        machine=machine,
        rows=sorted(rows.values(), key=lambda row: regression.VERDICTS.index(row.judgement.verdict)),
        controls=[Row(f"{name}: {processes.control(name)}", judged[name]) for name in CONTROLS if name in judged],
        skipped=skipped,
        distrust=regression.distrust(outcome.evidence, outcome.spread, SAME, SLOWER) if timed else [],
        seconds=time.monotonic() - began,
        planned_s=planned_s,
        timed_s=timed_s,
        budget_s=budget_s,
        started_at=started_at,
    )
    (folder / REPORT).write_bytes(messages.encode(report))
    return report


@contextmanager
def ready(
    sides: tuple[Side, Side, Place],
    settings: Settings,
    cells: Mapping[str, Contestant],
    journal: Path,
    wait_s: float,
    say: Callable[[str], None],
    progress: Callable[[str], None],
) -> Iterator[tuple[Sides, Processes]]:
    """Lock the machines, prepare the places, open the journal, and make what starts the probes and what takes pairs of them.

    Raises Busy and BadPlace.
    """
    base, head, twin = sides
    with ExitStack() as stack:
        stack.callback(lock_machine(wait_s, WHO).release)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plumbline-gate-")))
        log = stack.enter_context((journal.parent / "probe.log").open("ab"))
        for place in {side.place.machine: side.place for side in (base, head) if side.place.machine != HERE}.values():
            try:
                stack.enter_context(Connection(log, progress=progress, place=place, lock_s=wait_s).holding())
            except CellEnded as end:
                raise BadPlace(f"target {place.name!r}: {end.reason}") from end
        for side in (base, head):
            if side.place.name:
                stack.callback(_tidied, side.place, say)
                side.place.prepare(side.needs(settings), progress)
        places = started_at_once({BASE: base.place, HEAD: head.place, TWIN: twin}, head.differs, log, stack)
        probes = Sides(places, partial(Connection, log), scratch, progress)
        stack.callback(probes.close)
        yield probes, Processes(probes, settings, cells, stack.enter_context(journal.open("ab")))


def started_at_once(
    places: Mapping[str, Place], differs: Difference | None, log: IO[bytes], stack: ExitStack
) -> Mapping[str, Place]:
    """Return the places with one nursery for all of their probes, where these are on one machine and it can be; else as they are.

    So the memory of the libraries is, page by page, the same on both sides: pairs of the same code differ by half
    (docs/results/gate.md), and a probe takes less than a second to start. Of two Pythons it is the head's, if what their packages
    differ by is imported by the probes themselves.
    """
    there = [place for place in places.values() if isinstance(place, Elsewhere)]
    if there and len({place.name for place in places.values()}) == 1 and (command := there[0].nursery(PRELOAD)) is not None:
        with suppress(RuntimeError):  # it does not start: nor does a probe, which says why
            nursery = Nursery(command, log=log)
            stack.callback(nursery.close)
            for place in there:
                place.start_by(nursery.python)
        return places
    trees = {name: place for name, place in places.items() if isinstance(place, Tree)}
    pythons = {tree.python for tree in trees.values()}
    unlike = Difference(frozenset(), frozenset()) if len(pythons) == 1 else differs
    if trees.keys() != places.keys() or not hasattr(os, "fork") or unlike is None or unlike.anyones:
        return places
    python = trees[HEAD].python
    try:
        nursery = Nursery(serving(PRELOAD, python), environment.passed_on(os.environ), log)
    except RuntimeError:
        return places  # which do not start either, and say why
    if unlike.concerns({f"{IMPORT}{name}" for name in nursery.imported}):
        nursery.close()
        return places
    stack.callback(nursery.close)
    paths = {other: None if other == python else environments.path_of(other) for other in pythons}
    return {name: tree.started_by(nursery.python, paths[tree.python]) for name, tree in trees.items()}


def _machine(place: Place) -> str:
    """Name the machine of a place in a few words. Raises BadPlace."""
    if not place.name:
        return here()
    there = place.capabilities
    found = Machine(cpu_model=there.cpu_model, cpu_flags=" ".join(there.cpu_flags), cores_allowed=there.cpus)
    return f"{place.name}: {described(found)}"


def _tidied(place: Place, say: Callable[[str], None]) -> None:
    """Remove there what nobody needs any more; where that cannot be, a verdict holds all the same."""
    try:
        place.tidy()
    except BadPlace as error:
        say(str(error))


def _earlier_spread(cache: Path, machine: str) -> regression.Spread:
    """Return how the pairs of the last gate on a machine spread; before the first one a usual value."""
    try:
        return messages.decode((cache / SPREAD).read_bytes(), dict[str, regression.Spread])[machine]
    except (OSError, KeyError, messages.BadMessage):
        return USUAL_SPREAD


def _keep_spread(cache: Path, machine: str, spread: regression.Spread) -> None:
    if spread.freedom:
        (cache / SPREAD).parent.mkdir(parents=True, exist_ok=True)
        (cache / SPREAD).write_bytes(messages.encode({machine: spread}))


def _between(drawn: Sequence[float]) -> str:
    """Say how long it takes: where it cannot be told within 15 %, as noise makes suspects by chance, from when to when."""
    usual = median(drawn)
    if drawn[0] >= 0.85 * usual and drawn[-1] <= 1.15 * usual:
        return duration(usual)
    return f"{duration(usual)} ({duration(drawn[0])} to {duration(drawn[-1])})"


def _begun(path: Path, identity: str) -> list[Entry]:
    """Begin a journal with what is compared."""
    if path.exists():
        raise GateError(f"{str(path.parent)!r} holds a gate already; continue it with --resume, or choose another --run-dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(messages.encode(Entry("", reason=identity)) + b"\n")
    return []


def _resumed(path: Path, identity: str) -> list[Entry]:
    """Return what a journal holds, without its torn end. Raises GateError where it is of another gate."""
    first, *entries = read(path)
    if first.reason != identity:
        raise GateError(f"{str(path.parent)!r} is another gate: expected {identity}, got {first.reason}; start a new one")
    whole = path.read_bytes().rpartition(b"\n")
    path.write_bytes(whole[0] + whole[1])
    return entries


def _started(sides: Sides) -> str | None:
    """Start the probes; say why that of the base does not. Raises BrokenSide of a head that does not."""
    try:
        sides.start()
    except BrokenSide as broken:
        if broken.side != BASE:
            raise
        return str(broken)
    return None


def _incomparable(head: Side, reason: str) -> dict[str, Row]:
    return {name: Row(name, Judgement(INCOMPARABLE, reason)) for name in head.cells}


def read(path: Path) -> list[Entry]:
    """Return the lines of a gate that was interrupted; the last one may be torn."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        return [messages.decode(line, Entry) for line in lines]
    except OSError as error:
        raise GateError(f"{str(path.parent)!r} holds no gate: {error.strerror}") from error
    except messages.BadMessage as error:
        raise GateError(f"{path}: expected lines that a gate wrote, got {error}") from error


def facts_of(
    cells: Mapping[str, Contestant],
    processes: Processes,
    earlier: Sequence[Entry],
    sides: Sides,
    differs: Difference | None = None,
) -> dict[str, dict[str, Facts]]:
    """Ask both sides of each cell, of what is not known from before; side by side takes longer.

    Of a cell that loads nothing by which the sides differ, the facts of the head are those of the base. Runtimes come one after
    the other, as what a probe has loaded for one is there for the next: so the cells of the first have loaded nothing else.
    """
    found: dict[str, dict[str, Facts]] = {name: {} for name in cells}
    for entry in earlier:
        if entry.facts is not None and entry.side is not None and entry.name in found:
            found[entry.name][entry.side] = entry.facts
    runtimes = list(dict.fromkeys(cell.head.runtime for cell in cells.values()))
    ordered = sorted(cells, key=lambda name: runtimes.index(cells[name].head.runtime))
    for number, name in enumerate(ordered, 1):
        for side in (HEAD, BASE):
            if side not in found[name]:
                sides.said = f"cell {number} of {len(cells)}, {side}: {name}"
                found[name][side] = processes.facts(name, side)
            if side == HEAD and differs is not None:
                found[name] |= _known_of_both(cells[name], found[name][HEAD], differs)
    sides.said = ""
    return found


def _known_of_both(cell: Contestant, head: Facts, differs: Difference) -> dict[str, Facts]:
    """Return the facts of both sides, where those of the head say enough: base and head cannot but do the same; else none."""
    if head.reason is None and differs.revisions and all(part.startswith(IMPORT) for part in head.sources):
        head = Facts(NOTHING_LOADED)
    elif head.reason is not None or cell.base != cell.head or differs.concerns(head.sources):
        return {}
    return {BASE: head, HEAD: head}


def _untimed(
    base: Side,
    head: Side,
    able: Collection[str],
    facts: Mapping[str, Mapping[str, Facts]],
    skipped: dict[str, str],
    allowed: Collection[str],
) -> dict[str, Row]:
    """Return the rows of all cells that are not timed. What neither side supports goes to `skipped`."""
    found: dict[str, Judgement] = {}
    for name in (name for name in {**base.cells, **head.cells} if name not in skipped and name not in able):
        if name in base.cells and name not in base.impossible:
            found[name] = Judgement(MISSING, head.impossible.get(name, "the head has no such cell"))
        else:
            found[name] = Judgement(NEW, base.impossible.get(name, "the base has no such cell"))
    for name in able:
        old, new = facts[name][BASE].reason, facts[name][HEAD].reason
        if old is not None and new is not None:
            if all(reason.startswith((UNSUPPORTED, UNAVAILABLE)) for reason in (old, new)):
                skipped[name] = new
            else:
                found[name] = Judgement(INCOMPARABLE, new if old == new else f"the base: {old}; the head: {new}")
        elif new is not None:
            found[name] = Judgement(REGRESSED, f"the head: {new}")
        elif old is not None:
            found[name] = Judgement(NEW, f"the base: {old}")
    if "missing" in allowed:
        found = {name: judgement for name, judgement in found.items() if judgement.verdict != MISSING}
    return {name: Row(name, judgement) for name, judgement in found.items()}


def _judged(outcome: schedule.Outcome, processes: Processes) -> dict[str, Judgement]:
    found = regression.judge(outcome.evidence, outcome.spread, CONTROLS, outcome.given_up)
    for name, reason in processes.failed.items():
        found[name] = Judgement(INCONCLUSIVE, reason)
    return found


def _row(
    name: str,
    judgement: Judgement,
    facts: Mapping[str, Facts],
    processes: Processes,
    amounts: Mapping[tuple[str, str], Judgement],
    allowed: Collection[str],
) -> Row:
    """Put what is exact before what is measured: a head that computes another function is said so before its speed."""
    base, head = facts[BASE], facts[HEAD]
    changed = exact.function_changed(base, head)
    grew, shrank = exact.changes(base, head)
    held = {key[1]: one for key, one in amounts.items() if key[0] == name and one.verdict in (REGRESSED, IMPROVED)}
    words = {key: f"{key} {one.effect:+.1%}" for key, one in held.items()}
    grew += [words[key] for key, one in held.items() if one.verdict == REGRESSED]
    shrank += [words[key] for key, one in held.items() if one.verdict == IMPROVED]
    reasons = [*([changed] if changed and "function" not in allowed else []), *(grew if "size" not in allowed else [])]
    if reasons:
        judgement = replace(judgement, verdict=REGRESSED, reason="; ".join(reasons))
    base_s, head_s = processes.medians(name)
    return Row(name, judgement, base_s, head_s, [*([changed] if changed else []), *grew, *shrank])
