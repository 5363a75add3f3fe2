"""Terminals with few characters or none, and what is told of a long step."""

from __future__ import annotations

import io
import threading

import pytest

from plumbline.harness.views import terminal


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "+-3% <=5 2x ?"), ("cp1252", "±3% <=5 2× ?"), ("utf-8", "±3% ≤5 2× 世")]
)
def test_a_terminal_shows_what_it_can(encoding: str, shown: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    terminal.readable(stream)
    stream.write("±3% ≤5 2× 世")
    stream.flush()
    assert written.getvalue().decode(encoding) == shown


def test_without_a_terminal_what_goes_on_is_said_at_once_and_then_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = terminal.Progress(clock=lambda: now)
    told = []
    steps = (
        (0, "one of two"),
        (30, "two of two"),
        (30, None),
        (59, None),
        (1, None),
        (0, ""),
        (50, "soon"),
        (5, ""),
        (90, "next"),
    )
    for step, text in steps:
        now += step
        if text is not None:
            progress(text)
        progress.remind()
        told.append(capsys.readouterr().err)
    words = ["... one of two\n", "... two of two (for 1 min now)\n", "... two of two (for 2 min now)\n", "... next\n"]
    assert told == [words[0], "", words[1], "", words[2], "", "", "", words[3]]


def test_a_long_step_is_told_of_while_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """By a thread, as the one that waits cannot."""
    said = threading.Event()

    def clock() -> float:
        said.set()
        return 0.0

    with terminal.Progress(every_s=0.0, clock=clock) as progress:
        progress("waiting")
        said.clear()
        assert said.wait(60)
    assert capsys.readouterr().err.startswith("... waiting\n")
