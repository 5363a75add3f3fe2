"""Options that several commands take: parents of their parsers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def _parent(option: str, **keywords: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(option, **keywords)
    return parser


DATA = _parent("--data", type=Path, metavar="ROOT", help="real images and weights (default: $PLUMBLINE_DATA)")
PLACE = _parent("--target", metavar="PLACE", help="where: ssh:HOST, docker:IMAGE, ... (default: here)")
# As `style`, a format of tabulate
STYLE = _parent(
    "--markdown", dest="style", action="store_const", const="github", default="simple", help="tables as GitHub shows them"
)
