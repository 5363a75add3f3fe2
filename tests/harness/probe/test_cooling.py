"""Waiting until a machine is cool again."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.harness.messages import Exited, Message, Open
from plumbline.harness.probe.channel import Channel
from plumbline.harness.probe.cooling import Cooling
from plumbline.harness.probe.server import Server
from plumbline.harness.readings import Readings, read
from plumbline.harness.settings import Settings
from tests.records import cell_of


class Board:
    """A board that cools by a degree a second, on a clock of its own."""

    def __init__(self, celsius: float | None) -> None:
        self.celsius, self.now, self.said = celsius, 0.0, list[str]()

    def rest(self, seconds: float) -> None:
        self.now += seconds
        if self.celsius is not None:
            self.celsius -= seconds

    def cooling(self) -> Cooling:
        return Cooling(lambda: self.celsius, lambda: self.now, self.rest)


def test_it_waits_until_the_start_temperature_is_back_and_only_then() -> None:
    board = Board(50.0)
    cooling = board.cooling()
    assert cooling.wait(60.0, None, board.said.append) is None and board.now == 0.0
    board.celsius = 53.0  # within three degrees of the start
    assert cooling.wait(60.0, None, board.said.append) is None and board.now == 0.0
    board.celsius = 63.0
    assert cooling.wait(60.0, None, board.said.append) is None
    assert (board.now, board.celsius) == (10.0, 53.0)
    assert board.said[0] == "63 °C, waiting for 53 °C, as before the first cell; 60 s at most"


@pytest.mark.parametrize(("most", "refused"), [(85.0, True), (89.5, False), (None, False)])
def test_what_does_not_cool_down_is_measured_unless_it_is_too_hot(most: float | None, refused: bool) -> None:
    board = Board(40.0)
    cooling = board.cooling()
    cooling.wait(5.0, most, board.said.append)
    board.celsius = 94.0
    reason = cooling.wait(5.0, most, board.said.append)
    assert (reason is not None) == refused and board.now == 5.0
    if reason is not None:
        assert reason == "89 °C, and at most 85 °C are allowed (--max-temperature); it did not cool down in 5 s"


def test_a_machine_that_starts_too_hot_is_waited_for() -> None:
    board = Board(90.0)
    assert board.cooling().wait(60.0, 80.0, board.said.append) is None
    assert board.celsius == 80.0


def test_a_machine_without_a_sensor_is_not_waited_for() -> None:
    board = Board(None)
    assert board.cooling().wait(60.0, 50.0, board.said.append) is None
    assert (board.now, board.said) == (0.0, [])


class Sent(Channel):
    """Keeps what a server says."""

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def end_line(self) -> None:
        pass


def test_the_start_is_before_the_first_cell_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting and compiling heat as nothing else does: what is warm from that is no start."""
    board, channel = Board(40.0), Sent()
    server = Server(channel, tmp_path, fork=True)
    server._cooling = board.cooling()

    def prepared(request: Open) -> bool:
        board.celsius = 70.0
        return True

    def state() -> Readings:
        return {"temperature": read("°C", "machine", board.celsius)}

    monkeypatch.setattr(server, "_runtime_works", lambda request: True)
    monkeypatch.setattr(server, "_prepared", prepared)
    monkeypatch.setattr(server, "_end_of", lambda task: Exited("cell"))
    monkeypatch.setattr(server, "_state", state)
    server._open(Open(cell_of(), Settings(cool_s=60.0), False))
    (ended,) = (message for message in channel.sent if isinstance(message, Exited))
    assert board.celsius == 43.0
    assert ended.state_before["temperature"].value == 43.0, "the state in which the cell begins"


def test_nobody_looks_at_sensors_where_nobody_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Sent(), tmp_path, fork=True)
    monkeypatch.setattr(server._cooling, "wait", lambda *given: pytest.fail("it waited"))
    assert server._cool(Settings())
