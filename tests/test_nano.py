"""The page for a newcomer, docs/nano.md: what takes no measuring still prints what stands there, and what does is understood."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from plumbline.harness.cli import main, parsers

PAGE = Path(__file__).resolve().parent.parent / "docs" / "nano.md"
SHOWN = dict(re.findall(r"^```text\n\$ plumbline ([^\n]+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
SAME_EVERYWHERE = ("ceilings", "estimate")  # nothing is measured


def lines(text: str) -> list[str]:
    """Return lines without the spaces at their ends."""
    return [line.rstrip() for line in text.strip().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in SHOWN if command.startswith(SAME_EVERYWHERE)])
def test_it_shows_what_is_printed(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plumbline", *shlex.split(command)])
    main()
    assert lines(capsys.readouterr().out) == lines(SHOWN[command])


def test_each_command_of_it_is_understood() -> None:
    assert [command.split()[0] for command in SHOWN] == [*SAME_EVERYWHERE, "fit"]
    for command in SHOWN:
        name, *arguments = shlex.split(command)
        parsers()[1][name].parse_args(arguments)
