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
from plumbline.harness.nursery import die_with_parent
from plumbline.harness.probe.memory import maximum_resident_bytes

HANG_UP = getattr(select, "POLLRDHUP", 0)  # a socket's other end is closed, as POLLHUP says of a pipe's
_parent: int | None = None  # in a child that its parent wakes up: the pipe in which it says that it stops itself


def run_forked(work: Callable[[], int], job: str, time_limit_s: float | None, asker: int | None = None) -> Exited:
    """Fork, let the child do the work, and kill it when the time is up. `work` returns the child's exit code.

    `asker` is the file descriptor from which requests come: when its other end is closed meanwhile, as a connection to another
    machine was lost, the child is killed, too. Raises SystemExit then.
    """
    kills, started, timed_out = oom_kills(), time.monotonic(), False
    resting, says = os.pipe()

    def first_to_be_killed() -> int:
        global _parent
        os.close(resting)
        _parent = says if asker is not None and _has_pidfd() else None
        _be_the_first_to_be_killed_for_memory()
        return work()

    child = fork(first_to_be_killed)
    os.close(says)

    def kill(*_: Any) -> None:
        nonlocal timed_out
        timed_out = True
        with contextlib.suppress(ProcessLookupError):  # it ended by itself this very moment
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, time_limit_s or 0)
    try:
        _sleep(child, asker, resting)
        _, status, usage = os.wait4(child, 0)
    except SystemExit:  # the caller was asked to stop, or nobody asks any more; it may remove what the child writes into
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended by itself this very moment
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.close(resting)
    code = os.waitstatus_to_exitcode(status)
    return _ending(job, code, timed_out, oom_kills() > kills, time.monotonic() - started, maximum_resident_bytes(usage))


def rest() -> None:
    """Stop this process with all its threads until the next request is there; called by the work of `run_forked`.

    Threads wait busily for more work: those of ONNX Runtime for 50 ms after a call, OpenMP's for 10 ms. So long they would take
    a processor from another process, whose turn it is. Does nothing where the parent could not wake this process up.
    """
    if _parent is not None:
        os.write(_parent, b"r")
        os.kill(os.getpid(), signal.SIGSTOP)


def _has_pidfd() -> bool:
    """Whether a process can be watched by a file descriptor: not before Linux 5.3, nor in a container that forbids it."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _sleep(child: int, asker: int | None, resting: int) -> None:
    """Sleep until a child has ended or nobody asks any more; a child that rests is woken up by the next request.

    Raises SystemExit where nobody asks any more. Returns at once where Linux is too old.
    """
    if asker is None or not _has_pidfd():
        return
    ended = os.pidfd_open(child)
    try:
        waiting, rests = select.poll(), False
        waiting.register(ended, select.POLLIN)
        waiting.register(asker, HANG_UP)  # POLLHUP is always told of
        waiting.register(resting, select.POLLIN)
        while ended not in (happened := dict(waiting.poll())):
            if happened.get(asker, 0) & ~select.POLLIN:
                sys.exit("the session has hung up, or was silent for too long")
            if rests and asker in happened:
                rests = False
                waiting.modify(asker, HANG_UP)
                os.kill(child, signal.SIGCONT)
            if resting in happened:
                if not os.read(resting, 1):  # it ends
                    waiting.unregister(resting)
                elif _stopped(child):
                    rests = True
                    waiting.modify(asker, select.POLLIN | HANG_UP)
    finally:
        os.close(ended)


def _stopped(child: int) -> bool:
    """Wait until a child has stopped itself; False where it ended instead, of which `wait4` has yet to be told."""
    state = os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if state is None or state.si_code != os.CLD_STOPPED:
        return False
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG)  # seen
    return True


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


def _be_the_first_to_be_killed_for_memory() -> None:
    """Linux: rather this cell than the server or pytest (man 5 proc, oom_score_adj)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
