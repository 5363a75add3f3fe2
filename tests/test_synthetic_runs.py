"""Synthetic runs are always the same ones and look like real ones; a limit of a report that is missed is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from plumbline.harness import journal, messages, record
from plumbline.harness.outcomes import FAILED, OK, OUT_OF_MEMORY
from tests import synthetic_runs
from tests.trials.report_sizes import FILTERED, OPENED, RECOMMENDED, Limit, Made, late, missed


def test_a_run_is_valid_and_always_the_same(tmp_path: Path) -> None:
    one, other = (
        synthetic_runs.write(tmp_path / name, synthetic_runs.records(synthetic_runs.cells(400), samples=40)) for name in "ab"
    )
    assert (one / journal.NAME).read_bytes() == (other / journal.NAME).read_bytes()
    found = journal.read(one)
    assert len(found) == len({each.id for each in found}) == 400
    assert Counter(each.outcome for each in found)[OK] > 380
    validator = jsonschema.Draft202012Validator(record.schema())
    for each in found[:20]:
        validator.validate(messages.plain(each))


def test_a_grid_has_what_a_report_has_to_show() -> None:
    small, large = ({cell.id: cell for cell in synthetic_runs.cells(count)} for count in (2_000, 100_000))
    assert (len(small), len(large)) == (2_000, 100_000)
    assert {cell.batch for cell in small.values()} == {1, 4, 8, 16}
    assert {cell.target for cell in large.values()} == {"cpu", "board@cuda"}
    outcomes = {each.outcome for each in synthetic_runs.records(small.values(), samples=10)}
    assert outcomes == {OK, FAILED, OUT_OF_MEMORY}


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (Made(4.9, 4.0, 400_000_000, 4_000_000), []),
        (Made(5.1, 4.0, 400_000_000, 4_000_000), ["time"]),
        (Made(1.0, 1.0, 500_000_001, 4_000_000), ["memory"]),
        (Made(1.0, 1.0, 1, 5_000_001), ["size"]),
    ],
)
def test_a_limit_that_is_missed_is_said(made: Made, what: list[str]) -> None:
    assert missed(made, Limit(5.0, 500e6, 5e6), "html") == what
    assert missed(made, Limit(30.0), "html") == []
    assert "size" not in missed(made, Limit(5.0, 500e6, 5e6), "csv")


def test_what_is_slow_to_use_is_said() -> None:
    assert late({RECOMMENDED: 0.9, OPENED: 1.9, FILTERED: 0.09}) == []
    assert late({RECOMMENDED: 1.1, OPENED: 1.9, FILTERED: 0.11}) == [
        f"{what}: more than its limit" for what in (RECOMMENDED, FILTERED)
    ]
