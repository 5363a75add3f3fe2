"""A run's journal: appended to, read again, refused where it would be misread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.journal import NAME, SCHEMA, Journal, RunError, read


def record(cell: str, **more: Any) -> dict[str, Any]:
    return {"schema": SCHEMA, "cell": {"id": cell}, **more}


def test_what_was_appended_is_read_and_the_last_record_of_a_cell_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for each in (record("a", seconds=1), record("b"), record("a", seconds=2)):
        journal.append(each)
    journal.close()
    assert read(tmp_path / "run") == [record("a", seconds=2), record("b")]


def test_half_a_line_is_cut_before_the_run_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    journal.append(record("a"))
    journal.close()
    with (tmp_path / "run" / NAME).open("a") as file:
        file.write('{"schema": 1, "ce')
    again = Journal(tmp_path / "run", resume=True)
    assert again.earlier == [record("a")]
    again.append(record("b"))
    again.close()
    assert read(tmp_path / "run") == [record("a"), record("b")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (json.dumps({**record("a"), "schema": 2}), "line 1: expected a record of schema 1, got 2; read it with the plumbline"),
        ("{", "line 1: not JSON"),
    ],
)
def test_what_would_be_misread_is_refused_by_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / NAME).write_text(line + "\n")
    with pytest.raises(RunError, match=says):
        read(tmp_path)


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    Journal(tmp_path).append(record("a"))
    with pytest.raises(RunError, match="holds a run already"):
        Journal(tmp_path)
