"""Several boards in one session: a worker for each, one table, and what may happen to them. The boards replay a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

from plumbline.harness import journal, messages
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.plugin.fleet import EachBoard, Member, how_far, members
from plumbline.harness.plugin.share import Left
from plumbline.harness.session import client, places
from plumbline.harness.session.places import BadPlace, Place
from tests.conftest import HOUR_S, Run, command, where
from tests.records import replace

Bench = Callable[..., Run]
CELLS = ("--model", "small_cnn", "--runtime", "eager", "--precision", "fp32")
TIER = '[tier.default]\nsampling_s = 0.2\nwarmup_s = 0.02\nenergy_s = 0\n[[tier.default.cells]]\nmodel = ["small_cnn"]\n'


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, cache: Path, python: str) -> Path:
    """A run with one cell, which boards replay in a third of a second."""
    folder = tmp_path_factory.mktemp("recorded")
    matrix = folder / "matrix.toml"
    matrix.write_text(f'{TIER}batch = [1]\ntarget = ["cpu"]\n')
    done = subprocess.run(
        command(folder / "run", *CELLS, "--matrix", str(matrix), python=python),
        capture_output=True,
        text=True,
        **where(folder, cache),
    )
    assert done.returncode == 0, done.stdout
    (record,) = journal.read(folder / "run")
    (folder / "run" / journal.NAME).write_bytes(messages.encode(replace(record, steps_s={"latency": 0.3})) + b"\n")
    return folder / "run"


class Lab:
    """Boards that replay a run, each with a lock of its own; one that is down does not answer."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self._run, self._entries = folder, run, ""
        (folder / "matrix.toml").write_text(f'{TIER}batch = [1, 2, 3, 4, 5, 6, 7, 8]\ntarget = ["cpu"]\n')

    def board(self, name: str, down: bool = False, lasts: int | None = None) -> None:
        """Add one; it is down, or will be when it has answered so often."""
        if down:
            self.down(name)
        counts = "" if lasts is None else f"echo >>'{self._down(name)}.count'; "
        counts += "" if lasts is None else f"[ $(wc -l <'{self._down(name)}.count') -lt {lasts} ] || touch '{self._down(name)}'; "
        start = (
            f"test -e '{self._down(name)}' && {{ echo no route to it >&2; exit 1; }}; {counts}"
            f'PLUMBLINE_LOCK=\'{self.lock(name)}\' exec "$0" "$@"'
        )
        words = ["sh", "-c", start, sys.executable, "-m", "plumbline.harness.probe.replay", str(self._run)]
        self._entries += f"[place.{name}]\ncommand = {json.dumps(words)}\n"
        (self.folder / "targets.toml").write_text(self._entries)

    def down(self, name: str) -> None:
        """Let a board answer no more."""
        self._down(name).touch()

    def up(self, name: str) -> None:
        """Let it answer again."""
        self._down(name).unlink(missing_ok=True)

    def lock(self, name: str) -> Path:
        return self.folder / f"lock-{name}"

    def _down(self, name: str) -> Path:
        return self.folder / f"down-{name}"

    @property
    def options(self) -> list[str]:
        return [*CELLS, "--matrix", str(self.folder / "matrix.toml"), "--targets", str(self.folder / "targets.toml")]

    def probes(self) -> list[psutil.Process]:
        """The probes that run."""
        return [process for process in psutil.process_iter(["cmdline"]) if str(self._run) in (process.info["cmdline"] or [])]


@pytest.fixture
def lab(tmp_path: Path, recorded: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, recorded)
    yield made
    for probe in made.probes():
        probe.kill()


@pytest.fixture
def started(lab: Lab, tmp_path: Path, cache: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a session that is not waited for; it leads a group, as a shell's job does."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(tmp_path / "run", *lab.options, *options),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **where(tmp_path, cache),
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def written(run: Path, at_least: int) -> None:
    """Wait until the journals of a run have that many records."""
    until = time.monotonic() + HOUR_S
    while sum(path.read_bytes().count(b"\n") for path in run.glob(f"*/{journal.NAME}")) < at_least:
        assert time.monotonic() < until
        time.sleep(0.05)


def under_way(lab: Lab, started: Callable[..., subprocess.Popen[str]], run: Path) -> subprocess.Popen[str]:
    """Start a session on two boards that has kept three records."""
    lab.board("orin")
    lab.board("nano")
    session = started("--target", "orin,nano")
    written(run, 3)
    return session


def workers_of(session: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers of pytest-xdist."""
    return [child for child in psutil.Process(session.pid).children() if "exec(eval(" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_boards_are_measured_at_once_into_one_table(bench: Bench, lab: Lab, tmp_path: Path) -> None:
    lab.board("orin")
    lab.board("nano")
    junit, report = tmp_path / "junit.xml", tmp_path / "report.md"
    run = bench(*lab.options, "--target", "orin,nano", "--junitxml", str(junit), "--report", str(report))
    assert run.code == 0, run.output
    assert {path.name for path in journal.runs_in(run.folder)} == {"orin", "nano"}
    expected = {f"small_cnn-dense-eager-fp32-b{batch}-8px-{board}" for batch in range(1, 9) for board in ("orin", "nano")}
    assert set(run.records) == expected
    assert "16 records of 2 boards in" in run.output and "16 passed" in run.output
    assert sum(line.startswith("orin  [") for line in run.output.splitlines()) == 8, run.output
    assert len({record.session for record in run.records.values()}) == 2, "a pair is never made of two boards"
    assert len({record.settings.inputs_seed for record in run.records.values()}) == 1
    assert {case.get("name") for case in ElementTree.parse(junit).iter("testcase")} == {f"test_cell[{cell}]" for cell in expected}
    assert "orin" in report.read_text() and "nano" in report.read_text()
    assert not lab.probes(), "nothing is left running"


@pytest.mark.slow
def test_a_board_that_does_not_answer_costs_its_own_cells(bench: Bench, lab: Lab, tmp_path: Path) -> None:
    lab.board("orin")
    lab.board("nano", down=True)
    junit = tmp_path / "junit.xml"
    run = bench(*lab.options, "--target", "orin,nano", "--junitxml", str(junit))
    assert run.code == 1, run.output
    why = "target 'nano' does not answer as a probe: no route to it"
    assert Counter((record.cell.target, record.outcome, record.reason) for record in run.records.values()) == {
        ("orin", "ok", None): 8, ("nano", "unavailable", why): 8,
    }  # fmt: skip
    assert f"nano  {why}; its cells are unavailable" in run.output
    assert f"small_cnn-dense-eager-fp32-b1-8px-nano and 7 more: unavailable: {why}" in run.output
    assert "revisions of this project" not in run.output, "nothing of it was measured, by any revision"
    failures = [case.find("failure") for case in ElementTree.parse(junit).iter("testcase") if "nano" in str(case.get("name"))]
    assert len(failures) == 8 and all(why in str(failure.get("message")) for failure in failures if failure is not None)
    lab.up("nano")
    again = bench(*lab.options, "--target", "orin,nano", "--resume", str(tmp_path / "run"))
    assert again.code == 0, again.output
    assert {record.outcome for record in again.records.values()} == {"ok"} and len(again.records) == 16


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--plan", "--collect-only"])
def test_a_board_that_does_not_answer_is_named_where_nothing_runs(bench: Bench, lab: Lab, option: str) -> None:
    lab.board("orin")
    lab.board("nano", down=True)
    run = bench(*lab.options, "--target", "orin,nano", option)
    assert run.code == 1, run.output
    assert "target 'nano' does not answer as a probe: no route to it; its cells are unavailable" in run.output
    assert "small_cnn-dense-eager-fp32-b8-8px-orin" in run.output
    assert option != "--plan" or "8 cells to measure" in run.output
    alone = bench(*lab.options, "--target", "nano", option)
    assert alone.code == 4 and "ERROR: target 'nano' does not answer" in alone.output


@pytest.mark.slow
def test_a_board_on_which_no_probe_starts_costs_its_own_cells(bench: Bench, lab: Lab) -> None:
    """It says what it can run, and is gone then."""
    lab.board("orin")
    lab.board("nano", lasts=1)
    run = bench(*lab.options, "--target", "orin,nano")
    assert run.code == 1, run.output
    assert Counter((record.cell.target, record.outcome) for record in run.records.values()) == {
        ("orin", "ok"): 8, ("nano", "unavailable"): 8,
    }  # fmt: skip
    assert "nano  the probe at nano did not start: no route to it; its cells are unavailable" in run.output


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_one_cell_and_resuming_measures_it(
    bench: Bench, lab: Lab, started: Callable[..., Any], tmp_path: Path
) -> None:
    session = under_way(lab, started, tmp_path / "run")
    workers_of(session)[0].kill()
    output = session.communicate()[0]
    assert session.returncode == 1, output
    assert "its worker here has died (Not properly terminated); another takes its place" in output
    kept = [record for folder in journal.runs_in(tmp_path / "run") for record in journal.read(folder)]
    assert len(kept) == len({record.id for record in kept}) >= 15, "that of the cell in flight may be missing"
    assert "1 failed" in output
    run = bench(*lab.options, "--target", "orin,nano", "--resume", str(tmp_path / "run"))
    assert run.code == 0, run.output
    assert len(run.records) == 16
    again = bench(*lab.options, "--target", "orin,nano", "--resume", str(tmp_path / "run"))
    assert again.code == 0 and "orin  [" not in again.output, again.output


def test_a_board_that_is_lost_is_waited_for_and_then_given_up(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back once; the second time it does not, and is not asked again."""
    lab.board("orin")
    monkeypatch.setattr(places, "_known", dict(places._known))
    monkeypatch.setattr(client, "RETRY_S", 0.1)
    places.load(tmp_path / "targets.toml")
    said: list[str] = []

    def heard(text: str) -> None:
        said.append(text)
        if "does not answer" in text and len(said) < 6:
            lab.up("orin")

    with (tmp_path / "log").open("wb") as log:
        connection = client.Connection(log, progress=heard, place=places.find("orin"), lock_s=0.0)
        connection.start()
        lab.down("orin")
        connection.kill()
        connection.start()
        assert any("orin does not answer; waiting" in text for text in said)
        monkeypatch.setattr(client, "RETURN_S", 0.3)
        lab.down("orin")
        connection.kill()
        said += ["it is down for good"] * 6
        with pytest.raises(CellEnded, match=r"it was lost, and has not come back in 0.3 s: .*no route to it") as ended:
            connection.start()
        assert (ended.value.outcome, ended.value.axis) == ("unavailable", "target")
        lab.up("orin")
        with pytest.raises(CellEnded, match="has not come back"):
            connection.start()


def test_a_board_that_hangs_is_left(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.board("orin")
    monkeypatch.setattr(places, "_known", dict(places._known))
    places.load(tmp_path / "targets.toml")
    monkeypatch.setattr(places.find("orin"), "silence_s", 0.6)
    with (tmp_path / "log").open("wb") as log:
        connection = client.Connection(log, place=places.find("orin"), lock_s=0.0)
        connection.start()
        connection.patience_s = 0.3
        for probe in lab.probes():
            probe.suspend()
        connection.send(messages.Close())
        assert connection.receive() is None
        assert connection.last_words() == "nothing was heard of it for 0.3 s"


@pytest.mark.slow
def test_a_worker_that_fails_to_begin_ends_its_board_and_says_so(bench: Bench, lab: Lab, recorded: Path, tmp_path: Path) -> None:
    """A journal that cannot be read, and a table of what the other board has."""
    lab.board("orin")
    lab.board("nano")
    assert bench(*lab.options, "--target", "orin,nano", "-k", "b1-").code == 0
    journals = tmp_path / "run" / "orin" / journal.NAME
    journals.write_bytes(b"{broken\n" + journals.read_bytes())
    run = subprocess.run(
        command(tmp_path / "run", *lab.options, "--target", "orin,nano", "--resume", str(tmp_path / "run")),
        capture_output=True, text=True, **where(tmp_path, recorded.parent),
    )  # fmt: skip
    assert run.returncode == 1, run.stdout
    assert "orin  nothing more is measured there: " in run.stdout and "line 1: not a record" in run.stdout
    assert len(journal.read(tmp_path / "run" / "nano")) == 8
    assert "8 records of 2 boards" in run.stdout


@pytest.mark.slow
def test_an_internal_error_of_one_worker_ends_its_board_alone(
    bench: Bench, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.board("orin")
    lab.board("nano")
    (tmp_path / "broken.py").write_text(
        "import os\n"
        "def pytest_runtest_logstart(nodeid, location):\n"
        "    if os.environ.get('PYTEST_XDIST_WORKER') == 'nano' and 'b2-' in nodeid:\n"
        "        raise RuntimeError('a plugin is broken')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = bench(*lab.options, "--target", "orin,nano", "-p", "broken")
    assert run.code == 1, run.output
    assert "RuntimeError: a plugin is broken" in run.output
    assert "nano: its worker ended with exit code 3" in run.output
    assert Counter(record.cell.target for record in run.records.values()) == {"orin": 8, "nano": 1}


@pytest.mark.slow
def test_some_boards_of_a_run_are_resumed(bench: Bench, lab: Lab, tmp_path: Path) -> None:
    lab.board("orin")
    lab.board("nano")
    first = bench(*lab.options, "--target", "orin,nano", "-k", "b1-")
    assert first.code == 0, first.output
    run = bench(*lab.options, "--target", "orin", "--resume", str(tmp_path / "run"))
    assert run.code == 0, run.output
    assert len(run.records) == 9 and "orin  [7/7]" in run.output
    seeds = {record.settings.inputs_seed for record in run.records.values()}
    assert len(seeds) == 1 and f"inputs: seed {seeds.pop()} " in run.output


@pytest.mark.slow
def test_one_failure_ends_all_boards_where_that_is_wished(bench: Bench, lab: Lab) -> None:
    lab.board("orin")
    lab.board("nano", down=True)
    run = bench(*lab.options, "--target", "orin,nano", "-x")
    assert run.code == 2, run.output
    assert len(run.records) < 8, "the other board has stopped, too"
    assert "stopping after 1 failure" in run.output


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running_and_whole_records(
    bench: Bench, lab: Lab, started: Callable[..., Any], tmp_path: Path
) -> None:
    session = under_way(lab, started, tmp_path / "run")
    os.killpg(session.pid, signal.SIGINT)  # as a terminal does
    output = session.communicate()[0]
    assert session.returncode == 2, output
    assert not lab.probes()
    assert "evaluation matrix" in output, "what was measured is shown"
    run = bench(*lab.options, "--target", "orin,nano", "--resume", str(tmp_path / "run"))
    assert run.code == 0 and len(run.records) == 16, run.output


@pytest.mark.slow
def test_what_is_no_run_of_boards_is_said(bench: Bench, lab: Lab, recorded: Path) -> None:
    lab.board("orin")
    lab.board("nano")
    asked = (*lab.options, "--target", "orin,nano")
    used = bench(*asked, "--run-dir", str(recorded))
    assert used.code == 4 and "holds a run already; continue it with --resume" in used.output
    alone = bench(*asked, "--resume", str(recorded))
    assert alone.code == 4 and "expected a folder with a run of each board, got the run of one board" in alone.output
    nothing = bench(*asked, "--resume", str(lab.folder))
    assert nothing.code == 4 and "got no run" in nothing.output
    asks = bench(*asked, "--pdb")
    assert asks.code == 4 and "--pdb asks at one place" in asks.output
    failed = bench(*asked, "-p", "cacheprovider", "-o", f"cache_dir={lab.folder}/cache", "--lf")
    assert failed.code == 4 and "--lf and --sw know the cells of one board" in failed.output
    cell = bench(*asked, "benchmarks/test_cells.py::test_cell[mlp-dense-orin]")
    assert cell.code == 4 and "test_cell[mlp-dense-orin] is a cell of one board; expected one --target" in cell.output
    alone = bench(*asked, "-p", "no:xdist")
    assert alone.code == 4 and "several boards take pytest-xdist" in alone.output


@pytest.mark.slow
def test_a_plan_names_the_cells_of_all_boards(bench: Bench, lab: Lab) -> None:
    lab.board("orin")
    lab.board("nano")
    run = bench(*lab.options, "--target", "orin,nano", "--plan")
    assert run.code == 0 and "16 cells to measure" in run.output, run.output


def test_what_shares_a_machine_is_one_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_known", {**places._known, "bench": Place("bench", ("x",))})
    targets = [
        "cpu",
        "ssh:orin",
        "docker:a",
        "ssh:orin/docker:b",
        "like:jetson-nano",
        "like:jetson-nano/docker:a",
        "agent:ssh:orin",
        "bench@cuda",
        "bench",
        "cuda",
    ]
    assert {board.name: board.targets for board in members(targets)} == {
        "here": ["cpu", "docker:a", "like:jetson-nano", "like:jetson-nano/docker:a", "agent:ssh:orin", "cuda"],
        "ssh-orin": ["ssh:orin", "ssh:orin/docker:b"],
        "bench": ["bench@cuda", "bench"],
    }
    assert [board.name for board in members(["ssh:orin", "agent:ssh:orin", "agent:ssh:nano"])] == ["ssh-orin", "ssh-nano"]
    monkeypatch.setitem(places._known, "here", Place("here", ("x",)))
    with pytest.raises(BadPlace, match="two boards would both be 'here'"):
        members(["cpu", "here"])


def test_how_far_boards_are_fits_in_a_line() -> None:
    far = [
        Member("a", [], left=Left(1, 9, 30.0), doing=None),
        Member("b", [], left=Left(2, 9, 300.0), doing="cooling"),
        Member("c", []),
        Member("d", [], ended=True),
    ]
    assert how_far(far, 200) == "1 of 4 boards done; c: starting; b 2/9, 5 min left: cooling; a 1/9, 30 s left"
    assert how_far(far, 50) == "1 of 4 boards done; c: starting; and 2 more"


class Node:
    """What the scheduler knows of a worker."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def send_runtest_all(self) -> None:
        self.told.append("all")

    def shutdown(self) -> None:
        self.told.append("shutdown")


def test_a_board_waits_for_no_other() -> None:
    first, second, successor = Node(), Node(), Node()
    scheduler = EachBoard(2)
    for node in (first, second):
        scheduler.add_node(node)
    scheduler.add_node_collection(first, ["a", "b"])
    assert first.told == ["all", "shutdown"] and second.told == []
    for index in (0, 1):
        scheduler.mark_test_complete(first, index)
    first.workeroutput = {}  # type: ignore[attr-defined]
    assert scheduler.remove_node(first) is None and not scheduler.tests_finished
    scheduler.add_node_collection(second, ["c", "d", "e"])
    scheduler.mark_test_complete(second, 0)
    assert scheduler.remove_node(second) == "d", "in which it died"
    assert not scheduler.tests_finished, "another takes its place"
    scheduler.add_node(successor)
    scheduler.add_node_collection(successor, ["e"])
    successor.workeroutput = {}  # type: ignore[attr-defined]
    assert scheduler.remove_node(successor) is None and scheduler.tests_finished
