"""`python -m harness`: what the suite can say about itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    overhead = commands.add_parser("overhead", help="what the suite itself costs, measured on this machine")
    overhead.add_argument("--quick", action="store_true", help="fewer repeats: shows that it runs, not what it costs")
    overhead.add_argument(
        "--run", type=Path, metavar="RUN", help="take the shares of time from this run, instead of running the default tier"
    )
    table = commands.add_parser("table", help="the evaluation matrix of a run")
    table.add_argument("run", type=Path, help="a run directory")
    table.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "overhead":
        from harness.overhead import report

        report(quick=arguments.quick, run=arguments.run)
    else:
        from harness import journal
        from harness.table import matrix

        try:
            print(matrix(journal.read(arguments.run), "github" if arguments.markdown else "simple"))
        except journal.RunError as error:
            print(f"python -m harness table: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
