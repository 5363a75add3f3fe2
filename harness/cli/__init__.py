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
from plumbline.harness.cli.shared import boards
from plumbline.harness.views import terminal

COMMANDS = (
    "bench", "list", "show", "counts", "overhead", "table", "report", "check-plugin", "layers", "fastest", "train", "compression",
    "compress", "reproduce", "results", "data", "schema", "trust", "gate", "compare",
    "history", "load", "doctor", "record-device", "recommend", "fit", "ceilings", "estimate",
)  # fmt: skip


def main() -> int:
    """Run a command. Returns its exit code: 1 where something is red or missed, 2 where what was asked for cannot be."""
    (parser, _), modules = parsers(), _modules()
    for stream in (sys.stdout, sys.stderr):
        terminal.readable(stream)
    arguments, others = parser.parse_known_args()
    if getattr(modules[arguments.command], "PASSES_ON", False):
        arguments.options = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        with terminal.Progress() as progress, boards(arguments):
            code: int = modules[arguments.command].run(arguments, progress)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read the output has seen enough: show MODEL | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PlumblineError as error:
        print(f"plumbline {arguments.command}: {error}", file=sys.stderr)
        return 2


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of all commands, and that of each by its name."""
    parser = argparse.ArgumentParser(prog="plumbline", description=(__doc__ or "").partition("\n")[0])
    commands, each = parser.add_subparsers(dest="command", required=True), {}
    for name, module in _modules().items():
        text = _help(module)
        each[name] = commands.add_parser(name, help=text, description=text, parents=getattr(module, "PARENTS", ()))
        module.arguments_of(each[name])
    return parser, each


def _modules() -> dict[str, ModuleType]:
    return {name: import_module(f"{__name__}.{name.replace('-', '_')}") for name in COMMANDS}


def _help(module: ModuleType) -> str:
    """Return the first line of a command's docstring, as in "`plumbline NAME`: TEXT.", from the colon to the period."""
    return (module.__doc__ or "").partition("\n")[0].partition(": ")[2].rstrip(".")
