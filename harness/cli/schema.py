"""`plumbline schema`: the JSON Schema of a record."""

from __future__ import annotations

import argparse
import json

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes: nothing."""


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command."""
    from plumbline.harness import record

    print(json.dumps(record.schema(), indent=2))
    return 0
