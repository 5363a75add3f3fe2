"""Whoever follows docs/lab.md from empty machines gets what it shows: its own commands, with two servers of ssh as boards."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from plumbline.harness.session.session import REPOSITORY
from tests import tutorial
from tests.conftest import HOUR_S, where
from tests.harness.session.test_elsewhere import Server
from tests.harness.session.test_labgrid import US, boards  # noqa: F401
from tests.lab import labgrid

pytestmark = pytest.mark.slow
PAGE = (REPOSITORY / "docs" / "lab.md").read_text().partition("## Without labgrid")[0]
BLOCK = re.compile(r"```(sh|yaml|console)\n(.*?)```", re.DOTALL)
PORT = 20408  # of labgrid's coordinator, on the page
# What is another one each time ends the part of a line that is compared: a time, a figure, who ran when, where a row was cut.
ANOTHER = re.compile(r" \d[\d,]*\.\d| \d{5,}|\d{4}-\d\d-\d\d|\([\w-]+ \d+ s|\.\.\.|  ok |  -  ")
COMPARED = "plumbline compare"  # what two boards on one processor differ by is another verdict each time
# What has to be so for an output of the page, and is no command of it: another session has the board; the board is dead.
HELD, DEAD = "pytest benchmarks/ --target lab:orin-2", "pytest benchmarks/ --target lab:orin-1"


class Desk:
    """A person's shell, with a home of their own; what was started in it ends with `close`."""

    def __init__(self, home: Path, clone: Path, environment: dict[str, str]) -> None:
        self.home, self._clone, self._environment = home, clone, environment
        self._shells: list[subprocess.Popen[bytes]] = []

    def run(self, commands: str, *, at_home: bool = False) -> tuple[int, str]:
        """Return the exit code of bash, and what was written until it ended."""
        with (self.home / f"said.{len(self._shells)}").open("w+") as said:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=self.home if at_home else self._clone,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._shells.append(shell)
            code = shell.wait()
            said.seek(0)
            return code, said.read()

    def close(self) -> None:
        for shell in self._shells:
            try:
                os.killpg(shell.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def desk(tmp_path: Path, cache: Path, boards: dict[str, Server]) -> Iterator[Desk]:  # noqa: F811
    labgrid()  # the page installs one of its own; where there is none, this is not asked for
    home, clone = tmp_path / "home", tmp_path / "clone"
    (home / ".ssh").mkdir(parents=True)
    clone.mkdir()
    for name in ("user_key", "user_key.pub"):
        key = boards["orin-1"].folder / name
        (home / ".ssh" / name.replace("user_key", "id_ed25519")).write_text(key.read_text())
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    for board in boards.values():  # one person, one key
        for name, own in (("user_key", "id_ed25519"), ("user_key.pub", "id_ed25519.pub"), ("authorized", "id_ed25519.pub")):
            (board.folder / name).write_text((home / ".ssh" / own).read_text())
    tutorial.folder_like_a_clone(clone)
    user, host = reversed(US.split("/"))
    sitting = Desk(
        home,
        clone,
        {
            **where(tmp_path, cache)["env"],
            "HOME": str(home),
            "PATH": f"{home}/.local/bin:{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "LG_HOSTNAME": host,
            "LG_USERNAME": user,
            "PYTEST_ADDOPTS": f"--time-limit {HOUR_S:g}",
            "PYTHONUNBUFFERED": "1",  # as on a terminal: both outputs in the order in which they are written
        },
    )
    yield sitting
    sitting.close()


def test_every_command_runs_as_it_is_written(desk: Desk, boards: dict[str, Server]) -> None:  # noqa: F811
    """In the order of the page; and prints what stands there, but for times and figures."""
    with socket.socket() as trying:
        if trying.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip("another coordinator of labgrid runs on this machine")
    ran = []
    for kind, text in BLOCK.findall(PAGE):
        if kind == "yaml" and "NetworkService" in text:
            (desk.home / "lab").mkdir()
            (desk.home / "lab" / "exported.yaml").write_text(text)
        elif kind == "sh":
            ran.append(text)
            code, told = desk.run(text, at_home=True)
            assert code == 0, f"{text}{told}"
            if "labgrid-coordinator" in text:
                begun(desk)
        elif kind == "console":
            for command, shown in said(text):
                ran.append(command)
                if command.startswith(HELD):
                    assert desk.run("labgrid-client -p orin-2 acquire")[0] == 0
                if command.startswith(DEAD):
                    boards["orin-1"].stop()
                code, told = desk.run(command)
                differ = missing(shown, told) if COMPARED not in command else []
                assert not differ, f"$ {command}\n{told}\nnot there: {differ}"
                assert (code != 0) == any("ERROR" in line for line in shown) or COMPARED in command, f"{command}: {code}\n{told}"
                if command.startswith(DEAD):
                    boards["orin-1"].start()
    assert len(ran) == PAGE.count("```sh\n") + len(re.findall(r"^\$ ", PAGE, re.MULTILINE)) >= 11
    assert len(desk.run("labgrid-client who")[1].splitlines()) == 1, "all boards are given back"


def begun(desk: Desk) -> None:
    """Wait until the lab has heard of both boards, as a person's next command comes later."""
    for _ in range(100):
        if desk.run("labgrid-client resources")[1].count("NetworkService") == 2:
            return
        time.sleep(0.2)
    raise AssertionError(desk.run("labgrid-client resources")[1])


def said(text: str) -> Iterator[tuple[str, list[str]]]:
    """Take a block of a console apart: each command, with the lines below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def missing(shown: Sequence[str], told: str) -> list[str]:
    """Return the lines of the page of which the output has no like."""
    lines = [" ".join(line.split()) for line in told.splitlines()]
    parts = (" ".join(ANOTHER.split(line)[0].split()) for line in shown if not set(line) <= set("- ."))
    return [part for part in parts if part and not any(line.startswith(part) for line in lines)]


def test_a_line_that_is_not_there_is_seen() -> None:
    told = "the lab has handed out orin-2 for board=orin\nsmall_cnn  fp32   8   8  ssh:orin-1  ok   0.04 0.3\n"
    assert missing(["the lab has handed out orin-2", "small_cnn fp32  8    8  ssh:orin-1  ok  0.05"], told) == []
    assert missing(["the lab has handed out orin-1"], told) == ["the lab has handed out orin-1"]
    assert missing(["inputs: seed 1532557488"], told) == ["inputs: seed"]
