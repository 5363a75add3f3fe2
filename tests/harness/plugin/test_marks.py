"""What a cell leaves for the JUnit report."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.config.argparsing import Parser

from plumbline.harness.plugin import options
from plumbline.harness.plugin.bench import Bench
from plumbline.harness.readings import read
from plumbline.texts import not_negative
from tests.records import latency_of, record_of, replace


@pytest.mark.parametrize("failure", [None, AssertionError("the figure is below its bound")])
def test_a_disturbed_cell_is_marked_whatever_became_of_it(
    failure: AssertionError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(latency=replace(latency_of(), disturbance={"others": read("1", "machine", 0.4)}))
    bench: Any = Bench.__new__(Bench)
    bench.session, bench._done = SimpleNamespace(finish=lambda *given: record), 0
    monkeypatch.setattr(bench, "_report", lambda cell, kept: None)
    probe = SimpleNamespace(cell=record.cell, facts={})
    item: Any = SimpleNamespace(funcargs={"probe": probe}, user_properties=[])
    call = Bench.pytest_runtest_call(bench, item)
    next(call)
    if failure is None:
        with pytest.raises(StopIteration):
            call.send(None)
    else:
        with pytest.raises(AssertionError):
            call.throw(failure)
    assert item.user_properties == [("disturbed", "other processes had 40.0% of its processors")]


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("soon", None)])
def test_a_time_to_wait_is_a_number(text: str, seconds: float | None) -> None:
    if seconds is not None:
        assert not_negative(text) == seconds
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a number >= 0, got '{text}'"):
            not_negative(text)


def test_a_default_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the environment, and would end every session of pytest with a traceback."""
    monkeypatch.setenv(options.CALM, "soon")
    parser = Parser(_ispytest=True)
    options.pytest_addoption(parser)
    with pytest.raises(pytest.UsageError, match="argument --calm: expected a number >= 0, got 'soon'"):
        parser.parse([])
