"""`plumbline list`: models, variants, runtimes, precisions, targets, data, tiers; what is missing here."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="another matrix file")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.session import matrix
    from plumbline.harness.views import listing

    root = os.environ.get("PLUMBLINE_DATA")
    print(listing.everything(matrix.load(arguments.matrix or matrix.FILE), Path(root) if root else None))
    return 0
