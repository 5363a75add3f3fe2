"""`plumbline record-device`: write what this device shows of power, temperature and clocks to a file, for tests without it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plumbline.harness.views.terminal import Progress
from plumbline.texts import number_of


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="where to write it (default: on the screen)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to look (default: 5); let something run meanwhile")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="a tree of another machine")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command."""
    from plumbline.harness.studies import recording

    progress(f"looking at this device for {arguments.seconds:g} s")
    states = recording.record(arguments.root, arguments.seconds)
    progress("")
    files = number_of(len(states[0].files), "file")
    text = recording.written(states, f"recorded on a device: {files}, {arguments.seconds:g} s")
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text)
    print(f"{files}, and {number_of(len(states) - 1, 'later moment')} at which some changed", file=sys.stderr)
    return 0
