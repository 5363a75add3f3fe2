"""`plumbline train`: a training as a command, wherever it runs: with a bar, and a summary in the end."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from plumbline.harness.cell import Cell
from plumbline.harness.messages import Progress, Train
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import Connection, trained
from plumbline.harness.session.session import needed
from plumbline.harness.target import at
from plumbline.texts import duration


def command(request: Train, wait_s: float) -> int:
    """Have the probe train, and print the result. Returns the exit code: 1 where a floor is missed.

    Raises MatrixError, BadPlace, CellEnded and Busy.
    """
    check(request.cell)
    if at(request.cell.place) is not None and (request.start or request.out):
        raise matrix.MatrixError(f"--from and --out name files of this machine, got --target {request.cell.target}")
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log, _Bar() as bar:
        place = places.of(request.cell.target)
        connection = Connection(log, place=place, lock_s=wait_s)
        connection.watch = bar.watch
        try:
            place.prepare(needed([request.cell], request.settings), bar.say, connection.holding)
            found = trained(connection, request)
            connection.close()
        except KeyboardInterrupt:
            connection.kill()
            print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            return 130
        finally:
            connection.kill()
    if found.before:
        print(f"{found.name} was trained before; --anew trains it again")
    print(summary(found.record))
    print(f"weights: {found.weights}")
    if found.copy is not None:
        print(f"and:     {found.copy}")
    if not found.usual:
        print("benchmarks look for the recipe as it is: give them these by --out DIR, and then --weights DIR")
    if found.floor is not None and found.record["top1"] < found.floor:
        print(f"that is less than the floor of {found.floor:.2%} ({found.floor_source})", file=sys.stderr)
        return 1
    return 0


def check(cell: Cell) -> None:
    """Raise MatrixError where a model does not take pictures of that size."""
    if (unfit := matrix.unfit(matrix.find(cell.model), cell.image_size)) is not None:
        raise matrix.MatrixError(unfit.reason)


def summary(record: Mapping[str, Any]) -> str:
    """Tell of a training in words."""
    split, curves, here = record["split"], record["curves"], record["machine"]
    sessions = f" in {record['sessions']} sessions" if record["sessions"] > 1 else ""
    return "\n".join(
        [
            f"top-1 {record['top1']:.2%}, top-5 {record['top5']:.2%} on the {record['images']} test images of {record['data']}",
            f"{len(curves)} epochs of {split['train']} images in {duration(record['seconds'])}{sessions}: "
            f"{record['images_per_s']:.0f} images/s, {record['waiting_share']:.1%} of the time for making batches; "
            f"peak memory {here['process_peak_bytes'] / 2**20:.0f} MiB",
        ]
    )


class _Bar:
    """tqdm's bar on a terminal; elsewhere a line after every epoch, and every minute."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._printed_at = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """Tell of what comes before."""
        self.watch(Progress(text))

    def watch(self, now: Progress) -> None:
        """Show where the training is."""
        terminal = sys.stderr.isatty()
        if now.step is None or now.steps is None:
            print(now.text, file=sys.stderr if terminal else sys.stdout, flush=True)
            return
        if self._bar is None:  # a training that goes on begins where it was
            self._bar = tqdm(total=now.steps, initial=now.step - 1, unit="step", disable=not terminal, leave=False)
        self._bar.set_postfix_str(now.text, refresh=False)
        self._bar.update(now.step - self._bar.n)
        if not terminal and (now.milestone or time.monotonic() - self._printed_at >= 60):
            self._printed_at = time.monotonic()
            print(now.text, flush=True)
