"""Evidence as tests want it, and what a picture holds and shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from plumbline.harness.record import Record
from plumbline.harness.rows import row_of
from plumbline.harness.studies.gate import Report
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.changes import Found, Series
from plumbline.harness.views.report.picture import CELLS, Picture

Values = list[dict[str, Any]]


def evidence_of(*records: Record, history: Sequence[tuple[Series, Found]] = (), gates: Sequence[Report] = ()) -> Evidence:
    """Make the evidence of records, whose keys are c0, c1, and so on; all of them are shown."""
    found = {f"c{number}": record for number, record in enumerate(records)}
    return Evidence([row_of(record, key) for key, record in found.items()], found, [], list(history), list(gates))


def data_of(picture: Picture, name: str) -> Values:
    """Return the data of that name that a picture holds itself."""
    found = [each["values"] for each in _dicts(picture.specification) if each.get("name") == name and "values" in each]
    assert found, f"{picture.name} has no data {name!r}"
    assert all(each == found[0] for each in found), "one name, one set of data"
    return found[0]


def check(picture: Picture) -> None:
    """Raise where altair's schema of Vega-Lite does not allow a specification; of much data it is asked about the first rows."""
    import altair

    altair.Chart.from_dict(_short(picture.specification))
    assert picture.specification["description"] == picture.title
    assert picture.title.endswith("?"), "a title is the question that the picture answers"


def _short(part: Any) -> Any:
    if isinstance(part, list):
        return [_short(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {key: each[:3] if key == "values" and "name" in part else _short(each) for key, each in part.items()}


def drawn(picture: Picture, evidence: Evidence) -> str:
    """Return the SVG that Vega-Lite makes of a picture, with the data of cells as the page has them."""
    import vl_convert

    cells = [{**msgspec.to_builtins(row), "link": f"#{row.key}"} for row in evidence.shown]
    svg: str = vl_convert.vegalite_to_svg({**picture.specification, "datasets": {CELLS: cells}})
    return svg


def marks(svg: str) -> list[tuple[str, str]]:
    """Return of each point that is a link, where it leads to and what it says of itself."""
    return re.findall(r'<a [^>]*href="[^"#]*(#[^"]+)"[^>]*><path aria-label="([^"]*)"', svg)


def links(svg: str) -> set[str]:
    """Return where the marks of a drawing lead to."""
    return set(re.findall(r'href="[^"#]*(#[^"]+)"', svg))


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _dicts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _dicts(each)
