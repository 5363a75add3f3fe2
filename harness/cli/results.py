"""`plumbline results`: a run as a page of docs/results, with date, machine and revision."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--title", default="Results", metavar="TEXT")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there (default: print it)")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command."""
    from plumbline.harness import journal
    from plumbline.harness.views.results import page

    records = journal.read(arguments.run)
    if not records:
        raise journal.RunError(f"{str(arguments.run)!r} holds no records; expected one at least")
    text = page(records, arguments.title)
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text)
    return 0
