"""`plumbline compression`: theoretical and realised gain of compression techniques, with limits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.DATA, shared.STYLE)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "part", nargs="*", help="layers, pruning, mixer, structured, reduction, distillation, tier (default: all)"
    )
    parser.add_argument("--run-dir", type=Path, default=Path("runs/compression"), metavar="DIR", help="of the tier; goes on")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each candidate (default: 4)")
    parser.add_argument("--table", action="store_true", help="run nothing; show what DIR holds")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness import journal
    from plumbline.harness.session.matrix import MatrixError
    from plumbline.harness.session.session import run_tier
    from plumbline.harness.studies import compression
    from plumbline.harness.verdicts.limits import failed

    known = (*compression.PARTS, compression.TIER_PART)
    for name in arguments.part:
        if name not in known:
            raise MatrixError(f"no part {name!r}; known: {', '.join(known)}")
    code, goals = 0, []
    chosen, tier = [name for name in arguments.part if name in compression.PARTS], compression.TIER_PART in arguments.part
    if not arguments.table and (chosen or not arguments.part):
        goals += compression.report(chosen, arguments.data, arguments.seconds, arguments.style, progress)
    if tier or not arguments.part:
        options = ["--data", str(arguments.data)] if arguments.data else []
        code = 0 if arguments.table else run_tier(compression.TIER, arguments.run_dir, options)
        records = journal.read(arguments.run_dir)
        goals += compression.goals_of(records)
        print(compression.tables(records, arguments.style))
    if missed := failed(goals):
        print(f"beyond the limit: {'; '.join(missed)}", file=sys.stderr)
    return code or int(bool(missed))
