"""`plumbline counts`: every model counted by every route, beside what has been published."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="another matrix file")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.session import matrix
    from plumbline.harness.studies import census
    from plumbline.harness.views import listing

    started = time.perf_counter()
    tiers = matrix.load(arguments.matrix or matrix.FILE)
    counts = census.take(listing.sizes(tiers.values()), progress)
    progress("")
    print(census.table(counts, arguments.style))
    wrong = census.wrong(counts)
    for line in wrong:
        print(line, file=sys.stderr)
    verdict = f"{len(wrong)} do not agree" if wrong else "all routes and published figures agree"
    print(f"{len(counts)} models and sizes in {time.perf_counter() - started:.1f} s; {verdict}", file=sys.stderr)
    return 1 if wrong else 0
