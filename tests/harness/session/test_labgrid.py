"""Boards out of a real labgrid lab on loopback, each a real sshd: handed out, given back, and the three holes of a lab."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from plumbline.harness.session import client, lab, places
from plumbline.harness.session.client import Connection
from plumbline.harness.session.session import REPOSITORY
from tests.conftest import Run, command, where
from tests.harness.session.test_elsewhere import SMALLEST, Server, needed, reached
from tests.lab import Lab

pytestmark = pytest.mark.slow
Bench = Callable[..., Run]
ORINS = {"orin-1": {"board": "orin", "gib": "4"}, "orin-2": {"board": "orin", "gib": "8"}}
SMALL = ("--tier", "smoke", "--model", SMALLEST.model, "--batch", "1", "--precision", "fp32", "--runtime", "eager")
US = "desk/ann"


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str) -> Iterator[dict[str, Server]]:
    """Two machines, and an ssh that knows them."""
    needed("labgrid")
    servers = {}
    for name in ORINS:
        folder = tmp_path / name
        (folder / "home").mkdir(parents=True)
        servers[name] = Server(folder, folder / "home", python, name)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with reached(tmp_path / "tools", servers) as path:
        monkeypatch.setenv("PATH", path)
        yield servers


@pytest.fixture
def labgrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boards: dict[str, Server]) -> Iterator[Lab]:
    """A lab of these two."""
    folder = tmp_path / "lab"
    folder.mkdir()
    monkeypatch.setattr(places, "_known", dict(places._known))
    for variable, value in zip(("LG_HOSTNAME", "LG_USERNAME"), US.split("/")):
        monkeypatch.setenv(variable, value)
    started = Lab(folder, ORINS)
    (tmp_path / "tools" / "labgrid-client").symlink_to(started.tools["labgrid-client"])
    monkeypatch.setenv("LG_COORDINATOR", started.address)
    yield started
    started.stop()


def begun(tmp_path: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    """A session that has begun to run, with more to do than a test waits for."""
    endless = tmp_path / "endless.toml"
    endless.write_text(
        f'[tier.smoke]\nsampling_s = 600\nmin_samples = 1000000000\n[[tier.smoke.cells]]\nmodel = ["{SMALLEST.model}"]\n'
    )
    said = (tmp_path / "said").open("w")
    return subprocess.Popen(
        command(tmp_path / "begun", "--matrix", str(endless), "--tier", "smoke", *options),
        stdout=said, stderr=said, text=True, **where(tmp_path, cache),
    )  # fmt: skip


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so, for a minute."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it has not become so in a minute")


def measured_on(server: Server) -> bool:
    """Whether somebody has the lock of a board."""
    try:
        FileLock(server.home / "lock", timeout=0).acquire().lock.release()
    except Timeout:
        return True
    return False


def test_a_board_is_handed_out_measured_and_given_back(labgrid: Lab, bench: Bench) -> None:
    run = bench(*SMALL, "--target", "lab:board=orin+gib=8")
    assert run.code == 0, run.output
    (record,) = run.records.values()
    assert (record.cell.target, record.outcome) == ("ssh:orin-2", "ok")
    assert "the lab has handed out orin-2 for board=orin gib=8" in run.output
    assert "orin-2 is given back to the lab" in run.output
    assert labgrid.holders == {}
    assert labgrid.client("reservations") == ""


def test_what_leaves_no_choice_comes_first_and_a_plan_takes_nothing(labgrid: Lab) -> None:
    said: list[str] = []
    taken = lab.Lab(said.append)
    assert taken.look_up(["lab:board=orin", "cpu"]) == ["ssh:orin-1", "cpu"]
    assert labgrid.holders == {}
    try:
        found = taken.hand_out(["lab:board=orin", "lab:board=orin@cuda", "lab:orin-1@cuda", "cpu"])
        assert found == ["ssh:orin-2", "ssh:orin-2@cuda", "ssh:orin-1@cuda", "cpu"]
        assert labgrid.holders == {"orin-1": US, "orin-2": US}
    finally:
        taken.close()
    assert labgrid.holders == {}


def test_a_killed_holder_keeps_its_place_and_nobody_measures_there(
    labgrid: Lab, boards: dict[str, Server], bench: Bench, tmp_path: Path, cache: Path
) -> None:
    """The first hole: the lab waits for ever, the lock is free, and the command that the session has printed frees the place."""
    session = begun(tmp_path, cache, "--target", "lab:orin-1")
    until(lambda: measured_on(boards["orin-1"]))
    session.send_signal(signal.SIGKILL)
    session.wait()
    until(lambda: not measured_on(boards["orin-1"]))
    assert labgrid.holders == {"orin-1": US}
    refused = bench(*SMALL, "--target", "lab:orin-1")
    assert f"no board with name=orin-1 is free: orin-1 is held by {US}" in refused.output, refused.output
    printed = re.search(r"should this session be killed: (.+)", (tmp_path / "said").read_text())
    assert printed is not None
    subprocess.run(shlex.split(printed[1]), check=True, capture_output=True)
    assert labgrid.holders == {}
    run = bench(*SMALL, "--target", "lab:orin-1", folder="again")
    assert run.code == 0, run.output


def test_a_restarted_coordinator_hands_a_board_out_twice_and_the_second_session_is_refused(
    labgrid: Lab, boards: dict[str, Server], bench: Bench, tmp_path: Path
) -> None:
    """The second hole: the lock on the board names who measures there; the lab does not know."""
    said: list[str] = []
    first = lab.Lab(said.append)
    with (tmp_path / "log").open("wb") as log:
        try:
            (target,) = first.hand_out(["lab:orin-1"])
            measuring = Connection(log, place=places.find(target), lock_s=0.0)
            measuring.start()
            labgrid.restart()
            assert labgrid.holders == {}
            refused = bench(*SMALL, "--target", "lab:orin-1")
            assert "the lab has handed out orin-1" in refused.output
            assert f"ssh:orin-1: another session ({client.WHO}, since " in refused.output
            assert refused.code == pytest.ExitCode.USAGE_ERROR
            measuring.close()
            run = bench(*SMALL, "--target", "lab:orin-1", folder="again")
            assert run.code == 0, run.output
        finally:
            measuring.close()
            first.close()
    assert said[-1].startswith("the lab had forgotten who has orin-1")


def test_a_dead_board_is_handed_out_and_given_back_with_the_reason(labgrid: Lab, boards: dict[str, Server], bench: Bench) -> None:
    """The third hole."""
    boards["orin-1"].stop()
    run = bench(*SMALL, "--target", "lab:orin-1")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "the lab has handed out orin-1" in run.output
    assert "target 'ssh:orin-1' does not answer as a probe: nothing listens for ssh there" in run.output
    assert "orin-1 is given back to the lab" in run.output
    assert labgrid.holders == {}


def test_the_step_of_ci_frees_what_a_killed_job_had(labgrid: Lab, tmp_path: Path) -> None:
    """As docs/lab.md has it; and it frees nothing that another job has."""
    page = (REPOSITORY / "docs" / "lab.md").read_text()
    step = textwrap.dedent(page.partition("  - if: always()\n    run: |\n")[2].partition("```")[0])
    labgrid.client("-p", "orin-1", "acquire")
    for user, left in (("bob", {"orin-1": US}), ("ann", {}), ("ann", {})):
        variables = {**os.environ, "LG_USERNAME": user}
        subprocess.run(["bash", "-euo", "pipefail", "-c", step], env=variables, check=True, capture_output=True)
        assert labgrid.holders == left


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_session_that_is_ended_gives_its_board_back(
    labgrid: Lab, boards: dict[str, Server], tmp_path: Path, cache: Path, end: signal.Signals
) -> None:
    """Ctrl-C, a job that is cancelled, a terminal that is closed."""
    session = begun(tmp_path, cache, "--target", "lab:board=orin")
    until(lambda: any(map(measured_on, boards.values())))
    assert len(labgrid.holders) == 1
    session.send_signal(end)
    assert session.wait(timeout=60) == pytest.ExitCode.INTERRUPTED
    assert labgrid.holders == {}
    assert not any(map(measured_on, boards.values()))
