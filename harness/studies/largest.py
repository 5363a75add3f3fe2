"""The largest batch that fits, found by trials on a device or on what stands in for it; a prediction says where to begin."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import OK, OUT_OF_MEMORY, TIMED_OUT, CellEnded
from plumbline.harness.readings import value_of
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.session import needed, without_paths
from plumbline.harness.settings import Settings
from plumbline.harness.views.table import LEFT, NOTHING, tabulated
from plumbline.texts import duration

TOO_LARGE = (OUT_OF_MEMORY, TIMED_OUT)  # so a larger batch does not fit either


class Sought(NamedTuple):
    """A cell whose largest batch is sought, the `predicted` one, and the one at which trials `begin` where none is predicted."""

    cell: Cell
    predicted: int | None = None
    begin: int | None = None


class Tried(Struct, frozen=True):
    """What became of a batch: the outcome, and of one that fits the bytes of its process at the peak."""

    batch: int
    outcome: str
    peak_bytes: float | None = None
    reason: str | None = None


class Largest(Struct, frozen=True):
    """The largest of the batches that fits, None where none is known to; what was tried, and the `predicted` one."""

    cell: Cell
    batches: list[int]
    largest: int | None
    tried: list[Tried]
    predicted: int | None = None

    @property
    def known(self) -> bool:
        """Whether all that was tried ended ok, or by being too large."""
        return all(one.outcome in (OK, *TOO_LARGE) for one in self.tried)

    @property
    def steps_off(self) -> int | None:
        """By how many of the batches the prediction was off; None where there is none, or nothing to hold it against."""
        if self.predicted is None or not self.known:
            return None
        fit = 0 if self.largest is None else 1 + self.batches.index(self.largest)
        return abs(sum(batch <= self.predicted for batch in self.batches) - fit)


def find(sought: Sought, batches: Sequence[int], attempt: Callable[[Cell], Tried]) -> Largest:
    """Try batches, from the one that is predicted on, until the largest that fits and the next one are known.

    A batch that ends otherwise, as unsupported or failed, ends the search: nothing is known of those above it.
    """
    batches = sorted(set(batches))
    low, high, tried = -1, len(batches), list[Tried]()
    first = sought.begin if sought.predicted is None else sought.predicted
    at = max((number for number, batch in enumerate(batches) if batch <= (first or batches[0])), default=0)
    while high - low > 1:
        found = attempt(replace(sought.cell, batch=batches[at]))
        tried.append(found)
        if found.outcome == OK:
            low = at
        elif found.outcome in TOO_LARGE:
            high = at
        else:
            break
        one_beside = at + 1 if found.outcome == OK else at - 1
        at = one_beside if len(tried) == 1 and low < one_beside < high else (low + high) // 2
    return Largest(sought.cell, batches, batches[low] if low >= 0 else None, tried, sought.predicted)


def search(
    cells: Sequence[Sought],
    batches: Sequence[int],
    time_limit_s: float,
    wait_s: float,
    say: Callable[[str], None],
    progress: Callable[[str], None],
) -> list[Largest]:
    """Find the largest batch of each cell, beside the predicted one, and `say` each as soon as it is known.

    Raises Busy, CellEnded and BadPlace. A trial builds the net and runs two inferences. Nothing is timed, but others who do would
    be disturbed.
    """
    settings = Settings.here(None, accuracy_images=0, energy_s=0.0, train_minutes=0.0, time_limit_s=time_limit_s)
    found, left = list[Largest](), ""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        words = [""]
        place = places.of(cells[0].cell.target)
        connection = Connection(log, progress=lambda text: progress(f"{words[0]}: {text}"), place=place, lock_s=wait_s)
        try:
            connection.place.prepare(needed([each.cell for each in cells], settings), progress, connection.holding)
            connection.start()
            began = time.monotonic()
            for number, each in enumerate(cells, 1):
                words[0] = f"{number} of {len(cells)}{left}: {_name(each.cell)}"
                found.append(find(each, batches, lambda one: trial(connection, one, settings)))
                took = time.monotonic() - began
                left = f", about {duration(took / number * (len(cells) - number))} left" if number < len(cells) else ""
                say(f"[{number}/{len(cells)}] {line(found[-1])}  ({duration(took)} so far{left})")
        finally:
            connection.close()
    return found


def trial(connection: Connection, cell: Cell, settings: Settings) -> Tried:
    """Run a cell's inference twice, and return what its process held."""
    if (impossible := matrix.impossible(cell)) is not None:
        return Tried(cell.batch, impossible.outcome, reason=impossible.reason)
    probe = CellProbe(connection, cell, settings)
    try:
        held = probe.memory()
    except CellEnded as end:
        return Tried(cell.batch, end.outcome, reason=without_paths(end.reason))
    finally:
        probe.close()
    return Tried(cell.batch, OK, value_of(held, "process_peak"))


def line(found: Largest) -> str:
    """Say in a line what fits, and what was tried."""
    return f"{_name(found.cell)}: largest batch {_largest(found)}; {_all_tried(found)}"


def _name(cell: Cell) -> str:
    return f"{cell.model} {cell.variant} {cell.precision} at {cell.image_size} pixels"


def _largest(found: Largest) -> str:
    return str(found.largest) if found.largest is not None else "none" if found.known else NOTHING


HEADS = ["model", "variant", "precision", "pixels", "largest batch", "predicted", "steps off", "tried"]


def table(found: Sequence[Largest], style: str) -> str:
    """Tabulate what fits; below it the reasons of what ended otherwise, and of all where nothing fits."""
    rows = [
        [
            each.cell.model,
            each.cell.variant,
            each.cell.precision,
            str(each.cell.image_size),
            _largest(each),
            NOTHING if each.predicted is None else str(each.predicted),
            NOTHING if each.steps_off is None else str(each.steps_off),
            _all_tried(each),
        ]
        for each in found
    ]
    reasons = dict.fromkeys(
        f"- {each.cell.model} {each.cell.variant}, batch {one.batch}: {one.reason}"
        for each in found
        for one in each.tried
        if one.reason and (each.largest is None or one.outcome not in TOO_LARGE)
    )
    return "\n".join([tabulated(rows, HEADS, (*LEFT, "model", "variant", "precision", "tried"), style), *reasons])


def _all_tried(found: Largest) -> str:
    return ", ".join(map(_said, sorted(found.tried, key=lambda one: one.batch)))


def _said(one: Tried) -> str:
    return f"{one.batch}: " + (one.outcome.replace("_", " ") if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f} MB")
