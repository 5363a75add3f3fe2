"""A picture: a chart with its words, and what all charts share: colours, fonts, the data of cells, links to records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from plumbline.harness.rows import Row

CELLS = "cells"  # the name of the data that all charts of cells share: one row a cell, the fields of Row and `link`
# Okabe and Ito 2008, "Color Universal Design": told apart by people with any kind of colour blindness, on white and on black
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A700")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")


class Picture(Struct, frozen=True):
    """A chart with its words.

    `name` names its file and its place on the page. `title` is the question that it answers, `caption` says machine, date,
    precision and batch, how it was drawn and what it leaves out. `specification` is of Vega-Lite; data named CELLS are not in it.
    """

    name: str
    title: str
    caption: str
    specification: dict[str, Any]


def where_and_when(rows: Sequence[Row]) -> str:
    """Say of which machines, days, precisions and batches rows are, for a caption."""
    days = sorted({row.started_at[:10] for row in rows})
    facts = {
        "": list(dict.fromkeys(row.machine for row in rows)),
        "measured ": days if len(days) < 3 else [f"{days[0]} to {days[-1]}"],
        "precision ": sorted({row.precision for row in rows}),
        "batch ": [str(batch) for batch in sorted({row.batch for row in rows})],
    }
    return "; ".join(name + ", ".join(values) for name, values in facts.items() if values)
