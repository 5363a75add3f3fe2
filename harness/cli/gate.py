"""`plumbline gate`: compare two revisions in one run; red where the head is slower, or computes something else."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from plumbline.harness.cell import AXES
from plumbline.harness.cli import baseline, shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.DATA, shared.STYLE)
CHANGES = ("function", "size", "missing")  # that a person can wave through


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "--base", metavar="REV", help="default: the merge base with origin's default branch, else the first parent"
    )
    parser.add_argument("--head", metavar="REV", default=".", help="default: the files as they are here, committed or not")
    parser.add_argument("--tier", default="gate", metavar="NAME", help="the tier of the matrix (default: gate)")
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="another matrix file, for both sides")
    for axis in AXES:
        words = f"only this {axis.replace('_', ' ')}; several with commas"
        shared.add_axis(parser, axis, words)
    parser.add_argument("--base-model", metavar="MODEL", help="what the model is compared with, as another ONNX file")
    parser.add_argument("--base-target", metavar="TARGET", help="where the base runs, as docker:ANOTHER_IMAGE")
    words = "a package that only the {} has, as onnxruntime==1.24 or a wheel"
    parser.add_argument("--with", action="append", default=[], metavar="PACKAGE", dest="packages", help=words.format("head"))
    parser.add_argument(
        "--base-with", action="append", default=[], metavar="PACKAGE", dest="base_packages", help=words.format("base")
    )
    parser.add_argument("--budget-minutes", type=float, metavar="N", help="all of it takes no longer; what was given up is said")
    parser.add_argument("--allow", action="append", default=[], choices=CHANGES, help="wave a change through that is no slowdown")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/gate-TIME")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a gate that was interrupted")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write Markdown for a pull request")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    baseline.arguments_of(parser)
    parser.add_argument("--self-test", action="store_true", help="measure how often this gate cries wolf here, and what it finds")
    parser.add_argument("--suites", type=int, default=5, metavar="N", help="of a self-test, live (default: 5)")
    parser.add_argument("--resampled", type=int, default=1000, metavar="N", help="and drawn from their pairs (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for another session on this machine")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 0 where all is fine, 1 for a regression, 2 where it is broken, 3 where it could not tell."""
    if baseline.asked(arguments):
        return baseline.run(arguments)
    from plumbline.harness.session.selection import Selection
    from plumbline.harness.session.session import default_run_dir
    from plumbline.harness.settings import Settings
    from plumbline.harness.studies.gate import GateError, gate, sides
    from plumbline.harness.views import gate as view

    axes = shared.axes(arguments, AXES)
    own: dict[str, tuple[str, str] | None] = {}
    for axis in ("model", "target"):
        base = getattr(arguments, f"base_{axis}")
        if base is not None and len(axes[axis]) != 1:
            raise GateError(f"--base-{axis}: expected one --{axis} to compare it with, got {len(axes[axis])}")
        own[axis] = None if base is None else (base, axes.pop(axis)[0])
    matrices = [arguments.matrix.resolve()] if arguments.matrix else []
    elsewhere = any(own.values()) or arguments.packages or arguments.base_packages
    asked = sides.Asked(
        Selection(arguments.tier, {axis: found for axis, found in axes.items() if found}, matrices),
        None if elsewhere and arguments.base is None else (arguments.base, arguments.head),
        own["model"],
        own["target"],
        (arguments.base_packages, arguments.packages),
    )
    if arguments.self_test:
        asked = sides.Asked(asked.selection)
    settings = Settings.here(arguments.data, seed=arguments.seed, inputs_seed=arguments.seed)
    folder = arguments.resume or arguments.run_dir
    if folder is None:
        usual = default_run_dir(Path.cwd())
        folder = usual.with_name(f"gate-{usual.name}")
    with tempfile.TemporaryDirectory(prefix="plumbline-gate-") as scratch:
        if arguments.self_test:
            return _self_test(sides.make(asked, Path(scratch), settings.cache, progress), settings, folder, arguments, progress)
        report = gate(
            *sides.make(asked, Path(scratch), settings.cache, progress),
            settings,
            folder,
            budget_s=None if arguments.budget_minutes is None else 60 * arguments.budget_minutes,
            resume=arguments.resume is not None,
            allowed=arguments.allow,
            wait_s=arguments.wait,
            say=lambda text: print(text, flush=True),
            progress=progress,
        )
    print(f"\n{view.text(report, arguments.style)}")
    if arguments.summary is not None:
        arguments.summary.write_text(view.markdown(report))
    if arguments.junit is not None:
        arguments.junit.write_bytes(view.junit(report))
    print(f"kept in {folder}", file=sys.stderr)
    return report.code


def _self_test(made: Any, settings: Any, folder: Path, arguments: argparse.Namespace, progress: Progress) -> int:
    """Return 1 where the promise does not hold here."""
    from plumbline.harness.studies.gate import selftest

    def say(text: str) -> None:
        print(text, flush=True)

    tally, pool = selftest.live(made, settings, folder, arguments.suites, say=say, progress=progress)
    drawn, limit_s = selftest.resampled(pool, arguments.resampled, progress)
    tallies = {"live": tally, **drawn}
    progress("")
    print(f"\n{selftest.report(tallies, pool, limit_s, arguments.style)}")
    broken = selftest.promise_broken(tallies)
    for words in broken:
        print(f"the promise does not hold: {words}")
    return 1 if broken else 0
