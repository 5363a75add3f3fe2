"""`plumbline report`: runs as one page to look at, as tables for a notebook or a pull request, as pictures for a paper."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    words = "run directories, folders of them, and what `plumbline gate` has written"
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=words)
    words = "write it there, over what is there: .html, .md, .csv or .parquet; again for more (default: report.html)"
    parser.add_argument("-o", "--out", type=Path, action="append", default=[], metavar="FILE", help=words)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write each picture to a file of its own there")
    parser.add_argument("--format", default="png,svg", metavar="NAMES", help="of these files (default: png,svg)")
    parser.add_argument("--title", default="plumbline report", metavar="TEXT")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where the runs hold nothing that can be read."""
    gc.disable()  # records have no cycles, and to look for some among thousands takes an eighth of the time
    try:
        return _report(arguments, progress)
    finally:
        gc.enable()


def _report(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.studies.report import gather
    from plumbline.harness.views.report import files, static

    formats = list(dict.fromkeys(arguments.format.split(",")))
    if unknown := [name for name in formats if name not in static.FORMATS]:
        raise files.NotWritten(f"--format: expected some of {', '.join(static.FORMATS)}, got {', '.join(unknown)!r}")
    out = arguments.out or ([] if arguments.pictures else [Path("report.html")])
    pages = [file for file in out if file.suffix.lower() == ".html"]
    if arguments.open and not pages:
        raise files.NotWritten("--open: expected an -o FILE.html, as a browser shows pages, got none")
    files.check(out, arguments.pictures)
    progress("reading")
    evidence = gather(arguments.runs)
    for problem in evidence.problems:
        print(problem, file=sys.stderr)
    progress("writing")
    said = files.write(evidence, out, arguments.title)
    if arguments.pictures is not None:
        progress("drawing")
        said.append(files.write_pictures(evidence, arguments.pictures, formats))
    progress("")
    print("\n".join(said))
    if arguments.open and (words := files.show(pages[0])):
        print(words, file=sys.stderr)
    return 0 if evidence.rows or evidence.gates else 1
