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
    words = "measure what sessions on so many boards at once cost this machine, and nothing else, as 2,8,50; they replay a run"
    parser.add_argument("--targets", type=_numbers, metavar="N", help=words)


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",") if part.isdigit() and int(part) > 1]
    if len(numbers) != text.count(",") + 1:
        raise argparse.ArgumentTypeError(f"expected numbers of boards from 2, as 2,8,50, got {text!r}")
    return numbers


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.studies import boards, overhead

    if arguments.targets is not None:
        missed = boards.report(progress, arguments.targets, cells=4 if arguments.quick else 20)
    elif arguments.target is not None:
        missed = overhead.elsewhere(progress, arguments.target, arguments.quick)
    else:
        missed = overhead.report(progress, quick=arguments.quick, run=arguments.run)
    if missed:
        print(f"over the limit: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
