"""`plumbline fastest`: the fastest correct configuration of a model on this machine, against torch's eager fp32."""

from __future__ import annotations

import secrets
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import IO

from msgspec.structs import replace as with_fields

from plumbline.harness import runtimes, speed
from plumbline.harness.cell import Cell
from plumbline.harness.lock import holder, lock_machine
from plumbline.harness.machine import here
from plumbline.harness.messages import Contender
from plumbline.harness.outcomes import FAILED, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.session import matrix, places, plan
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.session import needed
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import paired_ratio
from plumbline.harness.target import HERE, Target
from plumbline.harness.verdicts.qualification import qualify
from plumbline.harness.views.table import LEFT, NOTHING, tabulated
from plumbline.models.compression import variants
from plumbline.models.compression.variants import DENSE
from plumbline.texts import duration

BASELINE = ("eager", "fp32")


@dataclass(frozen=True)
class Candidate:
    """One configuration of a model.

    `speedup` is how many times as fast as the baseline it is, in the same rounds, with its 95 % interval.
    `error` is the RMS error as a share of the outputs' spread, `same_class` the share of pictures with the reference's
    class; `top1` the accuracy where there are weights and images, `loss` what the parent has more. `reason` says why it
    was not raced.
    """

    cell: Cell
    error: float | None = None
    same_class: float | None = None
    top1: float | None = None
    loss: float | None = None
    median_s: float | None = None
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Question:
    """What to race.

    `variants` are those besides the dense net; of `runtimes` and `precisions` none means all there are. `image_size` is in pixels
    (None: the usual one); `seconds` is the time of each candidate.
    """

    variants: Sequence[str] = ()
    runtimes: Sequence[str] = ()
    precisions: Sequence[str] = ()
    batch: int = 1
    image_size: int | None = None
    target: str = "cpu"
    seconds: float = 4.0
    data: Path | None = None

    def settings(self) -> Settings:
        """Return the settings of the race. Raises NoFolder where there is no such folder of data."""
        seed = secrets.randbelow(2**31)
        return Settings.here(self.data, inputs_seed=seed, sampling_s=self.seconds, energy_s=0.0, time_limit_s=900)

    def candidates(self, model: str) -> Iterator[Cell]:
        """Yield the baseline first, then each runtime in each precision that can be tried here and is no emulation."""
        found = matrix.find(model)
        size = self.image_size or found.image_size
        chosen = [runtimes.find(name) for name in self.runtimes or runtimes.known()]
        pairs = [(choice.name, precision) for choice in chosen for precision in choice.adapter.precisions]
        for name in self.precisions:
            matrix.check("precision", name)
        for name in self.variants:
            matrix.check("variant", name)
        names = [DENSE, *(variants.find(name).name for name in self.variants)]
        asked = [(DENSE, *BASELINE), *((name, *pair) for name in names for pair in pairs)]
        for variant, runtime, precision in dict.fromkeys(asked):
            if self.precisions and precision not in self.precisions and (variant, runtime, precision) != asked[0]:
                continue
            cell = Cell(found.name, variant, runtime, precision, self.batch, size, self.target)
            if precision == "tf32":  # a switch of the whole process, in which fp32 runs, too
                continue
            if matrix.impossible(cell) is None and not PRECISIONS[precision].emulated(
                cell.device_kind, places.of(self.target).capabilities.cpu_flags
            ):
                yield cell


def report(models: Sequence[str], asked: Question, style: str, progress: Callable[[str], None]) -> None:
    """Race the candidates of each model, print the results, and at the end the fastest of each. Raises `Busy`."""
    best, settings = [], asked.settings()
    elsewhere = Target.parse(asked.target).place
    print(f"{elsewhere or here()}; inputs: seed {settings.inputs_seed}\n", flush=True)
    with (
        nullcontext() if elsewhere else lock_machine(0, holder()),
        tempfile.TemporaryDirectory() as folder,
        (Path(folder) / "probe.log").open("wb") as log,
    ):
        for model in models:
            try:
                found = find(list(asked.candidates(model)), settings, log, progress)
            except CellEnded as end:
                print(f"{model}: {end.outcome}: {end.reason}\n", flush=True)
                continue
            progress("")
            cell = found[0].cell
            print(f"{model}, batch {cell.batch}, {cell.image_size} pixels, {cell.target}\n\n{table(found, style)}\n", flush=True)
            best.append(found[0])
    if len(best) > 1:
        rows = [[candidate.cell.model, *_row(candidate)] for candidate in best]
        print(tabulated(rows, ["model", *HEADS], LEFT, style))


def find(cells: Sequence[Cell], settings: Settings, log: IO[bytes], progress: Callable[[str], None]) -> list[Candidate]:
    """Check each candidate in a process of its own, then race those that are right. The fastest comes first, the unfit last.

    Raises CellEnded where the baseline, the first of the cells, is not right, or the race itself does not end well.
    """
    estimate = plan.Estimate(cells, [], with_fields(settings, sampling_s=0.0, warmup_s=0.0), None, speed.load(settings.cache))
    checked: list[Candidate] = []

    def say(text: str) -> None:
        left = f"about {duration(estimate.left() + settings.sampling_s * len(cells))} left"
        progress(f"{cells[0].model}, {min(len(checked) + 1, len(cells))} of {len(cells)} candidates, {left}: {text}")

    place = places.of(cells[0].target)
    server = Connection(log, progress=say, place=place, lock_s=None if place.name == HERE else 0.0)  # ours we have
    try:
        place.prepare(needed(cells, settings), say, server.holding)
        for cell in cells:
            started = time.monotonic()
            checked.append(_checked(server, cell, settings))
            estimate.ran(cell, time.monotonic() - started)
        if checked[0].reason is not None:
            raise CellEnded(FAILED, f"{cells[0].id}, the baseline: {checked[0].reason}")
        racing = [candidate for candidate in checked if candidate.reason is None]
        progress(f"{cells[0].model}: {len(racing)} candidates take turns, about {duration(settings.sampling_s * len(racing))}")
        outcomes = CellProbe(server, racing[0].cell, settings).race([candidate.cell for candidate in racing[1:]])
    finally:
        server.close()
    baseline = outcomes[0].turns_s
    if outcomes[0].reason is not None:
        raise CellEnded(FAILED, f"{cells[0].id}, the baseline, in the race: {outcomes[0].reason}")
    raced = [_raced(candidate, outcome, baseline) for candidate, outcome in zip(racing, outcomes, strict=True)]
    found = [*raced, *(candidate for candidate in checked if candidate.reason is not None)]
    return sorted(found, key=lambda candidate: -(candidate.speedup or 0.0))


def _checked(server: Connection, cell: Cell, settings: Settings) -> Candidate:
    """Qualify a cell in its own process, as any of it may crash."""
    probe, candidate = CellProbe(server, cell, settings), Candidate(cell)
    try:
        qualify(probe)
        agreement, accuracy = probe.agreement(), probe.accuracy()
    except CellEnded as end:
        return replace(candidate, reason=f"{end.outcome}: {end.reason}")
    finally:
        probe.close()
    return replace(candidate, error=agreement.error, same_class=agreement.top1, top1=accuracy.top1, loss=accuracy.loss)


def _raced(candidate: Candidate, outcome: Contender, baseline: Sequence[float]) -> Candidate:
    if outcome.reason is not None:
        return replace(candidate, reason=f"{FAILED}: {outcome.reason}")
    found = paired_ratio(baseline, outcome.turns_s)
    return replace(candidate, median_s=median(outcome.turns_s), speedup=found.median, interval=found.interval)


HEADS = ["variant", "runtime", "precision", "ms", "speed-up", "95 %", "error", "same class", "top-1", "points lost"]


def table(found: Sequence[Candidate], style: str = "simple") -> str:
    """Tabulate the candidates that were raced, for people, and below them why others were not."""
    body = tabulated([_row(candidate) for candidate in found if candidate.reason is None], HEADS, LEFT, style)
    unfit = [
        textwrap.shorten(f"{_name(candidate.cell)}: {candidate.reason}", 130, placeholder=" ...")
        for candidate in found
        if candidate.reason is not None
    ]
    return "\n".join([body, *([""] if unfit else []), *unfit])


def _name(cell: Cell) -> str:
    return " ".join([*([] if cell.variant == DENSE else [cell.variant]), cell.runtime, cell.precision])


TIMES = ["ms", "speed-up", "95 %"]


def times(candidate: Candidate) -> list[str]:
    """Return the columns `TIMES` of a candidate that was raced."""
    assert candidate.median_s is not None and candidate.speedup is not None
    interval = f"{candidate.interval[0]:.2f}-{candidate.interval[1]:.2f}" if candidate.interval else NOTHING
    return [f"{candidate.median_s * 1e3:.3g}", f"{candidate.speedup:.2f}x", interval]


def _row(candidate: Candidate) -> list[str]:
    return [
        NOTHING if candidate.cell.variant == DENSE else candidate.cell.variant,
        candidate.cell.runtime,
        candidate.cell.precision,
        *times(candidate),
        NOTHING if candidate.error is None else f"{candidate.error:.2g}",
        NOTHING if candidate.same_class is None else f"{candidate.same_class:.0%}",
        NOTHING if candidate.top1 is None else f"{candidate.top1:.2%}",
        NOTHING if candidate.loss is None else f"{100 * candidate.loss:+.2f}",
    ]
