"""Work in a process of its own, and how that ended. No polling: the caller sleeps, so it takes no time from the work."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from plumbline.harness.machine import oom_kills
from plumbline.harness.messages import Exited
from plumbline.harness.probe.memory import maximum_resident_bytes

HANG_UP = getattr(select, "POLLRDHUP", 0)  # a socket's other end is closed, as POLLHUP says of a pipe's


def run_forked(work: Callable[[], int], job: str, time_limit_s: float | None, asker: int | None = None) -> Exited:
    """Fork, let the child do the work, and kill it when the time is up. `work` returns the child's exit code.

    `asker` is the file descriptor from which requests come: when its other end is closed meanwhile, as a connection to another
    machine was lost, the child is killed, too. Raises SystemExit then.
    """
    kills, started, timed_out = oom_kills(), time.monotonic(), False

    def first_to_be_killed() -> int:
        _be_the_first_to_be_killed_for_memory()
        return work()

    child = fork(first_to_be_killed)

    def kill(*_: Any) -> None:
        nonlocal timed_out
        timed_out = True
        with contextlib.suppress(ProcessLookupError):  # it ended by itself this very moment
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, time_limit_s or 0)
    try:
        _sleep(child, asker)
        _, status, usage = os.wait4(child, 0)
    except SystemExit:  # the caller was asked to stop, or nobody asks any more; it may remove what the child writes into
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended by itself this very moment
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    code = os.waitstatus_to_exitcode(status)
    return _ending(job, code, timed_out, oom_kills() > kills, time.monotonic() - started, maximum_resident_bytes(usage))


def _sleep(child: int, asker: int | None) -> None:
    """Sleep until a child has ended or nobody asks any more. Raises SystemExit then. Returns at once where Linux is too old."""
    if asker is None or not hasattr(os, "pidfd_open"):
        return
    try:
        ended = os.pidfd_open(child)
    except OSError:  # before Linux 5.3, or a container that forbids it
        return
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.register(asker, HANG_UP)  # POLLHUP is always told of
        if ended not in dict(waiting.poll()):
            sys.exit("the session has hung up, or was silent for too long")
    finally:
        os.close(ended)


def fork(work: Callable[[], int]) -> int:
    """Fork a child that does the work, and ends with what it returns. Returns its process number."""
    with warnings.catch_warnings():
        # numpy's OpenBLAS keeps a pool of threads and re-creates it after a fork; torch has started none
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:  # nothing may unwind from here into the caller's own code
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with_parent(signal.SIGKILL)
            code = work()
        finally:
            os._exit(code)
    return child


class Branch:
    """A process that makes itself ready for some kind of work, and is forked anew for each piece of it.

    What it imports for that is imported once, and lies in the memory of no process that is measured. `prepare` is called with
    every task before the fork, in the branch itself, and must start no thread; `work` after it, and returns an exit code.
    """

    def __init__(self, prepare: Callable[[Any], None], work: Callable[[Any], int], asker: int | None = None) -> None:
        self._prepare, self._work, self._asker = prepare, work, asker
        self._child: int | None = None

    def run(self, task: Any, job: str, time_limit_s: float | None) -> Exited:
        """As `run_forked`. Where the branch itself dies, the work did; the next one gets another branch."""
        started = time.monotonic()
        if self._child is None:
            self._pipe, child_end = multiprocessing.Pipe()
            self._child = fork(partial(self._serve, child_end))
            child_end.close()
        try:
            self._pipe.send((task, job, time_limit_s))
            found: Exited = self._pipe.recv()
        except (EOFError, OSError):
            self._pipe.close()
            _, status = os.waitpid(self._child, 0)
            self._child = None
            return _ending(job, os.waitstatus_to_exitcode(status), False, False, time.monotonic() - started, None)
        return found

    def _serve(self, pipe: Connection) -> int:
        self._pipe.close()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the fork that is at work ends first
        while True:
            try:
                task, job, time_limit_s = pipe.recv()
            except EOFError:
                return 0
            self._prepare(task)
            gc.freeze()
            pipe.send(run_forked(partial(self._work, task), job, time_limit_s, self._asker))

    def close(self) -> None:
        """End it, and what it runs."""
        if self._child is not None:
            os.kill(self._child, signal.SIGTERM)  # it is there, or waits for us to ask how it ended
            os.waitpid(self._child, 0)
            self._pipe.close()
            self._child = None


def run_spawned(command: list[str], job: str, pipe: tuple[int, int], time_limit_s: float | None) -> Exited:
    """Do the same where nothing can be forked: run a command, `pipe` being its stdin and stdout."""
    kills, started, timed_out = oom_kills(), time.monotonic(), False
    with subprocess.Popen(command, stdin=pipe[0], stdout=pipe[1]) as process:
        try:
            code = process.wait(time_limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            process.kill()
            code = process.wait()
        finally:
            process.kill()  # also when the caller was asked to stop
    return _ending(job, code, timed_out, oom_kills() > kills, time.monotonic() - started, None)


def _ending(job: str, code: int, timed_out: bool, memory_ran_out: bool, seconds: float, peak_bytes: int | None) -> Exited:
    """Say how a process ended; `code` is negative for a signal, as subprocess has it."""
    return Exited(
        job,
        code if code >= 0 else None,
        _signal_name(-code) if code < 0 else None,
        timed_out,
        code == -signal.SIGKILL and not timed_out and memory_ran_out,
        peak_bytes,
        seconds,
    )


def die_with_parent(by: signal.Signals) -> None:
    """Linux: have the kernel send this signal when the parent dies, so that nothing is left to disturb the next session."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


def _be_the_first_to_be_killed_for_memory() -> None:
    """Linux: rather this cell than the server or pytest (man 5 proc, oom_score_adj)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
