"""The doctor, at another place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.harness.boot import BOOT
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.session import places
from plumbline.harness.session.places import Place
from plumbline.harness.studies.doctor import examine
from plumbline.harness.target import BadTarget


@pytest.fixture
def there(tmp_path: Path) -> Iterator[str]:
    """A place whose command starts a probe on this machine."""
    (tmp_path / "targets.toml").write_text(f"[place.there]\ncommand = {json.dumps(BOOT)}\n")
    places.load(tmp_path / "targets.toml")
    yield "there"
    places.load(places.FILE)


@pytest.mark.slow
def test_another_machine_is_examined(there: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it finds of durations is that machine's affair; memory is right wherever it is."""
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    said: list[str] = []
    machine, found = examine(there, said.append)
    assert machine.cpu_model
    assert {check.instrument for check in found.checks} == {
        "clock",
        "timer",
        "timing in turns",
        "warm-up",
        "median",
        "p99",
        "cpu_time",
        "memory",
    }
    small = next(check for check in found.checks if check.truth == "an allocation of 10 MB")
    assert small.error is not None and abs(small.error) <= small.limit
    assert {"quiet", "processors", "speed", "governor", "turbo", "temperature", "swap"} <= {
        each.name for each in found.circumstances
    }
    assert any("meters of energy" in text for text in said)


def test_a_board_with_an_agent_cannot_be_examined() -> None:
    with pytest.raises(BadTarget, match="an agent answers cells alone"):
        examine("agent:ssh:nano", print)


def test_a_place_whose_command_is_missing_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_known", {**places._known, "nano": Place("nano", ("no-such-command",))})
    with pytest.raises(CellEnded, match="the probe at nano did not start: expected a command 'no-such-command' on this machine"):
        examine("nano", lambda text: None)
