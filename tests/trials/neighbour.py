"""Whether disturbed cells are marked: the smoke tier on a quiet machine, and beside a neighbour that is busy now and then.

    tox -e trials-neighbour -- FOLDER --runs 10

Each run is kept in FOLDER, quiet and beside the neighbour in turns, and counted, also those of earlier days. The reference of a
cell are its unmarked medians of the quiet runs: an interval in which 95 of 100 further ones lie (of log medians, by Student's t).
Of the runs beside the neighbour, unmarked cells should lie in it; and of the quiet runs few should be marked.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev

from plumbline.harness import journal
from plumbline.harness.record import Record
from plumbline.harness.statistics import student, wilson_interval
from plumbline.harness.views.table import tabulated

QUIET, BESIDE = "quiet", "beside a neighbour"
NEIGHBOUR = """
import random, time
while True:
    until = time.monotonic() + random.uniform(0.2, 3)
    while time.monotonic() < until:
        pass
    time.sleep(random.uniform(0.2, 3))
"""


@contextmanager
def neighbour() -> Iterator[None]:
    """Let a process be busy on one processor for 0.2 to 3 s, and rest for as long."""
    with subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) as process:
        try:
            yield
        finally:
            process.kill()


def run(at: Path, options: Sequence[str]) -> None:
    """Run the smoke tier into a folder."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider", "--tier", "smoke"]
    with Path(f"{at}.txt").open("w") as output:
        subprocess.run([*command, "--run-dir", str(at), *options], stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ))


def records(folder: Path, kind: str) -> list[list[Record]]:
    """Return the measured records of each run of a kind."""
    runs = [journal.read(path) for path in sorted(folder.glob(f"{kind.split()[0]}-*")) if path.is_dir()]
    return [[record for record in each if record.latency is not None] for each in runs]


def reference(runs: Sequence[Sequence[Record]]) -> dict[str, tuple[float, float]]:
    """Return for each cell the interval in which 95 of 100 medians of quiet runs lie, in seconds."""
    medians: dict[str, list[float]] = defaultdict(list)
    for record in (record for each in runs for record in each):
        assert record.latency is not None
        if not record.latency.disturbed:
            medians[record.id].append(math.log(record.latency.model.median_s))
    found = {}
    for name, seen in medians.items():
        if len(seen) > 2:
            half = student(0.975, len(seen) - 1) * stdev(seen) * math.sqrt(1 + 1 / len(seen))
            found[name] = math.exp(fmean(seen) - half), math.exp(fmean(seen) + half)
    return found


def table(folder: Path, style: str) -> str:
    """Return how many cells were marked, and how many unmarked ones lie outside of the reference."""
    found = {kind: records(folder, kind) for kind in (QUIET, BESIDE)}
    between, rows = reference(found[QUIET]), []
    for kind, runs in found.items():
        cells = [(record, record.latency) for each in runs for record in each if record.latency]
        marked = sum(bool(latency.disturbed) for _, latency in cells)
        repeated = sum(latency.tries > 1 for _, latency in cells)
        unmarked = [(record, latency) for record, latency in cells if not latency.disturbed and record.id in between]
        outside = sum(
            not between[record.id][0] <= latency.model.median_s <= between[record.id][1] for record, latency in unmarked
        )
        hidden = [(record, latency) for record, latency in cells if latency.disturbed and record.id in between]
        caught = sum(not between[record.id][0] <= latency.model.median_s <= between[record.id][1] for record, latency in hidden)
        counts = {
            "marked": (marked, len(cells)),
            "repeated": (repeated, len(cells)),
            "unmarked, and outside of the reference": (outside, len(unmarked)),
            "marked, and outside of the reference": (caught, len(hidden)),
        }
        for what, (count, of) in counts.items():
            low, high = wilson_interval(count, of) if of else (0.0, 1.0)
            rows.append([kind, str(len(runs)), what, f"{count} of {of}", f"{count / max(1, of):.1%}", f"{low:.1%} to {high:.1%}"])
    heads = ["machine", "runs", "cells that are", "count", "share", "95 %"]
    return tabulated(rows, heads, heads[:3], style)


def main() -> None:
    """Run what is asked for, and print what became of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=1, help="of each kind (default: 1; 0 prints the table)")
    parser.add_argument("--style", default="simple", help="of the table")
    arguments, options = parser.parse_known_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    first = 1 + len(list(folder.glob("quiet-*.txt")))
    for number in range(first, first + arguments.runs):
        run(folder / f"quiet-{number:02}", options)
        with neighbour():
            run(folder / f"beside-{number:02}", options)
        print(f"round {number} of {first + arguments.runs - 1}", flush=True)
    print(table(folder, arguments.style))


if __name__ == "__main__":
    main()
