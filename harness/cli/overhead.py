"""`plumbline overhead`: what the suite itself costs, measured on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--quick", action="store_true", help="fewer repeats: shows that it runs, not what it costs")
    parser.add_argument(
        "--run", type=Path, metavar="RUN", help="take the shares of time from this run, instead of running the default tier"
    )
    parser.add_argument("--target", metavar="TARGET", help="measure what a cell costs more there than here, and nothing else")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.studies import overhead

    if arguments.target is not None:
        missed = overhead.elsewhere(progress, arguments.target, arguments.quick)
    else:
        missed = overhead.report(progress, quick=arguments.quick, run=arguments.run)
    if missed:
        print(f"over the limit: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
