"""A report as one page: the verdict, what to take, the matrix, the pictures, and the record behind each row.

Everything is in the file. Scripts are allowed by their hashes alone, and nothing may be fetched (a content security policy). What
runs said reaches the page as text: through the template, which escapes it, and as data, which scripts set as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from plumbline.harness.cell import shown_model
from plumbline.harness.outcomes import OK
from plumbline.harness.studies.report import Evidence
from plumbline.harness.views import gate as gate_view
from plumbline.harness.views.report import assets, summary
from plumbline.harness.views.report.legend import legend
from plumbline.harness.views.report.matrix import COLUMNS, COUNTED, FEW, HEADS, Matrix, head, outcome, shown, why
from plumbline.harness.views.report.payload import packed
from plumbline.harness.views.report.picture import Picture
from plumbline.harness.views.report.summary import SKIPPED
from plumbline.texts import number_of

FOLDER = Path(__file__).parent
NAMED = 12  # cells that are named behind a reason


def page(evidence: Evidence, pictures: Sequence[Picture], title: str) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader

    matrix = Matrix(evidence)
    tables, style = assets.datatables()
    scripts = [_inline(assets.vega()), _inline(f"{tables}\n{(FOLDER / 'page.js').read_text()}")]
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    doubtful = summary.doubts(evidence.rows)
    return environment.get_template("page.html.j2").render(
        title=title,
        policy=_policy(scripts),
        scripts=scripts,
        styles=[style, (FOLDER / "page.css").read_text()],
        data=packed(evidence, pictures, matrix, doubtful),
        evidence=evidence,
        matrix=matrix,
        facts=summary.facts(evidence),
        verdict=summary.verdict(evidence.rows),
        delivered=summary.delivered(evidence),
        failed=summary.reasons(row for row in evidence.rows if outcome(row) not in (OK, COUNTED, *SKIPPED)),
        skipped=summary.reasons(row for row in evidence.rows if outcome(row) in (COUNTED, *SKIPPED)),
        undelivered=summary.undelivered(evidence),
        doubts=doubtful,
        doubted=summary.doubted(evidence.rows, doubtful),
        empty_process=summary.empty_process(matrix.rows),
        estimates=any(row.energy_is_estimate for row in matrix.rows),
        legend=legend(row.variant for row in matrix.rows),
        gates=[gate_view.summary(report) for report in evidence.gates],
        choices=summary.choices(matrix.rows),
        heads={
            **{axis: HEADS.get(axis, axis.replace("_", " ")) for axis in matrix.values},
            **{name: head(name) for name in COLUMNS},
        },
        outcomes=sorted({outcome(row) for row in matrix.rows}),
        verdicts=sorted({row.verdict for row in matrix.rows if row.verdict is not None}),
        few=any(matrix.shown(row, name).text == FEW for row in matrix.rows for name in ("p90_s", "p99_s")),
        outcome=outcome,
        why=why,
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
