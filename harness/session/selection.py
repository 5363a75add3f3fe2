"""Which cells a side has: asked of its own code, as another revision may know other models, variants and runtimes.

`revisions.Tree.select` runs `main` there; it reads a `Selection` and writes a `Selected`, as JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness import messages
from plumbline.harness.cell import Cell
from plumbline.harness.session import matrix, places
from plumbline.harness.session.session import learn


class Selection(Struct, frozen=True):
    """What was asked for: a tier, of the first of these matrix files that has it (none: plumbline's), and values by axis."""

    tier: str
    axes: dict[str, list[str | int]]
    matrices: list[Path] = []


class Selected(Struct, frozen=True):
    """The cells of a side, and why those that are impossible there are; `wrong` is why there are none.

    `folders` are those of their data sets, by name.
    """

    cells: list[Cell] = []
    impossible: dict[str, str] = {}
    wrong: str = ""
    folders: list[str] = []


def select(asked: Selection) -> Selected:
    """Expand the tier under the options, here. Raises PlumblineError."""
    places.load(places.FILE)
    tiers: dict[str, matrix.Tier] = {}
    for path in reversed(asked.matrices or [matrix.FILE]):
        tiers |= matrix.load(path)
    if asked.tier not in tiers:
        raise matrix.MatrixError(f"no tier {asked.tier!r}; known: {', '.join(tiers)}")
    tier = tiers[asked.tier]
    matrix.check_all(asked.axes)
    learn(matrix.outside(tier, asked.axes))
    cells = matrix.expand(tier, matrix.canonical(asked.axes))
    impossible = {cell.id: reason.reason for cell in cells if (reason := matrix.impossible(cell)) is not None}
    folders = (name for cell in cells for name in matrix.find(cell.model).dataset(cell.image_size).folders)
    return Selected(cells, impossible, folders=list(dict.fromkeys(folders)))


def main() -> int:
    """Answer the selection that is given as an argument."""
    try:
        found = select(messages.decode(sys.argv[1].encode(), Selection))
    except PlumblineError as error:
        found = Selected(wrong=str(error))
    print(messages.encode(found).decode())
    return 0
