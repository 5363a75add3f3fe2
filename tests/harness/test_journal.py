"""A run's journal: appended to, read again, refused where it would be misread."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from plumbline.harness import messages, record
from plumbline.harness.journal import NAME, Journal, NotRead, RunError, lines, parsed, read
from plumbline.harness.record import SCHEMA, Record
from tests.records import cell_of, counts_of, latency_of, prepared_of, record_of, replace

A, B = record_of(cell_of("mlp")), record_of(cell_of("small_cnn"))


def test_what_was_appended_is_read_and_the_last_record_of_a_cell_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for each in (replace(A, seconds=1.0), B, replace(A, seconds=2.0)):
        journal.append(each)
    journal.close()
    assert read(tmp_path / "run") == [replace(A, seconds=2.0), B]


@pytest.mark.parametrize("other", [{"revision": "f00dbabe"}, {"revision": None}, {"session": "two"}])
def test_a_cell_of_another_revision_or_session_is_another_record(tmp_path: Path, other: dict[str, str | None]) -> None:
    journal = Journal(tmp_path)
    journal.append(A)
    journal.append(replace(A, **other))
    journal.close()
    assert read(tmp_path) == [A, replace(A, **other)]


def test_half_a_line_is_cut_before_the_run_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    journal.append(A)
    journal.close()
    with (tmp_path / "run" / NAME).open("a") as file:
        file.write('{"schema": 1, "ce')
    again = Journal(tmp_path / "run", resume=True)
    assert again.earlier == [A]
    again.append(B)
    again.close()
    assert read(tmp_path / "run") == [A, B]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            {"schema": SCHEMA + 1, "anything": 1},
            f"line 1: expected a record of schema {SCHEMA}, got {SCHEMA + 1}; read it with the",
        ),
        (
            {"schema": 1, "cell": {"id": "a"}},
            f"line 1: expected a record of schema {SCHEMA}, got 1; read it with the plumbline that",
        ),
        ({"cell": {"id": "of the first version"}}, "got 1; read it with the plumbline that wrote it"),
        ({"schema": SCHEMA, "id": "a"}, "line 1: not a record .*missing required field"),
        ({**messages.plain(A), "seconds": "long"}, r"line 1: not a record .*Expected `float`, got `str` - at `\$.seconds`"),
        ("{", "line 1: not a record"),
    ],
)
def test_what_would_be_misread_is_refused_by_line(tmp_path: Path, line: object, says: str) -> None:
    (tmp_path / NAME).write_text((line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(RunError, match=says):
        read(tmp_path)


def test_a_field_of_a_later_version_is_ignored(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({**messages.plain(A), "new": 1}) + "\n")
    assert read(tmp_path) == [A]


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    Journal(tmp_path).append(A)
    with pytest.raises(RunError, match="holds a run already"):
        Journal(tmp_path)


def test_a_run_that_never_began_is_none(tmp_path: Path) -> None:
    """A session that found another one at work left an empty journal."""
    Journal(tmp_path).close()
    Journal(tmp_path).append(A)
    assert read(tmp_path) == [A]


def test_a_line_is_found_again_by_where_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for each in (A, B):
        journal.append(each)
    journal.close()
    text = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(text + b'{"schema":2')
    found = list(lines(tmp_path))
    assert [(line.number, line.whole) for line in found] == [(1, True), (2, True), (3, False)]
    assert all(text[line.offset :].startswith(line.text) for line in found[:2])
    assert parsed(tmp_path, found[1], Record) == B


@pytest.mark.parametrize(("line", "schema"), [({"schema": 7}, 7), ({"id": "a"}, 1), ("{", None), ({"schema": SCHEMA}, None)])
def test_why_a_line_is_not_read_is_known(tmp_path: Path, line: object, schema: int | None) -> None:
    (tmp_path / NAME).write_text((line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(NotRead) as caught:
        parsed(tmp_path, next(lines(tmp_path)), Record)
    assert caught.value.schema == schema
    assert str(caught.value) == f"{tmp_path / NAME}, line 1: {caught.value.why}"


def test_the_schema_holds_of_what_is_written_and_of_nothing_else() -> None:
    full = replace(A, latency=latency_of(samples=3), prepared=prepared_of(), counts=counts_of())
    for written in (A, full):
        jsonschema.validate(messages.plain(written), record.schema(), jsonschema.Draft202012Validator)
    for wrong in ({"outcome": 3}, {"memory": {"weights": {"unit": "byte"}}}, {"cell": {"model": "mlp"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**messages.plain(full), **wrong}, record.schema(), jsonschema.Draft202012Validator)
