"""Options that several commands take: parents of their parsers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def _parent(option: str, **keywords: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(option, **keywords)
    return parser


def positive(text: str) -> float:
    """Read an option that is a number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value


DATA = _parent("--data", type=Path, metavar="ROOT", help="real images and weights (default: $PLUMBLINE_DATA)")
PLACE = _parent("--target", metavar="PLACE", help="where: ssh:HOST, docker:IMAGE, ... (default: here)")
# As `style`, a format of tabulate
STYLE = _parent(
    "--markdown", dest="style", action="store_const", const="github", default="simple", help="tables as GitHub shows them"
)
