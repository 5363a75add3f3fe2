"""How long a report takes, what memory it needs, how large it is and how fast it is to use, beside its limits.

    tox -e trials-report                         # of 2,000 and of 100,000 cells, in a folder that is removed afterwards
    tox -e trials-report -- --folder FOLDER      # keeps the runs there, and takes those that are there; 3 GB
    tox -e trials-report -- --cells 2000 --form html

The runs are synthetic (tests/synthetic_runs.py), and each report is made by `plumbline report` in a process of its own, as is a
recommendation. The page is opened in Chromium, if there is one. Ends with 1 where a limit is missed. Time is that of the clock,
and of the processor: on a busy machine only the latter says something.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plumbline.harness.journal import NAME
from plumbline.harness.views.table import NOTHING, tabulated
from plumbline.texts import size
from tests import browser, synthetic_runs

IN_USE = 2_000  # cells of the run of which the page is used, and a setting recommended
RECOMMENDED, OPENED, FILTERED = (
    f"a recommendation out of {IN_USE:,} cells",
    "until the page is ready",
    "the slowest filter of its rows",
)
AT_MOST = {RECOMMENDED: 1.0, OPENED: 2.0, FILTERED: 0.1}  # seconds of the clock
LIMIT_OF_TIME = ["--max-latency-ms", "33", "--min-top1", "0.7"]
# Each choice of each filter, and then what is typed into the search, until the rows that are left are laid out.
FILTERS = """() => {
  const search = document.querySelector("#search"), asked = (element, value) => {
    const began = performance.now();
    element.value = value;
    element.dispatchEvent(new Event("input", { bubbles: true }));
    document.querySelector("#matrix").getBoundingClientRect();
    return (performance.now() - began) / 1000;
  };
  const chosen = [...document.querySelectorAll("#filters select")].flatMap((select) => {
    const values = [...select.options].map((option) => option.value);
    return [...values.slice(1), ""].map((value) => asked(select, value));
  });
  return [...chosen, ...["r", "re", "resnet", ""].map((text) => asked(search, text))];
}"""
HEADS = ["cells", "report", "s", "of the processor", "at most", "peak", "at most ", "size", " at most"]
USED = ["of the page", "s", "at most"]


class Limit(NamedTuple):
    """Seconds of the clock, and bytes of memory and of a page; None where there is no limit."""

    seconds: float
    memory: float | None = None
    page: float | None = None


LIMITS = {2_000: Limit(5.0, 500e6, 5e6), 100_000: Limit(30.0)}
FORMS = ("html", "md", "csv", "parquet")


class Made(NamedTuple):
    """What a report took."""

    seconds: float
    processor_s: float
    peak_bytes: int
    bytes: int


def spent(*command: str) -> tuple[float, resource.struct_rusage]:
    """Run a command of plumbline in a process of its own. Returns its seconds and its usage. Raises CalledProcessError."""
    whole = [sys.executable, "-m", "plumbline.harness", *command]
    began = time.monotonic()
    process = subprocess.Popen(whole, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, whole)
    return seconds, usage


def make(run: Path, file: Path) -> Made:
    """Make a report. Raises CalledProcessError where that fails."""
    seconds, usage = spent("report", str(run), "-o", str(file))
    return Made(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, file.stat().st_size)


def used(run: Path, page: Path) -> dict[str, float]:
    """Have a setting recommended, open the page and filter it; return the seconds of what can be done here, by AT_MOST."""
    found = {RECOMMENDED: spent("recommend", str(run), *LIMIT_OF_TIME)[0]}
    if (reason := browser.missing()) is not None:
        print(f"the page was not opened: {reason}", file=sys.stderr)
        return found
    with browser.chromium() as started:
        shown = started.new_page(viewport={"width": browser.WIDTH, "height": browser.HEIGHT})
        began = time.monotonic()
        shown.goto(page.as_uri())
        shown.wait_for_selector(browser.READY)
        found[OPENED] = time.monotonic() - began
        found[FILTERED] = max(shown.evaluate(FILTERS))
    return found


def late(found: Mapping[str, float]) -> list[str]:
    """Say what took longer than AT_MOST."""
    return [f"{what}: more than its limit" for what, seconds in found.items() if seconds > AT_MOST[what]]


def missed(made: Made, limit: Limit, form: str) -> list[str]:
    """Say which limits a report misses; that of its size is for a page."""
    found = {"time": made.seconds > limit.seconds, "memory": limit.memory is not None and made.peak_bytes > limit.memory}
    found["size"] = form == "html" and limit.page is not None and made.bytes > limit.page
    return [what for what, too_much in found.items() if too_much]


def row(cells: int, form: str, made: Made, limit: Limit) -> list[str]:
    """Tell of a report and its limits."""
    page = limit.page if form == "html" else None
    return [
        f"{cells:,}", form, f"{made.seconds:.1f}", f"{made.processor_s:.1f}", f"{limit.seconds:g}",
        size(made.peak_bytes), NOTHING if limit.memory is None else size(limit.memory),
        size(made.bytes), NOTHING if page is None else size(page),
    ]  # fmt: skip


def measure(folder: Path, counts: Sequence[int], forms: Sequence[str]) -> int:
    """Make and measure all reports, and print a table. Returns how many limits were missed."""
    rows, over, in_use = [], [], {}
    for cells in counts:
        run = folder / f"{cells}-cells"
        if not (run / NAME).exists():
            print(f"writing a run of {cells:,} cells", file=sys.stderr, flush=True)
            synthetic_runs.run(folder / "unfinished", cells)
            (folder / "unfinished").rename(run)
        for form in forms:
            made = make(run, folder / f"{cells}.{form}")
            rows.append(row(cells, form, made, LIMITS[cells]))
            over += [f"{cells:,} cells as {form}: more {what} than its limit" for what in missed(made, LIMITS[cells], form)]
        if cells == IN_USE and "html" in forms:
            in_use = used(run, folder / f"{cells}.html")
    print(tabulated(rows, HEADS, ["report"], "simple"))
    if in_use:
        print(
            tabulated(
                [[what, f"{seconds:.2f}", f"{AT_MOST[what]:g}"] for what, seconds in in_use.items()], USED, USED[:1], "simple"
            )
        )
        over += late(in_use)
    print("\n".join(over) or "all within their limits")
    return len(over)


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where runs and reports are kept (default: they are removed)")
    parser.add_argument(
        "--cells", type=int, action="append", choices=list(LIMITS), help="of a run; again for another (default: all)"
    )
    parser.add_argument("--form", action="append", choices=FORMS, help="of a report; again for another (default: all)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plumbline-report-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return int(measure(folder, arguments.cells or list(LIMITS), arguments.form or FORMS) > 0)


if __name__ == "__main__":
    sys.exit(main())
