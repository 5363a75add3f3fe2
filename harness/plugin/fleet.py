"""A session on several boards: pytest-xdist starts a worker for each, which runs all cells of its board; here is what they share.

A worker is a session of its own, with the journal RUN/BOARD, and none waits for another.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from plumbline.harness import journal, messages
from plumbline.harness.outcomes import OK
from plumbline.harness.plugin.bench import no_dot, preamble
from plumbline.harness.plugin.labs import can_be_several
from plumbline.harness.plugin.request import Request
from plumbline.harness.plugin.screen import SILENCE_S
from plumbline.harness.plugin.share import KEY, STARTS, Left, Share
from plumbline.harness.record import Record
from plumbline.harness.session import places
from plumbline.harness.target import HERE, Target
from plumbline.harness.views import table, terminal
from plumbline.texts import duration, number_of

ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.NO_TESTS_COLLECTED)
SHOWN_S = 0.5  # between two looks at how far they are


@dataclass
class Member:
    """One machine, the targets there, and how far its worker is."""

    name: str
    targets: list[str]
    run_dir: Path = Path()
    starts: int = 0
    done: list[str] = field(default_factory=list)  # node ids of the tests that have ended
    doing: str | None = "starting"
    left: Left | None = None
    ended: bool = False
    refused: str | None = None  # why nothing more is measured there
    seconds: float = 0.0
    channel: Any = None

    @property
    def says(self) -> str:
        """What it is doing, and how long it will."""
        far = "" if self.left is None else f" {self.left.done}/{self.left.of}, {duration(self.left.seconds)} left"
        return f"{self.name}{far}" + (f": {self.doing}" if self.doing else "")


def members(targets: Sequence[str]) -> list[Member]:
    """Return the machines of targets, in their order: what is measured on one of them is measured in turn. Raises BadPlace.

    A board with an agent keeps this machine busy, which prepares its cells; so where this one is measured, it comes after that.
    """
    found: dict[str, Member] = {}
    at = [places.find(Target.parse(target).place) for target in targets]
    here = any(place.machine == HERE for place in at)
    for target, place in zip(targets, at, strict=True):
        key = HERE if here and place.prepares_here else place.machine
        name = re.sub(r"[^\w.@-]", "-", key) or "here"
        found.setdefault(key, Member(name, [])).targets.append(target)
    names = [board.name for board in found.values()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise places.BadPlace(f"two boards would both be {twice.pop()!r}; give one of them another name in targets.toml")
    return list(found.values())


def is_of_fleet(request: Request) -> bool:
    """Whether a run is resumed that was of several boards; of some of them it may be now."""
    there = journal.runs_in(request.run_dir) if request.resume else []
    return bool(there) and request.run_dir not in there


class Fleet:
    """Starts a worker for each board, and shows what they say."""

    def __init__(self, config: pytest.Config, request: Request, found: Sequence[Member]) -> None:
        """Let pytest-xdist do it. Raises UsageError where it cannot, and where the folder holds another run."""
        can_be_several(config, request.run_dir)
        if not found:
            raise pytest.UsageError(f"--resume {request.run_dir}: it is a run of several boards; name them with --target")
        self.config, self.request, self.boards = config, request, list(found)
        for board in self.boards:
            board.run_dir = request.run_dir.absolute() / board.name
        there = journal.runs_in(request.run_dir)
        if request.resume and (not there or request.run_dir in there):
            kind = "the run of one board" if there else "no run"
            raise pytest.UsageError(f"--resume {request.run_dir}: expected a folder with a run of each board, got {kind}")
        config.option.dist = "each"
        config.option.maxworkerrestart = str(len(self.boards) * STARTS)  # of those that die before they can count
        config.option.tx = [f"popen//id={board.name}//board={number}" for number, board in enumerate(self.boards)]
        self._session = uuid4().hex[:8]
        self._width = max(len(board.name) for board in self.boards)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._began = self._printed_at = time.monotonic()
        self._failed = self._collected = 0
        self._kept: list[Record] | None = None
        self._unread: list[str] = []

    # -- the workers of pytest-xdist ----------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> EachBoard:
        return EachBoard(len(self.boards))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker its board's share."""
        board = self._of(node)
        board.starts, board.doing, board.left = board.starts + 1, "starting", None
        board.channel = node.gateway.newchannel()
        board.channel.setcallback(partial(self._said, board))
        seed = self.request.settings.inputs_seed
        share = Share(
            self._session,
            board.name,
            tuple(board.targets),
            board.run_dir,
            seed,
            board.starts,
            tuple(board.done),
            self.request.described,
        )
        node.workerinput[KEY] = {"share": messages.plain(share), "channel": board.channel}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._collected += len(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Say why a board measures nothing, and what it took where it has measured all."""
        board = self._of(node)
        board.seconds = time.monotonic() - self._began
        if error is not None:
            self._line(
                board, f"its worker here has died ({error})" + ("; another takes its place" if board.starts < STARTS else "")
            )
            return
        board.ended = True
        code, refused = node.workeroutput["exitstatus"], node.workeroutput.get(KEY)
        if refused is None and code not in ENDED:
            refused = f"its worker ended with exit code {code}"
        if refused is not None:
            board.refused = refused
            self._line(board, f"nothing more is measured there: {refused}")
            words = f"{board.name}: {refused}"
            report = pytest.TestReport(board.name, (board.name, None, board.name), {}, "failed", words, "setup")
            self.config.hook.pytest_runtest_logreport(report=report)

    def _broken(self, node: Any, formatted_error: str) -> None:
        """Show an internal error of a worker."""
        for line in formatted_error.splitlines():
            self._line(self._of(node), line)

    def _of(self, node: Any) -> Member:
        return self.boards[int(node.gateway.spec.board)]

    # -- what they report ---------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        node = getattr(report, "node", None)
        if node is not None and report.when not in ("setup", "call"):  # its end, or that of its worker
            self._of(node).done.append(report.nodeid)
        if report.failed and not hasattr(report, "wasxfail"):
            self._failed += 1
            if self._failed == self.config.getoption("maxfail"):
                self._stop(f"stopping after {number_of(self._failed, 'failure')}")

    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
        """No letter for a cell, or for a board: they have lines of their own."""
        if not hasattr(report, "node"):
            return "error", "", ""
        return no_dot(self.config, report)

    def _stop(self, reason: str) -> None:
        for board in self.boards:
            if board.channel is not None and not board.ended:
                with contextlib.suppress(OSError):  # its worker has just died
                    board.channel.send(reason)

    # -- what they say, each in a thread of execnet -------------------------------------------------------------

    def _said(self, board: Member, said: tuple[str, Any]) -> None:
        kind, what = said
        if kind == "left":
            board.left, board.doing = Left(*what), None
        elif kind == "progress":
            board.doing = what
        else:
            for line in filter(None, what.splitlines()):
                self._line(board, line)

    def _line(self, board: Member, text: str) -> None:
        self._write(f"{board.name:{self._width}}  {text}\n")

    def _write(self, text: str) -> None:
        reporter = self._reporter
        if reporter is not None:
            with self._lock:
                self._printed_at = time.monotonic()
                reporter.write(f"\r\x1b[2K{text}" if reporter.isatty else text, flush=True)

    def _show(self) -> None:
        """Show how far the boards are, those first that will take longest: overwritten on a terminal, seldom in a log."""
        while not self._over.wait(SHOWN_S):
            tty = self._reporter is not None and self._reporter.isatty
            if tty or time.monotonic() - self._printed_at > SILENCE_S:
                text = how_far(self.boards, shutil.get_terminal_size().columns - 1)
                self._write(f"{text}\r" if tty else f"... {text}\n")

    @property
    def _reporter(self) -> Any:
        return self.config.pluginmanager.get_plugin("terminalreporter")

    # -- beginning and ending -----------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self) -> None:
        # pytest-xdist would end the session of all boards; the worker that had it ends by itself, and says with which exit code
        distributed: Any = self.config.pluginmanager.get_plugin("dsession")
        distributed.worker_internal_error = self._broken
        if self._reporter is not None:
            terminal.readable(self._reporter._tw._file)
        for line in preamble(self.request, os.environ):
            self._write(f"{line}\n")
        for board in self.boards:
            self._line(board, ", ".join(board.targets))
        threading.Thread(target=self._show, daemon=True).start()

    def pytest_keyboard_interrupt(self) -> None:
        self._stop("interrupted")

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Any:
        result = yield
        self._over.set()
        records = self._records()
        measured = any(record.outcome == OK for record in records)
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and (self._collected or self.request.resume):
            session.exitstatus = pytest.ExitCode.OK  # the last to collect had nothing left, the others had
        unfinished = [board.name for board in self.boards if not board.ended]
        if session.exitstatus == pytest.ExitCode.OK and (unfinished or not measured or self._unread):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self._over.set()
        records = self._records()
        if records:
            terminalreporter.section("evaluation matrix")
            terminalreporter.write_line(table.matrix(records))
            took = ", ".join(f"{board.name} {duration(board.seconds)}" for board in self.boards if board.seconds)
            words = f"{number_of(len(records), 'record')} of {number_of(len(self.boards), 'board')} in {self.request.run_dir}"
            terminalreporter.write_line(f"{words} ({took})" if took else words)
        for board in self.boards:
            if board.refused is not None:
                terminalreporter.write_line(f"{board.name}: {board.refused}", red=True)
        for why in self._unread:
            terminalreporter.write_line(why, red=True)
        if unfinished := [board.name for board in self.boards if not board.ended]:
            terminalreporter.write_line(f"not measured to the end: {', '.join(unfinished)}", red=True)
        if not any(record.outcome == OK for record in records):
            terminalreporter.write_line("nothing was measured: no cell ended ok", red=True)

    def _records(self) -> list[Record]:
        """Read what is in the journals, once: that is what was kept. One that cannot be read costs its own records."""
        if self._kept is None:
            self._kept = []
            for folder in journal.runs_in(self.request.run_dir):
                try:
                    self._kept += journal.read(folder)
                except journal.RunError as error:
                    self._unread.append(str(error))
        return self._kept


def how_far(found: Sequence[Member], width: int) -> str:
    """Say in one line how far boards are, those first that will take longest."""
    running = [board for board in found if not board.ended]
    running.sort(key=lambda board: -math.inf if board.left is None else -board.left.seconds)
    text = f"{len(found) - len(running)} of {number_of(len(found), 'board')} done"
    for number, board in enumerate(running):
        rest = f"; and {len(running) - number} more"
        if len(text) + 2 + len(board.says) + len(rest) > width:
            return text + rest
        text += f"; {board.says}"
    return text


class EachBoard:
    """pytest-xdist's scheduler `each`, but a board begins when it has collected, and waits for no other.

    A worker in the place of one that died collects what that has left, and runs that.
    """

    collection_is_completed = False  # nothing is handed out later than with what a board collects
    has_pending = False

    def __init__(self, number: int) -> None:
        self._number, self._ended = number, 0
        self._left: dict[Any, list[str | None]] = {}  # of each worker: its tests by index; None where it has ended

    @property
    def nodes(self) -> list[Any]:
        return list(self._left)

    @property
    def tests_finished(self) -> bool:
        return self._ended == self._number

    def add_node(self, node: Any) -> None:
        self._left[node] = []

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        self._left[node] = list(collection)
        node.send_runtest_all()
        node.shutdown()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        self._left[node][item_index] = None

    def mark_test_pending(self, item: str) -> None:
        raise NotImplementedError("no test of a board is put back")

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        raise NotImplementedError("no test is taken from a board")

    def remove_node(self, node: Any) -> str | None:
        """Forget a worker; returns the test that it died in."""
        left = self._left.pop(node)
        if hasattr(node, "workeroutput"):  # it has ended by itself
            self._ended += 1
            return None
        return next(filter(None, left), None)

    def schedule(self) -> None:
        """Do nothing: see `add_node_collection`."""
