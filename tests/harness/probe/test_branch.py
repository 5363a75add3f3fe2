"""A process that is ready for some kind of work, and is forked for each piece of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.probe.process import Branch
from tests.conftest import HOUR_S

HEAVY = "antigravity"  # a module that nobody else imports; it would open a browser
ENDLESS_S = 600


@pytest.fixture
def branch() -> Iterator[Callable[..., Branch]]:
    made: list[Branch] = []

    def make(prepare: Callable[[Any], None], work: Callable[[Any], int]) -> Branch:
        made.append(Branch(prepare, work))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_what_it_is_made_ready_with_is_there_once_and_not_here(branch: Callable[..., Branch], tmp_path: Path) -> None:
    def prepare(task: str) -> None:
        with (tmp_path / "prepared").open("a") as file:
            file.write(f"{HEAVY in sys.modules} ")
        sys.modules[HEAVY] = sys

    def work(task: str) -> int:
        (tmp_path / task).write_text(f"{HEAVY in sys.modules} {os.getppid()}")
        return 3

    ready = branch(prepare, work)
    ends = [ready.run(task, "job", HOUR_S) for task in ("a", "b")]
    assert [end.code for end in ends] == [3, 3]
    assert (tmp_path / "prepared").read_text() == "False True "
    assert HEAVY not in sys.modules
    told = {(tmp_path / task).read_text() for task in ("a", "b")}
    assert len(told) == 1, "both are forks of one process"
    assert told != {f"True {os.getpid()}"}


def test_the_time_of_the_work_is_limited_and_the_next_is_done(branch: Callable[..., Branch]) -> None:
    def work(seconds: float) -> int:
        time.sleep(seconds)
        return 0

    ready = branch(lambda task: None, work)
    assert ready.run(ENDLESS_S, "job", 0.01).timed_out
    assert ready.run(0, "job", HOUR_S).code == 0


def test_where_it_dies_itself_the_next_work_gets_another(branch: Callable[..., Branch]) -> None:
    def prepare(task: int) -> None:
        if task:
            os.kill(os.getpid(), task)

    ready = branch(prepare, lambda task: 0)
    assert ready.run(0, "job", HOUR_S).code == 0
    assert ready.run(signal.SIGKILL, "job", HOUR_S).signal == "SIGKILL"
    assert ready.run(0, "job", HOUR_S).code == 0


def test_asked_to_stop_it_ends_what_it_runs(branch: Callable[..., Branch], tmp_path: Path) -> None:
    def work(task: None) -> int:
        (tmp_path / "number").write_text(str(os.getpid()))
        (tmp_path / "number").rename(tmp_path / "running")
        time.sleep(ENDLESS_S)
        return 0

    ready = branch(lambda task: None, work)
    waiting = threading.Thread(target=ready.run, args=(None, "job", HOUR_S), daemon=True)
    waiting.start()
    while not (tmp_path / "running").exists():
        time.sleep(0.01)
    number = int((tmp_path / "running").read_text())
    os.kill(ready._child or 0, signal.SIGTERM)  # as `close` does
    waiting.join()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
