"""Pictures as files: drawn with the data of the cells that they name, as PNG of twice the size, and as SVG."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.rows import row_of
from plumbline.harness.views.report import static
from plumbline.harness.views.report.picture import CELLS, Picture
from tests.records import cell_of, latency_of, record_of

ROWS = [row_of(record_of(cell_of(name), latency=latency_of(median_s)), f"c{number}") for number, (name, median_s) in enumerate(
    {"mlp": 1e-3, "<b>&": 2e-3, "resnet20": 4e-3}.items(), 1)]  # fmt: skip


def picture(data: dict[str, Any], name: str = "latency") -> Picture:
    field = {"field": "latency_s", "type": "quantitative"}
    specification = {
        "data": data, "mark": "point", "width": 100, "height": 80,
        "encoding": {"x": field, "y": {"field": "model", "type": "nominal"}, "href": {"field": "link", "type": "nominal"}},
    }  # fmt: skip
    return Picture(name, "How long?", "", specification)


CELLS_PICTURE = picture({"name": CELLS})
OWN_PICTURE = picture({"values": [{"latency_s": 1, "model": "own", "link": "#c1"}]}, "own")


def marks(svg: str) -> list[str]:
    return re.findall(r'aria-label="latency_s: [^"]*; model: ([^"]*)"', svg)


def test_cells_are_filled_in() -> None:
    """A mark a cell; names are text."""
    svg = static.draw(CELLS_PICTURE, static.cells_of(ROWS), "svg").decode()
    assert marks(svg) == ["mlp", "&lt;b&gt;&amp;", "resnet20"]
    assert "<b>" not in svg
    assert CELLS_PICTURE.specification["data"] == {"name": CELLS}, "the page fills its own in"
    assert marks(static.draw(OWN_PICTURE, static.cells_of(ROWS), "svg").decode()) == ["own"]


def test_a_file_has_no_links() -> None:
    """vl-convert would let them lead to a page of Vega's."""
    assert "href" in CELLS_PICTURE.specification["encoding"]
    for each in (CELLS_PICTURE, OWN_PICTURE):
        svg = static.draw(each, static.cells_of(ROWS), "svg").decode()
        assert "href" not in svg and "vega.github.io" not in svg


def test_a_png_is_twice_as_large_on_white() -> None:
    png = static.draw(CELLS_PICTURE, static.cells_of(ROWS), "png")
    svg = static.draw(CELLS_PICTURE, static.cells_of(ROWS), "svg").decode()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    shown = re.search(r'<svg [^>]*?width="(\d+)" height="(\d+)"', svg)
    assert shown is not None
    assert (width, height) == pytest.approx((2 * int(shown[1]), 2 * int(shown[2])), abs=2)
    assert 'fill="white"' in svg


def test_a_file_each(tmp_path: Path) -> None:
    files = static.write([CELLS_PICTURE, OWN_PICTURE], ROWS, tmp_path / "new", ["png", "svg"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["latency.png", "latency.svg", "own.png", "own.svg"]
    assert len(files) == 4 and all(path.stat().st_size > 500 for path in files)


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    odd = Picture("accuracy-../../of /etc", "How?", "", OWN_PICTURE.specification)
    (file,) = static.write([odd], ROWS, tmp_path / "here", ["svg"])
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.svg")] == [Path("here/accuracy-.._.._of__etc.svg")]
    assert file.parent == tmp_path / "here"
