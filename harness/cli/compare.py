"""`plumbline compare`: two runs beside each other, as ratios with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    words = "a run directory, or a file of pytest --benchmark-json"
    parser.add_argument("a", type=Path, metavar="A", help=words)
    parser.add_argument("b", type=Path, metavar="B", help=f"{words}; a ratio is B / A")
    parser.add_argument(
        "--ignore", default="", metavar="AXIS", help="pair cells that differ in it: runtime, target, precision, variant, model"
    )


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 3 where no pair could be compared."""
    from plumbline.harness.studies import stored
    from plumbline.harness.verdicts import comparison
    from plumbline.harness.views import stored as view

    ignored = [axis.strip() for axis in arguments.ignore.split(",") if axis.strip()]
    if unknown := [axis for axis in ignored if axis not in comparison.IGNORABLE]:
        raise stored.NotStored(f"--ignore: expected some of {', '.join(comparison.IGNORABLE)}, got {', '.join(unknown)}")
    a, b = stored.read(arguments.a), stored.read(arguments.b)
    if bool(a.guarantee) != bool(b.guarantee):
        raise stored.NotStored("expected two runs or two files of pytest-benchmark, got one of each")
    if ignored and a.guarantee:
        raise stored.NotStored("--ignore: expected runs, got files of pytest-benchmark, which have no axes; leave it out")
    rows_a, rows_b = comparison.latest(a.rows), comparison.latest(b.rows)
    found = comparison.compare(rows_a[0], rows_b[0], ignored)
    sides = [view.Side(str(path), *rows) for path, rows in ((arguments.a, rows_a), (arguments.b, rows_b))]
    print(view.compared(found, sides, a.guarantee, ignored, arguments.style))
    return 0 if found.compared else 3
