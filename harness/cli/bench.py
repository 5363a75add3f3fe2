"""`plumbline bench`: runs pytest on the benchmarks that are installed, where there is no checkout; options are pytest's."""

from __future__ import annotations

import argparse
import os
import sys

from plumbline.harness.views.terminal import Progress

PASSES_ON = True


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes: whatever pytest takes, which is passed on."""
    parser.usage = "plumbline bench [options of pytest and of `pytest benchmarks/`, as --tier smoke]"


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns pytest's exit code."""
    from plumbline.harness.session.session import REPOSITORY

    command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "-p", "no:cacheprovider", *arguments.options]
    os.execv(sys.executable, command)  # Ctrl-C is for pytest, which tidies up
