"""Limits that figures keep or miss."""

from __future__ import annotations

import pytest

from plumbline.harness.verdicts.limits import Limit, failed


@pytest.mark.parametrize(
    ("got", "most", "interval", "verdict"),
    [
        (4.5, False, None, "passed"), (4.4, False, None, "failed"), (4.5, True, None, "passed"), (4.6, True, None, "failed"),
        (None, True, None, "missing"), (4.6, True, (4.4, 4.8), "passed"), (4.6, True, (4.55, 4.8), "failed"),
        (4.4, False, (4.2, 4.6), "passed"), (4.4, False, (4.2, 4.45), "failed"),
    ],
)  # fmt: skip
def test_a_figure_passes_or_fails_its_limit(
    got: float | None, most: bool, interval: tuple[float, float] | None, verdict: str
) -> None:
    limit = Limit("faster", got, 4.5, "x", most, interval)
    assert limit.verdict == verdict
    assert failed([limit]) == (["faster"] if verdict == "failed" else [])
