"""Options that several commands take: parents of their parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from plumbline.harness.verdicts.figures import DOUBTS, FIGURES, ORDERS
from plumbline.texts import positive


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


def add_axis(parser: argparse.ArgumentParser, axis: str, words: str) -> None:
    """Declare the option of an axis, with its help."""
    option = f"--{axis.replace('_', '-')}"
    parser.add_argument(option, action="append", default=[], metavar="VALUE", dest=f"axis_{axis}", help=words)


def axes(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values that were given on axes; of one that was not named none. Raises MatrixError."""
    from plumbline.harness.plugin.options import values

    return {axis: values(axis, getattr(arguments, f"axis_{axis}")) for axis in names}


@contextmanager
def boards(arguments: argparse.Namespace) -> Iterator[None]:
    """Put boards into the options that ask a lab for one, and give them back at the end. Raises BadPlace and BadTarget."""
    given = {option: getattr(arguments, option, None) for option in ("target", "base_target", "axis_target")}
    texts = {option: value if isinstance(value, list) else [value] for option, value in given.items() if value}
    asked = {option: [each for text in value for each in text.split(",")] for option, value in texts.items()}
    if not any(target.startswith("lab:") for targets in asked.values() for target in targets):
        yield
        return
    from plumbline.harness.session import places
    from plumbline.harness.session.lab import Lab

    places.load(places.FILE)
    with closing(Lab(wait_s=getattr(arguments, "wait", 0.0))) as lab:
        found = iter(lab.hand_out([target for targets in asked.values() for target in targets]))
        for option, targets in asked.items():
            handed = [next(found) for _ in targets]
            setattr(arguments, option, handed if isinstance(given[option], list) else ",".join(handed))
        yield


def _of_limits() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    for name, figure in FIGURES.items():
        words = figure.statistic.replace("%", "%%")  # argparse's own sign
        parser.add_argument(f"--{figure.option}", type=positive, metavar="N", dest=f"limit_{name}", help=words)
    words = "what the best has most or least of; again: what breaks ties (default: throughput)"
    parser.add_argument("--by", action="append", default=[], choices=list(ORDERS), help=words)
    words = "; ".join(f"{doubt}: {what}" for doubt, what in DOUBTS.items())
    parser.add_argument("--allow", action="append", default=[], choices=list(DOUBTS), help=f"choose these, too ({words})")
    return parser


LIMITS = _of_limits()


def limits(arguments: argparse.Namespace) -> dict[str, float]:
    """Return what LIMITS were given, by the names of FIGURES, in base units."""
    given = {name: getattr(arguments, f"limit_{name}") for name in FIGURES}
    return {name: value * FIGURES[name].scale for name, value in given.items() if value is not None}
