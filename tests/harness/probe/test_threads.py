"""Threads: how many work, and which run beside."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from plumbline.harness.probe import threads


@pytest.mark.skipif(not threads.worked_ns(), reason="this system does not count what a thread works")
@pytest.mark.usefixtures("state")
def test_the_threads_that_work_are_counted() -> None:
    torch.set_num_threads(1)
    assert threads.used(2) == 1
    torch.set_num_threads(2)
    assert threads.used(2) == 2


@pytest.mark.skipif(not threads.worked_ns(), reason="this system does not count what a thread works")
def test_threads_that_share_one_processor_and_one_that_runs_beside_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            sum(range(1000))

    workers = threads.Workers()
    thread = threading.Thread(target=spin, name="tracker")
    thread.start()
    while workers.seconds().get(thread.native_id or 0, 0.0) < 0.02:
        time.sleep(0.001)
    monkeypatch.setattr(threads, "allowed", lambda task: {0})
    remarks = workers.remarks(expected=2, elapsed_s=0.1)
    done.set()
    thread.join()
    assert remarks[0] == "its threads may run on 1 of 2 processors"
    assert remarks[1].startswith("a thread of the model's own (tracker) ran beside it")
    assert threads.Workers().remarks(expected=2, elapsed_s=1e9) in ([], ["its threads may run on 1 of 2 processors"])
