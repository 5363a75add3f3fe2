"""`plumbline doctor`: is this machine fit to measure, and how far are its instruments off? Half a minute."""

from __future__ import annotations

import argparse

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--target", default="cpu", metavar="TARGET", help="examine the machine there (default: cpu, this one)")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where the machine is not fit to measure."""
    from plumbline.harness.session import places
    from plumbline.harness.studies.doctor import examine
    from plumbline.harness.views import doctor

    places.load(places.FILE)
    machine, found = examine(arguments.target, progress)
    print(doctor.text(machine, found, arguments.style))
    return int(bool(found.unfit))
