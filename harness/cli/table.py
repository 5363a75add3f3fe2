"""`plumbline table`: the evaluation matrix of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--per-joule", action="store_true", help="inferences a joule, instead of millijoules an inference")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness import journal
    from plumbline.harness.views.table import matrix

    print(matrix(journal.read(arguments.run), arguments.style, arguments.per_joule))
    return 0
