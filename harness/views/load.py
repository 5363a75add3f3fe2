"""What cells showed under loads, for people: one row a cell and scenario."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from plumbline.harness.cell import Cell
from plumbline.harness.load import AGREES, INVALID, SERVER, STOPPED, Beside, Camera, Loaded, Run, Soak
from plumbline.harness.readings import value_of
from plumbline.harness.views.table import NOTHING, milliseconds, tabulated

HEADS = ["cell", "scenario", "result", "verdict", "switched", "waiting"]
LEFT = ("cell", "scenario", "result", "verdict")
NOTES = textwrap.wrap(
    "p50, p90, p99 ≤: upper bounds at 99 %. VALID, INVALID: LoadGen's own verdict under the durations asked for, which are no "
    "submission's. switched: involuntary context switches; waiting: share of time in which a process waited for a processor.",
    width=130,
)


def table(rows: Iterable[tuple[Cell, Loaded]], style: str = "simple") -> str:
    """Tabulate what was found, and below it why rows are no pass."""
    found = list(rows)
    shown = [_row(cell, loaded, "\n" if style == "simple" else "; ") for cell, loaded in found]
    wrong = [f"{cell.id}, {loaded.scenario.name}: {loaded.wrong}" for cell, loaded in found if loaded.wrong]
    return "\n".join([tabulated(shown, HEADS, LEFT, style), "", *NOTES, *([""] if wrong else []), *wrong])


def _row(cell: Cell, loaded: Loaded, between: str) -> list[str]:
    switches, waiting = (value_of(loaded.disturbance, name) for name in ("involuntary_switches", "cpu_pressure"))
    return [
        cell.id,
        loaded.scenario.name,
        between.join(_results(loaded)) or NOTHING,
        verdict(loaded),
        NOTHING if switches is None else f"{switches:.0f}",
        NOTHING if waiting is None else f"{waiting:.1%}",
    ]


def verdict(loaded: Loaded) -> str:
    """Return one word: LoadGen's, or ours of a limit; nothing where there was none to keep."""
    if loaded.unavailable is not None:
        return "unavailable"
    if loaded.run is not None:
        return loaded.run.verdict
    if loaded.soak is not None and loaded.soak.stopped is not None:
        return STOPPED
    if loaded.camera is not None and loaded.scenario.max_missed is not None:
        return "not shown" if loaded.wrong else "kept"
    if loaded.beside is not None:
        return "agrees" if loaded.beside.agrees else "not shown"
    return NOTHING


def _results(loaded: Loaded) -> Iterator[str]:
    if loaded.scenario.name == SERVER and loaded.run is not None:
        yield from _server(loaded, loaded.run)
    elif loaded.run is not None:
        yield from _of_run(loaded.run)
    if loaded.camera is not None:
        yield from _camera(loaded.camera)
    if loaded.soak is not None:
        yield from _soak(loaded.soak)
    if loaded.beside is not None:
        yield from _beside(loaded.beside)


def _of_run(run: Run) -> Iterator[str]:
    if run.latency_s is not None:
        bound = "" if run.bound_s is None else f" (≤{milliseconds(run.bound_s)})"
        yield f"p{100 * run.percentile:.0f} {milliseconds(run.latency_s)}{bound} ms of {run.queries}"
    if run.samples_per_s is not None:
        yield f"{run.samples_per_s:.4g}/s"


def _server(loaded: Loaded, best: Run) -> Iterator[str]:
    limit = f"limit {milliseconds(loaded.scenario.limit_s)} ms"
    yield f"{best.asked_hz:.4g}/s: p99 {milliseconds(best.latency_s)} ms, {limit}"
    above = [run.asked_hz or 0.0 for run in loaded.runs if run.verdict == INVALID]
    if best.verdict != INVALID and above:
        yield f"INVALID at {min(above):.4g}/s"


def _camera(found: Camera) -> Iterator[str]:
    share = f"{found.missed:.2%} missed (≤{found.missed_at_most:.2%})"
    yield f"{found.rate_hz:g} Hz, deadline {milliseconds(found.deadline_s)} ms: {share}"
    yield f"{found.dropped} dropped and {found.late} late of {found.frames}"
    yield f"p50 {milliseconds(found.percentiles_s['p50'])} ms, p99 {milliseconds(found.percentiles_s['p99'])} ms"


def _soak(found: Soak) -> Iterator[str]:
    between = "" if found.interval is None else f" ({found.interval[0]:.3f}-{found.interval[1]:.3f})"
    yield f"last {found.window_s:.0f} s over first: {found.ratio:.3f}x{between}"
    yield f"p50 {milliseconds(found.medians_s[0])} to {milliseconds(found.medians_s[-1])} ms in {len(found.at_s)} s"
    for values, scale, unit in ((found.temperatures, 1.0, "°C"), (found.clocks_hz, 1e-9, "GHz")):
        known = [value * scale for value in values if value is not None]
        yield f"{min(known):.3g} to {max(known):.3g} {unit}" if known else f"no {unit} read"


def _beside(found: Beside) -> Iterator[str]:
    between = "" if found.interval is None else f" ({found.interval[0]:.3f}-{found.interval[1]:.3f})"
    yield f"LoadGen's p90 over ours: {found.ratio:.3f}{between}, goal within {AGREES:.0%}"
    yield f"{_middle(found.loadgen_s)} and {_middle(found.ours_s)} ms, {len(found.ours_s)} rounds of {found.inferences}"


def _middle(values: Sequence[float]) -> str:
    return milliseconds(sorted(values)[len(values) // 2])
