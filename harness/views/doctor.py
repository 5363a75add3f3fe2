"""What the doctor found, as a table."""

from __future__ import annotations

from plumbline.harness.examination import BETTER, FIT, Check, Examination
from plumbline.harness.machine import Machine, described
from plumbline.harness.views.table import NOTHING, tabulated
from plumbline.texts import duration, size

CHECKED = ["instrument", "truth", "expected", "got", "error", "limit", "verdict"]
FOUND = ["circumstance", "found", "verdict", "better"]


def text(machine: Machine, found: Examination, style: str = "simple") -> str:
    """Return both tables, and the verdict in a line."""
    checks = tabulated([_check(check) for check in found.checks], CHECKED, CHECKED[:2], style)
    rows = [[each.name, each.found, each.verdict, each.advice or NOTHING] for each in found.circumstances]
    parts = [described(machine), checks, tabulated(rows, FOUND, FOUND, style)]
    vague = "the machine is too noisy to tell"
    without = [
        f"{check.instrument}, {check.truth}: {check.unavailable or vague}"
        for check in found.checks
        if check.unavailable or check.verdict == BETTER
    ]
    if without:
        parts.append("\n".join(["Not shown:", *(f"- {line}" for line in without)]))
    return "\n\n".join([*parts, summary(found)])


def summary(found: Examination) -> str:
    """Say whether the machine is fit to measure, and why not."""
    took = duration(found.seconds)
    if found.unfit:
        return f"not fit to measure ({took}): {'; '.join(found.unfit)}"
    return f"{FIT} to measure ({took})" + (f"; {BETTER}: {', '.join(found.better)}" if found.better else "")


def _check(check: Check) -> list[str]:
    error, interval = check.error, ""
    if check.interval is not None and check.expected:
        interval = " ({:+.2%} to {:+.2%})".format(*(end / check.expected - 1 for end in check.interval))
    return [
        check.instrument,
        check.truth,
        _quantity(check.expected, check.unit),
        _quantity(check.got, check.unit),
        NOTHING if error is None else f"{error:+.2%}{interval}",
        f"{check.limit:.1%}",
        check.verdict,
    ]


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return NOTHING
    if unit == "byte":
        return size(value)
    return f"{value * 1e3:.4g} ms" if unit == "s" else f"{value:.4f}"
