"""`plumbline layers`: where the time of a cell goes, measured with pytest benchmarks --layers."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("cell", nargs="?", help="its id, or words of it, if the run has several")
    parser.add_argument("--against", metavar="CELL", help="another cell of the run: the difference, layer by layer")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness import journal
    from plumbline.harness.views import layers

    records = journal.read(arguments.run)
    record = layers.select(records, arguments.cell)
    if arguments.against is None:
        print(layers.table(record, arguments.style))
    else:
        print(layers.difference(record, layers.select(records, arguments.against), arguments.style))
    return 0
