"""A report as tables: CSV and Parquet for a notebook, all rows in base units, and a summary in Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from operator import attrgetter
from typing import TYPE_CHECKING, get_type_hints

from plumbline.harness.cell import AXES
from plumbline.harness.outcomes import OK
from plumbline.harness.rows import Row
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.choice import chosen
from plumbline.harness.views import gate
from plumbline.harness.views.report.matrix import FEW, head, shown
from plumbline.harness.views.report.summary import SKIPPED, delivered, reasons, verdict
from plumbline.harness.views.table import NOTHING, tabulated
from plumbline.texts import number_of

if TYPE_CHECKING:
    import polars

FORMULA = r"^[\t\r]|^\s*[=+\-@]"  # OWASP, "CSV injection": how text begins that a spreadsheet takes for a formula
LIMIT = 65_536  # characters of a comment on GitHub
ROWS = 40  # of each table of a summary, at most
TEXT = 200  # characters of a name or a reason in it
SHOWN = ("latency_s", "p90_s", "top1", "accuracy_loss", "inference_bytes", "stored_bytes", "joules", "speedup")


def csv(rows: Sequence[Row]) -> bytes:
    """Return all rows as CSV: a column a field of Row, in their order, base units, nothing where nothing was measured.

    Text that a spreadsheet would calculate has FORMULA's apostrophe before it, as OWASP advises; numbers are as they are.
    """
    import polars

    file = BytesIO()
    _frame(rows).with_columns(polars.col(polars.String).str.replace(FORMULA, "'${0}")).write_csv(file)
    return file.getvalue()


def parquet(rows: Sequence[Row]) -> bytes:
    """Return the same as Parquet, with the type of each column."""
    file = BytesIO()
    _frame(rows).write_parquet(file)
    return file.getvalue()


def _frame(rows: Sequence[Row]) -> polars.DataFrame:
    import polars

    types = {int: polars.Int64, float: polars.Float64, bool: polars.Boolean, str: polars.String}
    hints = get_type_hints(Row)
    columns = []
    for name in Row.__struct_fields__:
        kind = next(kind for kind in types if kind is hints[name] or kind in getattr(hints[name], "__args__", ()))
        columns.append(polars.Series(name, list(map(attrgetter(name), rows)), types[kind]))
    return polars.DataFrame(columns)


def markdown(evidence: Evidence, title: str) -> str:
    """Return a summary: the verdict, what failed and why, and a table of some rows. Never longer than GitHub's LIMIT.

    Names and reasons stand there as code: nothing in them is markup, a link or a mention.
    """
    for most in (ROWS, ROWS // 2, ROWS // 4, 1):
        text = _summary(evidence, title, most)
        if len(text) <= LIMIT:
            return text
    return f"{text[: LIMIT - 200].rpartition(chr(10))[0]}\n\nThe rest was left out: GitHub takes {LIMIT} characters.\n"


def _summary(evidence: Evidence, title: str, most: int) -> str:
    parts = [f"## {_plain(title)}", _verdict(evidence.rows), *filter(None, [_plain(delivered(evidence))])]
    parts += [
        f"**Gate** {_code(report.head)} against {_code(report.base)}: {_plain(gate.summary(report))}" for report in evidence.gates
    ]
    if evidence.problems:
        parts.append(_listed("Could not be read", evidence.problems, most))
    found = sorted(reasons(row for row in evidence.rows if row.outcome != OK), key=lambda each: each.outcome in SKIPPED)  # last
    if found:
        rows = [[str(len(each.rows)), each.outcome, _code(each.text), _code(each.rows[0].id)] for each in found[:most]]
        parts.append("### What did not end ok\n\n" + _tabulated(rows, ["cells", "outcome", "reason", "as"]))
        if len(found) > most:
            parts.append(f"{number_of(len(found) - most, 'more reason')} left out here.")
    measured = [row for row in evidence.rows if row.measured]
    if measured:
        parts.append(_cells(measured, most))
    return "\n\n".join(parts) + "\n"


def _verdict(rows: Sequence[Row]) -> str:
    """Say in two lines what passed, and where, when and by which revision that was measured."""
    disturbed = sum(bool(row.disturbed) for row in rows)
    words = f"**{verdict(rows)}**" + (f" {number_of(disturbed, 'cell')} of them disturbed." if disturbed else "")
    days = sorted({row.started_at[:10] for row in rows})
    facts = {
        "on": _few(row.machine for row in rows),
        "measured": " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
        "revision": _few(row.revision for row in rows if row.revision),
    }
    return f"{words}\n\n{'; '.join(f'{name} {text}' for name, text in facts.items() if text)}".strip()


def _few(names: Iterable[str], most: int = 4) -> str:
    found = list(dict.fromkeys(names))
    return ", ".join([*map(_code, found[:most]), *([f"{len(found) - most} more"] if len(found) > most else [])])


def _cells(measured: Sequence[Row], most: int) -> str:
    """Tabulate the rows that stand for all; an axis on which all agree is named above."""
    some = chosen(measured, most)
    values = {axis: {str(getattr(row, axis)) for row in measured} for axis in AXES}
    axes = [axis for axis in AXES if axis == "model" or len(values[axis]) > 1]
    names = [name for name in SHOWN if any(shown(row, name).text not in ("", FEW) for row in some)]
    heads = [_spaced(axis) for axis in axes] + [head(name) for name in names]
    rows = [[_code(str(getattr(row, axis))) for axis in axes] + [_value(row, name) for name in names] for row in some]
    alike = ", ".join(f"{_spaced(axis)} {_code(*values[axis])}" for axis in AXES if axis not in axes)
    words = [f"All of them: {alike}."] if alike else []
    if len(some) < len(measured):
        words.append(
            f"{len(some)} of {number_of(len(measured), 'row')}: those that no other beats in two quantities at once, and every "
            "n-th of the others. CSV and Parquet have all."
        )
    doubt = (
        "±: 95 % interval of the median, a range where that is wide. !: disturbed, or not that of the net alone. *: emulated, as "
        "the processor lacks this arithmetic. ~: the warm-up did not become steady. p90: upper bound at 99 %, few: too few "
        "samples for one. ≤: at most."
    )
    doubt += " ≈: an estimate, not measured." if any(row.energy_is_estimate for row in some) else ""
    return "\n\n".join(["### Cells", *words, _tabulated(rows, heads, heads[: len(axes)]), doubt])


def _spaced(axis: str) -> str:
    return axis.replace("_", " ")


def _value(row: Row, name: str) -> str:
    found = shown(row, name)
    return f"{found.text} {found.doubt if name == 'latency_s' else ''}".strip() or NOTHING


def _tabulated(rows: Sequence[Sequence[str]], heads: Sequence[str], left: Sequence[str] = ("outcome", "reason", "as")) -> str:
    return tabulated(rows, heads, left, "github")


def _listed(title: str, lines: Sequence[str], most: int) -> str:
    more = [f"- and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join([f"### {title}", "", *(f"- {_code(line)}" for line in lines[:most]), *more])


def _code(text: str) -> str:
    """Return text as code in a line, whatever is in it: as references to characters where a backtick or a bar would end it."""
    line = " ".join(text.split())
    short = line if len(line) <= TEXT else f"{line[: TEXT - 4]} ..."
    if not short:
        return ""
    if not any(letter in short for letter in "`|\\"):
        return f"`{short}`"
    return "<code>" + "".join(letter if letter.isalnum() else f"&#{ord(letter)};" for letter in short) + "</code>"


def _plain(text: str) -> str:
    """Return text in a line, of which nothing is markup."""
    return "".join(
        letter if letter.isalnum() or letter in " .,:;+%-()" else f"&#{ord(letter)};" for letter in " ".join(text.split())
    )
