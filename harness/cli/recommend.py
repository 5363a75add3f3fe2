"""`plumbline recommend`: the best correct setting within limits, what keeps better ones out, and what is nearest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline import PlumblineError
from plumbline.harness.cell import AXES
from plumbline.harness.cli import shared
from plumbline.harness.verdicts.figures import THROUGHPUT
from plumbline.harness.views.terminal import Progress
from plumbline.texts import nearest, whole_number

if TYPE_CHECKING:
    from plumbline.harness.rows import Row

PARENTS = (shared.LIMITS, shared.STYLE)


class NotThere(PlumblineError, ValueError):
    """Runs, or cells of them, that are not where they were looked for."""


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, or folders of them")
    for axis in AXES:
        words = f"only this {axis.replace('_', ' ')}; several with commas"
        shared.add_axis(parser, axis, words)
    parser.add_argument("--most", type=whole_number, default=5, metavar="N", help="settings that are shown (default: 5)")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where nothing fits on one of the machines."""
    from plumbline.harness.verdicts.recommendation import Question, recommend
    from plumbline.harness.views.recommendation import text

    question = Question(
        limits=shared.limits(arguments),
        by=list(dict.fromkeys(arguments.by)) or [THROUGHPUT],
        allowed=arguments.allow,
    )
    rows, problems = gathered(arguments.runs)
    for axis in AXES:
        rows = selected(rows, axis, getattr(arguments, f"axis_{axis}"))
    answers = recommend(rows, question)
    print(text(answers, question, arguments.most, arguments.style, problems))
    timed = [answer for answer in answers if answer.timed]
    return 0 if timed and all(answer.best for answer in timed) else 1


def gathered(paths: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """Return the rows of runs, and of folders of them, and in words what could not be read.

    Raises NotThere where a path holds no run, or there is no record in any.
    """
    from plumbline.harness.journal import NAME, runs_in
    from plumbline.harness.studies.scan import Scan

    scan = Scan()
    for path in paths:
        folders = runs_in(path)
        if not folders:
            raise NotThere(f"{str(path)!r}: expected a run, or a folder of runs, got no {NAME} in it")
        for folder in folders:
            scan.read(folder)
    if not scan.rows:
        raise NotThere("; ".join(["expected one record at least, got none", *scan.problems]))
    return list(scan.rows.values()), scan.problems


def selected(rows: Sequence[Row], axis: str, given: Sequence[str]) -> list[Row]:
    """Return the rows that have one of the values on an axis; none given: all. Raises NotThere where no row has a value."""
    known = {str(getattr(row, axis)): None for row in rows}
    wanted: set[str] = set()
    for part in given:
        wanted |= {part} if part in known else {value.strip() for value in part.split(",") if value.strip()}
    for value in wanted:
        if value not in known:
            shown = ", ".join(list(known)[:20])
            raise NotThere(f"--{axis.replace('_', '-')}: expected one of {shown}, got {value!r}{nearest(value, known)}")
    return [row for row in rows if not wanted or str(getattr(row, axis)) in wanted]
