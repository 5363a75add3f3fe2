"""`plumbline load`: a model under loads: MLPerf LoadGen's scenarios, a camera, ten minutes without a pause."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cell import AXES
from plumbline.harness.cli import shared
from plumbline.harness.load import CAMERA, LOADGEN, SCENARIOS, SOAK
from plumbline.harness.views.terminal import Progress
from plumbline.texts import nearest, positive, whole_number

PARENTS = (shared.DATA, shared.STYLE)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", nargs="+", help="as in plumbline show")
    words = f"{', '.join(SCENARIOS)}; several with commas (default: single-stream,camera)"
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help=words)
    for axis in AXES[1:]:
        words = f"another {axis.replace('_', ' ')} than the usual one; several with commas"
        shared.add_axis(parser, axis, words)
    words = f"of each scenario, or try of a search, at least (default: 20; {SOAK}: 600; MLPerf's rules: 600)"
    parser.add_argument("--seconds", type=positive, metavar="S", help=words)
    words = f"of {', '.join(LOADGEN)} at least (default: what early stopping takes)"
    parser.add_argument("--queries", type=whole_number, metavar="N", help=words)
    parser.add_argument("--limit-ms", type=positive, metavar="MS", help="of server: what p99 is kept under")
    parser.add_argument("--rate", type=positive, default=30.0, metavar="HZ", help=f"of {CAMERA}: frames a second (default: 30)")
    parser.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help=f"of {CAMERA}: from a frame's arrival (default: one period)"
    )
    parser.add_argument("--max-missed", type=positive, metavar="SHARE", help=f"of {CAMERA}: red unless shown at 99 %%, as 0.01")
    words = f"a {SOAK} is stopped, and no cell begins, while the machine is hotter"
    parser.add_argument("--max-temperature", type=positive, metavar="CELSIUS", help=words)
    parser.add_argument("--time-limit", type=positive, metavar="S", help="of a cell's process with all its scenarios")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="keep the records here, a line of JSON each")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where a load is INVALID, unavailable, or its limit cannot be shown to hold."""
    from plumbline import UnknownName
    from plumbline.harness.load import Scenario
    from plumbline.harness.session import places
    from plumbline.harness.studies import load

    places.load(places.FILE)
    names = [name for part in arguments.scenario for name in part.split(",")] or ["single-stream", CAMERA]
    for name in names:
        if name not in SCENARIOS:
            raise UnknownName(f"no scenario {name!r}{nearest(name, SCENARIOS)}; known: {', '.join(SCENARIOS)}")
    scenarios = [
        Scenario(
            name,
            arguments.seconds or (600.0 if name == SOAK else 20.0),
            arguments.queries,
            None if arguments.limit_ms is None else arguments.limit_ms / 1e3,
            arguments.rate,
            None if arguments.deadline_ms is None else arguments.deadline_ms / 1e3,
            arguments.max_missed,
        )
        for name in dict.fromkeys(names)
    ]
    axes = shared.axes(arguments, AXES[1:])
    asked = load.Question(
        arguments.model,
        scenarios,
        axes,
        arguments.data,
        arguments.time_limit,
        arguments.max_temperature,
        arguments.out,
    )
    return load.report(asked, arguments.style, progress)
