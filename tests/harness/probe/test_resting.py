"""A resident process takes no processor while it is another one's turn."""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plumbline.harness.probe import process, threads
from plumbline.harness.probe.process import rest, run_forked
from tests.conftest import HOUR_S

STOPPED = "T"
pytestmark = pytest.mark.skipif(not process._has_pidfd(), reason="this kernel cannot watch a process by a file descriptor")


def spin() -> None:
    while True:
        pass


class Asker:
    """The session's end of the pipe, and the number of the process at the other one, once it has written that."""

    def __init__(self, folder: Path) -> None:
        self.read_end, self.write_end = os.pipe()
        self.file = folder / "number"

    def work(self) -> int:
        """Busy threads, then a rest, then what was asked."""
        threading.Thread(target=spin, daemon=True).start()
        self.file.with_suffix(".part").write_text(str(os.getpid()))
        self.file.with_suffix(".part").rename(self.file)
        codes: list[int] = []
        for _ in range(2):
            rest()
            codes += os.read(self.read_end, 1)
            self.file.with_suffix(f".{len(codes)}").touch()
        return codes[0] + codes[1]

    def state(self) -> tuple[str, int]:
        """Wait for the process; return its state and what it has had of processors, in ticks."""
        while not self.file.exists():
            time.sleep(0.001)
        fields = Path(f"/proc/{self.file.read_text()}/stat").read_text().rpartition(") ")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])

    def wait_until_it_rests(self) -> int:
        while (found := self.state())[0] != STOPPED:
            time.sleep(0.001)
        return found[1]

    def close(self) -> None:
        for end in (self.read_end, self.write_end):
            try:
                os.close(end)
            except OSError:  # a test has closed it
                continue


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    found = Asker(tmp_path)
    yield found
    found.close()


def beside(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_it_works_on_nothing_until_the_next_request(asker: Asker) -> None:
    ticks: list[int] = []

    def ask() -> None:
        for code in (b"\x03", b"\x04"):
            ticks.append(asker.wait_until_it_rests())
            time.sleep(0.1)  # in which a busy thread would have ten ticks
            ticks.append(asker.state()[1])
            os.write(asker.write_end, code)
            while not asker.file.with_suffix(f".{len(ticks) // 2}").exists():
                time.sleep(0.001)

    asking = beside(ask)
    assert run_forked(asker.work, "cell", HOUR_S, asker.read_end).code == 7, "both requests were read"
    asking.join()
    assert ticks[0] == ticks[1]
    assert ticks[2] == ticks[3]


def test_a_session_that_hangs_up_while_it_rests_ends_it(asker: Asker) -> None:
    def hang_up() -> None:
        asker.wait_until_it_rests()
        os.close(asker.write_end)

    hanging = beside(hang_up)

    # the child has a copy of the end that writes, as no child of a probe has
    def work() -> int:
        os.close(asker.write_end)
        return asker.work()

    with pytest.raises(SystemExit, match="hung up"):
        run_forked(work, "cell", HOUR_S, asker.read_end)
    hanging.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(asker.file.read_text()), 0)


def test_its_time_goes_on_while_it_rests(asker: Asker) -> None:
    end = run_forked(asker.work, "cell", 0.2, asker.read_end)
    assert end.timed_out


def test_where_nobody_would_wake_it_up_it_goes_on() -> None:
    def work() -> int:
        rest()
        return 5

    assert run_forked(work, "cell", HOUR_S).code == 5


def test_one_that_dies_in_its_rest_is_told_of(asker: Asker) -> None:
    def kill() -> None:
        asker.wait_until_it_rests()
        os.kill(int(asker.file.read_text()), signal.SIGKILL)

    killing = beside(kill)
    assert run_forked(asker.work, "cell", HOUR_S, asker.read_end).signal == "SIGKILL"
    killing.join()


@pytest.mark.parametrize(("turn", "processors"), [(0, [0, 1, 1]), (1, [1, 0, 0]), (2, [0, 1, 1])])
def test_threads_are_placed_by_the_number_of_the_turn_and_let_go(
    turn: int, processors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, free = os.getpid(), {0, 1, 7}
    placed: list[tuple[int, set[int]]] = []
    monkeypatch.setattr(threads, "allowed_processors", lambda: {0, 1})
    monkeypatch.setattr(threads, "worked_ns", lambda: {main: 1, main + 1: 1, main + 2: 1})
    monkeypatch.setattr(os, "sched_getaffinity", lambda task: free)
    monkeypatch.setattr(os, "sched_setaffinity", lambda task, mask: placed.append((task, set(mask))))
    threads.place(turn)
    expected = [[(main + number, {processor}), (main + number, free)] for number, processor in enumerate(processors)]
    assert placed == [each for pair in expected for each in pair]


def test_a_thread_that_is_bound_elsewhere_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[int] = []
    monkeypatch.setattr(threads, "allowed_processors", lambda: {0, 1})
    monkeypatch.setattr(threads, "worked_ns", lambda: {os.getpid(): 1})
    monkeypatch.setattr(os, "sched_getaffinity", lambda task: {5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda task, mask: placed.append(task))
    threads.place(0)
    assert not placed


def test_a_turn_waits_for_the_threads_of_the_one_before() -> None:
    done = threading.Event()

    def busy() -> None:
        zlib.crc32(bytes(200 << 20))  # without the interpreter's lock, so that it runs beside this thread
        done.set()

    thread = beside(busy)
    while not (done.is_set() or threads._runs(threads.TASKS / str(thread.native_id))):
        time.sleep(0.001)
    assert threads.settle(lambda: 0.0), "however long that takes on a busy machine"
    assert done.is_set()
    thread.join()


def test_one_that_never_rests_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(threads, "_runs", lambda task: task.name != str(os.getpid()))
    thread = beside(lambda: time.sleep(HOUR_S))  # there is one thread beside this one at least
    assert thread.is_alive()
    assert not threads.settle(lambda: now[0], sleep)
    assert now[0] >= threads.SETTLED_S
