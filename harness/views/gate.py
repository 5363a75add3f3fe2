"""What a gate found: for people, for a pull request (Markdown), and for a CI system (JUnit XML)."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

from plumbline.harness.studies.gate import BROKEN, COULD_NOT_TELL, FINE, SLOWER_CODE, Report, Row
from plumbline.harness.verdicts.regression import INCOMPARABLE, INCONCLUSIVE, MISSING, REGRESSED, UNCHANGED, WITHIN_NOISE
from plumbline.harness.views.table import NOTHING, milliseconds, tabulated
from plumbline.texts import duration, number_of

HEADS = ["cell", "verdict", "base, ms", "head, ms", "change", "99 %", "pairs", "would show", "why"]
LEFT = ["cell", "verdict", "why"]
MANY = 30  # rows within noise are counted where there are more
WORDS = {
    FINE: "no regression",
    SLOWER_CODE: "regressed",
    BROKEN: "broken",
    COULD_NOT_TELL: "could not tell",
}


def text(report: Report, style: str = "simple", whole: bool = False) -> str:
    """Return the verdict, the cells that matter and the controls; with `whole`, each cell that is within noise, too.

    Cells that run the same code on both sides are counted.
    """
    rows = [row for row in report.rows if row.judgement.verdict != UNCHANGED]
    unchanged = len(report.rows) - len(rows)
    fine = [row for row in rows if row.judgement.verdict == WITHIN_NOISE and not row.changes]
    few = rows if whole or len(fine) <= MANY else [row for row in rows if row not in fine]
    parts = []
    if few:
        parts.append(tabulated([_row(row) for row in few], HEADS, LEFT, style))
    if len(few) < len(rows):
        parts.append(f"{number_of(len(fine), 'more cell')} within noise")
    if unchanged:
        parts.append(f"{number_of(unchanged, 'cell')} unchanged: the same code and packages on both sides, so nothing to time")
    if report.controls:
        parts.append("Controls\n\n" + tabulated([_row(row) for row in report.controls], HEADS, LEFT, style))
    if report.skipped:
        words = Counter(report.skipped.values())
        parts.append("On neither side:\n" + "\n".join(f"- {count}: {reason}" for reason, count in words.most_common()))
    return "\n\n".join([*parts, summary(report)])


def summary(report: Report) -> str:
    """Return the verdict in a few lines."""
    counts = Counter(row.judgement.verdict for row in report.rows)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no cell on both sides"
    lines = [f"{WORDS[report.code]}: {told}, in {duration(report.seconds)}"]
    lines += [f"! not to be trusted: {reason}" for reason in report.distrust]
    judged = [row.judgement for row in report.rows]
    unsure = [judgement.detectable for judgement in judged if judgement.verdict == INCONCLUSIVE and judgement.detectable]
    if unsure:
        ends = dict.fromkeys(f"{end:.1%}" for end in (min(unsure), max(unsure)))
        lines.append(f"of the inconclusive cells a slowdown of {' to '.join(ends)} would have been found")
    return "\n".join(lines)


def markdown(report: Report) -> str:
    """Return a page for a pull request."""
    head = f"**plumbline gate: {WORDS[report.code]}**\n\n`{report.head}` against `{report.base}`, on {report.machine}"
    return f"{head}\n\n{text(report, 'github', whole=True)}\n"


def junit(report: Report) -> bytes:
    """Return JUnit XML: a regression is a failure, what could not be told an error, a cell on neither side is skipped."""
    suite = ElementTree.Element("testsuite", name="plumbline gate", time=f"{report.seconds:.1f}")
    failures = errors = 0
    for row in report.rows:
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name=row.name, time="0")
        words = f"{row.judgement.verdict} {_change(row)} {row.judgement.reason}".strip()
        if row.judgement.verdict == REGRESSED:
            failures += 1
            ElementTree.SubElement(case, "failure", message=words)
        elif row.judgement.verdict in (INCONCLUSIVE, MISSING, INCOMPARABLE):
            errors += 1
            ElementTree.SubElement(case, "error", message=words)
    for name, reason in report.skipped.items():
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name=name, time="0")
        ElementTree.SubElement(case, "skipped", message=reason)
    for reason in report.distrust:
        errors += 1
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name="controls", time="0")
        ElementTree.SubElement(case, "error", message=reason)
    suite.attrib |= {
        "tests": str(len(suite)), "failures": str(failures), "errors": str(errors), "skipped": str(len(report.skipped)),
    }  # fmt: skip
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _row(row: Row) -> list[str]:
    judged = row.judgement
    return [
        row.name,
        judged.verdict,
        milliseconds(row.base_s),
        milliseconds(row.head_s),
        _change(row) or NOTHING,
        NOTHING if judged.interval is None else f"{_percent(judged.interval[0])} to {_percent(judged.interval[1])}",
        str(judged.pairs) if judged.pairs else NOTHING,
        NOTHING if judged.detectable is None else _percent(judged.detectable).lstrip("+"),
        "; ".join(dict.fromkeys(filter(None, [judged.reason, *row.changes]))) or NOTHING,
    ]


def _change(row: Row) -> str:
    return "" if row.judgement.effect is None else _percent(row.judgement.effect)


def _percent(share: float) -> str:
    """Return a change in percent; beyond tenfold it says nothing but that."""
    return ">+900%" if share > 9 else f"{share:+.1%}"
