"""`plumbline layers`: where the time of a cell goes, measured with pytest benchmarks --layers."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.views.terminal import Progress

HELP = "where the time of a cell goes, measured with pytest benchmarks --layers"


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("cell", nargs="?", help="its id, or words of it, if the run has several")
    parser.add_argument("--against", metavar="CELL", help="another cell of the run: the difference, layer by layer")
    parser.add_argument("--markdown", action="store_true")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness import journal
    from plumbline.harness.views import layers

    records, style = journal.read(arguments.run), "github" if arguments.markdown else "simple"
    record = layers.select(records, arguments.cell)
    if arguments.against is None:
        print(layers.table(record, style))
    else:
        print(layers.difference(record, layers.select(records, arguments.against), style))
    return 0
