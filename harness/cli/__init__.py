"""`plumbline`: what the suite can say about itself. A file a command.

The docstring of a file, without the name of its command, is its help; `PARENTS` are the options that it shares with others.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from types import ModuleType

from plumbline import PlumblineError
from plumbline.harness.views import terminal

COMMANDS = (
    "bench", "list", "show", "counts", "overhead", "table", "report", "check-plugin", "layers", "fastest", "train", "compression",
    "compress", "reproduce", "results", "data", "schema", "trust", "gate", "compare",
    "history", "load", "doctor", "record-device", "recommend",
)  # fmt: skip


def main() -> int:
    """Run a command. Returns its exit code: 1 where something is red or missed, 2 where what was asked for cannot be."""
    parser = argparse.ArgumentParser(prog="plumbline", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {name: import_module(f"{__name__}.{name.replace('-', '_')}") for name in COMMANDS}
    for name, module in modules.items():
        text = _help(module)
        module.arguments_of(commands.add_parser(name, help=text, description=text, parents=getattr(module, "PARENTS", ())))
    for stream in (sys.stdout, sys.stderr):
        terminal.readable(stream)
    arguments, others = parser.parse_known_args()
    if getattr(modules[arguments.command], "PASSES_ON", False):
        arguments.options = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        with terminal.Progress() as progress:
            code: int = modules[arguments.command].run(arguments, progress)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read the output has seen enough: show MODEL | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PlumblineError as error:
        print(f"plumbline {arguments.command}: {error}", file=sys.stderr)
        return 2


def _help(module: ModuleType) -> str:
    """Return the first line of a command's docstring, as in "`plumbline NAME`: TEXT.", from the colon to the period."""
    return (module.__doc__ or "").partition("\n")[0].partition(": ")[2].rstrip(".")
