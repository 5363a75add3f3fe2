"""`plumbline history`: how the medians of each cell changed from session to session, and with which revision."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, or folders of them")
    words = "of series without a change, the share that may have a point (default: 0.05)"
    parser.add_argument("--false-points", type=float, default=0.05, metavar="SHARE", help=words)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the medians for Apache Otava; one file a machine")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.studies import stored
    from plumbline.harness.verdicts import changes
    from plumbline.harness.views import stored as view

    if not 0.005 <= arguments.false_points <= 0.5:
        raise stored.NotStored(f"--false-points: expected a share from 0.005 to 0.5, got {arguments.false_points}")
    series = changes.series_of(stored.runs(arguments.runs))
    found = []
    for number, each in enumerate(series, 1):
        progress(f"series {number} of {len(series)}: {each.cell}")
        found.append((each, changes.changes([session.median_s for session in each.sessions], arguments.false_points)))
    progress("")
    print(view.history(found, arguments.false_points, arguments.style))
    if arguments.csv is not None:
        machines = list(dict.fromkeys(each.machine for each in series))
        for number, machine in enumerate(machines, 1):
            file = arguments.csv if len(machines) == 1 else arguments.csv.with_stem(f"{arguments.csv.stem}-{number}")
            text, left = view.otava([each for each in series if each.machine == machine])
            file.write_text(text)
            print(f"{file}: {machine}", file=sys.stderr)
            for cell in left:
                print(f"{file}: without {cell}, which some of its sessions lack", file=sys.stderr)
    return 0
