"""Whether `plumbline fit` finds the best setting of a grid, and in what share of the time that the whole grid takes.

    tox -e trials-fit -- FOLDER
    tox -e trials-fit -- FOLDER --pair mlp

Each pair of a model and a budget is searched, and then measured cell by cell, each with a cache of its own that begins empty.
What both have found, and how long it took, failed trials included, is printed; the runs are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from plumbline.harness.cell import Cell
from plumbline.harness.session import places
from plumbline.harness.studies import fit
from plumbline.harness.verdicts.recommendation import Answer, apart
from plumbline.harness.verdicts.search import Search
from plumbline.harness.views.table import tabulated
from plumbline.harness.views.terminal import Progress

ALL: list[Any] = []
SQUEEZED = ["dense", "filter50", "svd50"]
# By model: its axes, and limits in base units.
PAIRS: dict[str, tuple[dict[str, list[Any]], dict[str, float]]] = {
    "mlp": ({"variant": ["dense", "filter50", "prune90+sparse"], "batch": [1, 4, 16, 64]}, {"p99": 2e-3, "accuracy": 0.9}),
    "small_cnn": ({"variant": SQUEEZED, "batch": [1, 4, 16, 64]}, {"latency": 5e-3, "accuracy": 0.9}),
    "resnet20": ({"variant": SQUEEZED, "batch": [1, 4, 16]}, {"latency": 20e-3, "size": 0.8e6}),
}


class Exhaustive(Search):
    """Tries every cell of the grid."""

    def next(self) -> Cell | None:
        return next((cell for cell in self.cells if cell not in self.tried), None)


def run(model: str, folder: Path, kind: type[Search], progress: Progress) -> tuple[fit.Found, float]:
    """Search in a way, with an empty cache. Returns what was found, and the seconds."""
    axes, limits = PAIRS[model]
    every = dict.fromkeys(("variant", "runtime", "precision", "batch", "image_size", "target"), ALL)
    asked = fit.Asked({"model": [model], **every, **axes}, limits, seconds=0.5)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    began = time.monotonic()
    found = fit.search(asked, folder / "run", False, lambda text: print(text, flush=True), progress, kind)
    return found, time.monotonic() - began


class Row(NamedTuple):
    """What both ways have found of a pair."""

    model: str
    searched: fit.Found
    searched_s: float
    whole: fit.Found
    whole_s: float

    @property
    def cells(self) -> list[str]:
        best, truth = (None if found.answer is None else found.answer.best for found in (self.searched, self.whole))
        same = "neither fits" if best is None and truth is None else "no"
        if best is not None and truth is not None and self.whole.answer is not None:
            same = "yes" if best.row.id == truth.row.id else self._of_grid(best.row.id, self.whole.answer)
        return [
            self.model,
            f"{sum(self.searched.tried.values())} of {len(self.whole.grid.cells)}",
            f"{self.searched_s:.0f} s",
            f"{self.whole_s:.0f} s",
            f"{self.searched_s / self.whole_s:.0%}",
            "none" if best is None else best.row.id,
            "none" if truth is None else truth.row.id,
            same,
        ]

    def _of_grid(self, found: str, whole: Answer) -> str:
        """Whether the grid's own measurement of the setting cannot be told apart from its best."""
        own = next((each for each in whole.fitting if each.row.id == found), None)
        if own is None or whole.best is None:
            return "no"
        return "no" if apart(own, whole.best, self.whole.question.order) else "overlaps"


HEADS = ["model", "tried", "fit", "whole grid", "share", "found", "best of the grid", "the same"]


def main() -> None:
    """Run the pairs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pair", action="append", default=[], choices=list(PAIRS))
    parser.add_argument("--style", default="simple", help="of the table")
    arguments = parser.parse_args()
    places.load(places.FILE)
    rows = []
    with Progress() as progress:
        for model in arguments.pair or PAIRS:
            at = arguments.folder.resolve() / model
            searched = run(model, at / "fit", Search, progress)
            rows.append(Row(model, *searched, *run(model, at / "grid", Exhaustive, progress)))
    print(tabulated([row.cells for row in rows], HEADS, HEADS, arguments.style))


if __name__ == "__main__":
    main()
