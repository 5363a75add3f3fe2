"""Whether a cell is slower than in the sessions that are stored of it, on the same device under the same conditions.

The unit is the session: each gives one number a cell, its median divided by that of a canary, a cell that the change in question
does not touch. What slows the whole machine for a session leaves the quotient alone. One new session screens, fresh ones confirm.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from msgspec import Struct

from plumbline.harness import messages
from plumbline.harness.outcomes import OK
from plumbline.harness.record import Record
from plumbline.harness.statistics import student
from plumbline.harness.verdicts.comparison import differing, of_machine, of_settings
from plumbline.harness.verdicts.regression import (
    CONTROL,
    EFFECT,
    FAMILY,
    IMPROVED,
    INCOMPARABLE,
    INCONCLUSIVE,
    MARGIN,
    NEW,
    REGRESSED,
    WITHIN_NOISE,
    Judgement,
    Mean,
    rejected,
    upper,
)
from plumbline.texts import number_of

LEAST = 10  # stored sessions; their spread is known too badly from fewer
SUSPECT = 0.2  # p of being slower, in one new session, below which a cell is confirmed
CONFIRMING = 3  # fresh sessions
POWER = 0.95  # with which the smallest effect that is named would be found
INSTEAD = "compare two revisions instead"
KINDS = ("machine", "power mode", "torch", "library versions", "threads", "settings")

Key = dict[str, dict[str, Any]]


class Kept(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a cell in a session: its median in seconds, when it was, and by which revision."""

    median_s: float
    date: str
    revision: str | None


class Session(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a session on a machine. Sessions are compared where their keys are the same."""

    session: str
    key: Key
    cells: dict[str, Kept]
    schema: int = 1

    @property
    def name(self) -> str:
        """That of its file."""
        digest = hashlib.sha256(messages.encode(sorted((kind, sorted(own.items())) for kind, own in self.key.items())))
        date = min(kept.date for kept in self.cells.values())[:10]
        return f"{date}-{self.session}-{digest.hexdigest()[:8]}.json"


class Level(Struct, frozen=True):
    """Mean and standard deviation over `sessions` stored sessions, of logs."""

    mean: float
    deviation: float
    sessions: int

    def above(self, fresh: Sequence[float]) -> Mean:
        """Return by how much new sessions are above, with the error of a prediction: theirs, and that of the stored mean."""
        error = self.deviation * math.sqrt(1 / len(fresh) + 1 / self.sessions)
        return Mean(fmean(fresh) - self.mean, error, self.sessions - 1)

    def detectable(self, suspects: int = 1, confirming: int = CONFIRMING) -> float:
        """Return the slowdown, in logs, that is found with the chance POWER where there are so many suspects."""
        return MARGIN + factor(self.sessions, suspects, confirming) * self.deviation


def factor(sessions: int, suspects: int = 1, confirming: int = CONFIRMING) -> float:
    """Return how many standard deviations of a session a slowdown has to be beyond the margin to be found."""
    quantiles = student(1 - FAMILY / suspects, sessions - 1) + student(POWER, sessions - 1)
    return quantiles * math.sqrt(1 / confirming + 1 / sessions)


def sessions_of(records: Sequence[Record]) -> list[Session]:
    """Return what is kept of a run: a session for each machine, with the cells that were timed and are ok."""
    found: dict[tuple[str, str], Session] = {}
    for record in records:
        if record.outcome == OK and record.latency is not None:
            key = {**of_machine(record.machine), "settings": of_settings(record.settings)}
            session = found.setdefault((record.session, record.machine.id), Session(record.session, key, {}))
            session.cells[record.id] = Kept(record.latency.model.median_s, record.started_at, record.revision)
    return list(found.values())


def alike(stored: Sequence[Session], fresh: Session) -> list[Session]:
    """Return the stored sessions with the key of a new one."""
    return [session for session in stored if not differing(session.key, fresh.key, KINDS)]


def usual_canary(stored: Sequence[Session], fresh: Session) -> str | None:
    """Return the new session's cell that is in the most stored ones; of several the first by name."""
    counts = {name: sum(name in session.cells for session in stored) for name in sorted(fresh.cells)}
    return max(counts, key=lambda name: counts[name], default=None)


def quotient(session: Session, cell: str, canary: str | None) -> float | None:
    """Return the log of a cell's median over the canary's, or of its median in seconds; None where one of them is not there."""
    if cell not in session.cells or (canary is not None and canary not in session.cells):
        return None
    return math.log(session.cells[cell].median_s) - (0.0 if canary is None else math.log(session.cells[canary].median_s))


def level(stored: Sequence[Session], cell: str, canary: str | None) -> Level | None:
    """Return the level of a cell; None with fewer than LEAST sessions."""
    logs = [log for session in stored if (log := quotient(session, cell, canary)) is not None]
    return Level(fmean(logs), stdev(logs), len(logs)) if len(logs) >= LEAST else None


def undecided(stored: Sequence[Session], fresh: Session, cell: str, canary: str | None) -> Judgement | None:
    """Return why nothing can be said of a cell of a new session, however it was; None where something can."""
    same = alike(stored, fresh)
    known = level(same, cell, canary)
    if known is not None:
        if known.detectable() <= EFFECT:
            return None
        first = quotient(fresh, cell, canary)
        mean = known.above([first]) if first is not None else None
        return Judgement(
            INCONCLUSIVE,
            INSTEAD,
            effect=None if mean is None else math.expm1(mean.value),
            interval=None if mean is None else _interval(mean),
            pairs=1,
            detectable=math.expm1(known.detectable()),
        )
    others = [session for session in stored if cell in session.cells]
    own = sum(quotient(session, cell, canary) is not None for session in same)
    if others and not any(cell in session.cells for session in same):
        last = max(others, key=lambda session: session.cells[cell].date)
        return Judgement(INCOMPARABLE, "; ".join(differing(last.key, fresh.key, KINDS).values()))
    if not others and len(same) >= LEAST:
        return Judgement(NEW, "no stored session has it")
    return Judgement(INCONCLUSIVE, f"{number_of(own, 'session')} stored, expected {LEAST} at least; {INSTEAD}")


def suspicious(known: Level, first: float) -> bool:
    """Whether a new session leaves a slowdown by EFFECT possible, or makes a slower cell likely."""
    mean = known.above([first])
    return mean.p(0.0) < SUSPECT or upper(mean, 0.99) >= EFFECT


def judge(
    known: Mapping[str, Level], first: Mapping[str, float], confirmed: Mapping[str, Sequence[float]]
) -> dict[str, Judgement]:
    """Return the judgement of each cell of which something can be said, from the first new session and the fresh ones.

    A suspect is convicted by fresh sessions alone. What is faster needs no suspicion: the first session has one look at it.
    """
    fresh = {name: known[name].above(logs) for name, logs in confirmed.items() if len(logs) >= CONFIRMING}
    firsts = {name: known[name].above([log]) for name, log in first.items()}
    slower = rejected({name: mean.p() for name, mean in fresh.items()})
    faster = rejected({name: mean.opposite().p() for name, mean in firsts.items()})
    found = {}
    for name, screened in firsts.items():
        mean, detectable = fresh.get(name, screened), known[name].detectable(max(1, len(fresh)))
        verdict, reason = WITHIN_NOISE, ""
        if name in slower:
            verdict = REGRESSED
        elif name in faster:
            verdict = IMPROVED
        elif name not in fresh and suspicious(known[name], first[name]):
            verdict, reason = INCONCLUSIVE, "it was not confirmed"
        elif upper(mean, 0.99) >= EFFECT:
            verdict, reason = INCONCLUSIVE, f"too much noise; {INSTEAD}"
        found[name] = Judgement(
            verdict,
            reason,
            effect=math.expm1(mean.value),
            interval=_interval(mean),
            p=mean.p(),
            pairs=len(confirmed[name]) if name in fresh else 1,
            detectable=math.expm1(detectable),
        )
    return found


def canary_judgement(stored: Sequence[Session], fresh: Sequence[Session], canary: str) -> tuple[Judgement, bool] | None:
    """Return that of the canary itself, as nothing divides it, and whether it has changed for certain. None: too few sessions."""
    known = level(stored, canary, None)
    logs = [log for session in fresh if (log := quotient(session, canary, None)) is not None]
    if known is None or not logs:
        return None
    mean = known.above(logs)
    verdict = WITHIN_NOISE if upper(mean, 0.99) < EFFECT else INCONCLUSIVE
    judged = Judgement(
        verdict, "", math.expm1(mean.value), _interval(mean), mean.p(), len(logs), math.expm1(known.detectable(1, len(logs)))
    )
    return judged, min(mean.p(), mean.opposite().p()) < CONTROL


def typical(stored: Sequence[Session], cell: str) -> float | None:
    """Return the median of the medians that are stored, in seconds."""
    found = [session.cells[cell].median_s for session in stored if cell in session.cells]
    return median(found) if found else None


def _interval(mean: Mean) -> tuple[float, float]:
    return math.expm1(-upper(mean.opposite(), 0.995)), math.expm1(upper(mean, 0.995))
