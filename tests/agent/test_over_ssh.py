"""A board with an agent over a real sshd: it is copied there once, and ends what it runs when the connection is lost."""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path
from threading import Thread

import pytest

from plumbline.harness.outcomes import CellEnded
from plumbline.harness.session import elsewhere, places
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.elsewhere import BoardOverSsh
from plumbline.harness.session.places import BadPlace
from plumbline.harness.settings import Settings
from plumbline.harness.target import Target, with_agent
from tests.agent.agents import alive, place
from tests.harness.session.test_elsewhere import Server, sshd  # noqa: F401
from tests.records import cell_of, replace

CELL = cell_of(model="small_cnn", batch=4, target="agent:ssh:board@cuda", runtime="agent")


@pytest.fixture
def board(sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BoardOverSsh:  # noqa: F811
    return _board(tmp_path, monkeypatch, "")


def _board(folder: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, pid: str = "") -> BoardOverSsh:
    """A board whose python3 is the oldest there is, with a trtexec."""
    *start, _ = place(folder / "board", fake=behaviour, FAKE_TRTEXEC_PID=pid)
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(elsewhere, "PYTHON", str(python))
    return BoardOverSsh("agent:ssh:board", "board")


@pytest.mark.parametrize(("text", "host"), [("agent:ssh:nano", "nano"), ("agent:ssh:ann@nano.lab", "ann@nano.lab")])
def test_a_board_is_a_target(text: str, host: str) -> None:
    assert with_agent(text) == host
    assert Target.parse(f"{text}@cuda") == (text, "cuda")
    assert isinstance(places.find(text), BoardOverSsh)
    assert with_agent("agent:docker:image") is with_agent("ssh:nano") is with_agent("agent:ssh:-oProxyCommand=x") is None


def test_the_agent_is_copied_once(board: BoardOverSsh, sshd: Server) -> None:  # noqa: F811
    assert board.capabilities.cuda is None
    (copied,) = (sshd.home / "plumbline" / "shipped").glob("*/plumbline_agent.py")
    then = copied.stat().st_mtime_ns
    assert BoardOverSsh("agent:ssh:board", "board").capabilities == board.capabilities
    assert copied.stat().st_mtime_ns == then


def test_a_cell_over_ssh(
    board: BoardOverSsh, tmp_path: Path, python: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places.find(""), "command", (python, *places.find("").command[1:]))
    with (tmp_path / "probe.log").open("wb") as log:
        connection = Connection(log, place=board, lock_s=0.0)
        probe = CellProbe(connection, CELL, replace(settings, accuracy_images=0))
        assert probe.agreement().wrong is None
        assert probe.latency().model.median_s == pytest.approx(0.00126, rel=0.02)
        connection.close()


def test_a_lost_connection_ends_what_runs_there(
    sshd: Server,  # noqa: F811
    tmp_path: Path,
    python: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note = tmp_path / "pid"
    board = _board(tmp_path, monkeypatch, "hang", str(note))
    monkeypatch.setattr(places.find(""), "command", (python, *places.find("").command[1:]))
    with (tmp_path / "probe.log").open("wb") as log:
        connection = Connection(log, place=board, lock_s=0.0)
        probe = CellProbe(connection, CELL, settings)
        connection.start()
        process = connection._process
        assert process is not None

        def ask() -> None:
            with pytest.raises(CellEnded):
                probe.prepared()

        asking = Thread(target=ask)
        asking.start()
        for _ in range(1200):
            if note.exists() and note.read_text():
                break
            time.sleep(0.05)
        running = int(note.read_text())
        assert alive(running)
        os.killpg(process.pid, signal.SIGKILL)
        asking.join(60)
        for _ in range(400):
            if not alive(running):
                break
            time.sleep(0.05)
        assert not alive(running)
        connection.close()


def test_a_host_that_is_not_known_is_one_sentence(board: BoardOverSsh, sshd: Server) -> None:  # noqa: F811
    sshd.known.write_text("")
    with pytest.raises(
        BadPlace, match="target 'agent:ssh:board' does not answer: its host key is not known yet; plumbline trust"
    ):
        _ = board.capabilities
