"""`plumbline table`: the evaluation matrix of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.views.terminal import Progress

HELP = "the evaluation matrix of a run"


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--markdown", action="store_true")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness import journal
    from plumbline.harness.views.table import matrix

    print(matrix(journal.read(arguments.run), "github" if arguments.markdown else "simple"))
    return 0
