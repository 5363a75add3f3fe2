"""Pictures as PNG and SVG, for a paper: drawn by vl-convert, which needs no browser and no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from plumbline.harness import messages
from plumbline.harness.rows import Row
from plumbline.harness.views.report.picture import CELLS, Picture

FORMATS = ("png", "svg")
SCALE = 2.0  # of a PNG: pixels a unit of Vega-Lite
_PAPER = {"background": "white", "font": "Liberation Sans, Arial, Helvetica, sans-serif"}
_NAMED = b'"name":"' + CELLS.encode() + b'"'


def draw(picture: Picture, cells: Sequence[dict[str, Any]], form: str) -> bytes:
    """Return a picture in one of FORMATS. `cells` are the data of that name, as `cells_of` makes them.

    It has no links: the records are on the page.
    """
    import vl_convert

    specification = {**_without_links(picture.specification), "config": {**_PAPER, **picture.specification.get("config", {})}}
    if _NAMED in messages.encode(picture.specification):
        specification["datasets"] = {**picture.specification.get("datasets", {}), CELLS: cells}
    if form == "png":
        return bytes(vl_convert.vegalite_to_png(specification, scale=SCALE))
    return str(vl_convert.vegalite_to_svg(specification)).encode()


def _without_links(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_links(each) for key, each in value.items() if key != "href"}
    return [_without_links(each) for each in value] if isinstance(value, list) else value


def cells_of(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return rows as the data that all charts of cells share."""
    return [{**msgspec.to_builtins(row), "link": f"#{row.key}"} for row in rows]


def write(pictures: Iterable[Picture], rows: Iterable[Row], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write each picture in each format, named after it. Returns the files. Raises OSError where one cannot be written.

    A name may hold that of a data set, which a record has said: a file is in `folder`, whatever that is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells, files = cells_of(rows), []
    for picture in pictures:
        name = re.sub(r"[^\w.+=-]", "_", picture.name)
        for form in formats:
            file = folder / f"{name}.{form}"
            file.write_bytes(draw(picture, cells, form))
            files.append(file)
    return files
