"""The part of `plumbline gate` that compares with stored sessions: its options, and what they lead to."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cell import AXES

NOTE = "a change is that of the median over the canary's (--canary none: of the median), from that of the stored sessions"


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what `plumbline gate` takes for it."""
    group = parser.add_argument_group("stored sessions")
    group.add_argument("--baseline", type=Path, metavar="DIR", help="compare a new session with stored ones, not two revisions")
    words = "a new session; again for those that confirm (default: they are measured here)"
    group.add_argument("--run", action="append", type=Path, default=[], metavar="RUN", dest="runs", help=words)
    group.add_argument("--update", type=Path, metavar="RUN", help="store this run in DIR, and end with 1")
    group.add_argument("--canary", metavar="CELL", help="what each cell is divided by (default: the most stored cell), or: none")


def asked(arguments: argparse.Namespace) -> bool:
    """Whether stored sessions were asked for."""
    return bool(arguments.baseline or arguments.runs or arguments.update or arguments.canary)


def run(arguments: argparse.Namespace) -> int:
    """Compare with what is stored, or store a run: that ends with 1, so that no green build changes what it is judged by."""
    from plumbline.harness.session.session import default_run_dir, run_tier
    from plumbline.harness.studies import baseline
    from plumbline.harness.studies.gate import GateError
    from plumbline.harness.views import gate as view

    if arguments.baseline is None:
        raise GateError("--run, --update and --canary: expected --baseline DIR with them, got none")
    if arguments.update is not None:
        print("\n".join(baseline.update(arguments.baseline, arguments.update)))
        return 1
    usual = default_run_dir(Path.cwd())
    folder = arguments.run_dir or usual.with_name(f"gate-{usual.name}")
    options = []
    for name in (*(f"axis_{axis}" for axis in AXES), "matrix", "data", "seed"):
        given = getattr(arguments, name)
        option = "--" + name.removeprefix("axis_").replace("_", "-")
        options += [word for value in (given if isinstance(given, list) else [given]) if value for word in (option, str(value))]

    def measure(number: int) -> Path:
        run: Path = folder / f"session-{number}"
        run_tier(arguments.tier, run, options)
        return run

    report = baseline.gate(arguments.baseline, arguments.runs, measure, canary=arguments.canary, allowed=arguments.allow)
    print(f"\n{view.text(report, arguments.style)}\n{NOTE}")
    if arguments.summary is not None:
        arguments.summary.write_text(view.markdown(report))
    if arguments.junit is not None:
        arguments.junit.write_bytes(view.junit(report))
    return report.code
