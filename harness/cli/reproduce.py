"""`plumbline reproduce`: train what the studies trained, and put the figures beside those reported."""

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
        "--run-dir", type=Path, default=Path("runs/reproduction"), metavar="DIR", help="goes on with what is there"
    )
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="only this one, and others named so")
    parser.add_argument("--table", action="store_true", help="run nothing; show what DIR holds")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness import journal
    from plumbline.harness.session.session import run_tier
    from plumbline.harness.studies import reproduction

    options = [option for name in arguments.model for option in ("--model", name)]
    options += ["--data", str(arguments.data)] if arguments.data else []
    code = 0 if arguments.table else run_tier(reproduction.TIER, arguments.run_dir, options)
    records = journal.read(arguments.run_dir)
    print(reproduction.tables(records, arguments.style))
    if missed := reproduction.missed(records):
        print(f"less than was reported: {'; '.join(missed)}", file=sys.stderr)
    return code or int(bool(missed))
