"""A report as one page: the verdict, what to take, the matrix, the pictures, and the record behind each row.

Everything is in the file. Scripts are allowed by their hashes alone, and nothing may be fetched (a content security policy). What
runs said reaches the page as text: through the template, which escapes it, and as data, which scripts set as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from plumbline.harness.cell import AXES, shown_model
from plumbline.harness.outcomes import OK
from plumbline.harness.rows import QUANTITIES
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views import gate as gate_view
from plumbline.harness.views.report import assets
from plumbline.harness.views.report.matrix import COLUMNS, HEADS, head, outcome, shown
from plumbline.harness.views.report.payload import packed
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.summary import SKIPPED, choices, doubts, facts, reasons, verdict
from plumbline.texts import number_of

FOLDER = Path(__file__).parent
NAMED = 12  # cells that are named behind a reason


def page(evidence: Evidence, pictures: Sequence[Picture], title: str) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader

    rows = evidence.shown
    axes = [axis for axis in AXES if axis == "model" or len({getattr(row, axis) for row in rows}) > 1]
    columns = [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]
    tables, style = assets.datatables()
    scripts = [_inline(assets.vega()), _inline(f"{tables}\n{(FOLDER / 'page.js').read_text()}")]
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.j2").render(
        title=title,
        policy=_policy(scripts),
        scripts=scripts,
        styles=[style, (FOLDER / "page.css").read_text()],
        data=packed(evidence, pictures),
        evidence=evidence,
        rows=rows,
        facts=facts(evidence),
        verdict=verdict(evidence.rows),
        failed=reasons(row for row in evidence.rows if row.outcome != OK and row.outcome not in SKIPPED),
        skipped=reasons(row for row in evidence.rows if row.outcome in SKIPPED),
        doubts=doubts(evidence.rows),
        gates=[gate_view.summary(report) for report in evidence.gates],
        choices=choices(rows),
        axes=axes,
        heads={**{axis: HEADS.get(axis, axis.replace("_", " ")) for axis in AXES}, **{name: head(name) for name in QUANTITIES}},
        columns=columns,
        values={axis: sorted({getattr(row, axis) for row in rows}, key=lambda value: (str(type(value)), value)) for axis in AXES},
        outcomes=sorted({outcome(row) for row in rows}),
        outcome=outcome,
        shown=shown,
        shown_model=shown_model,
        pictures=pictures,
        number_of=number_of,
        named=NAMED,
        link=lambda row: f"#{row.key}" if row.key in evidence.records else None,
    )


def _policy(scripts: Sequence[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    sources = {"default-src": "'none'", "script-src": allowed, "style-src": "'unsafe-inline'", "img-src": "data:"}
    return "; ".join(f"{name} {value}" for name, value in {**sources, "base-uri": "'none'", "form-action": "'none'"}.items())


def _inline(script: str) -> str:
    """Return a script as it may stand in a page: nothing in it ends the element (HTML, 'Restrictions for contents of script')."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
