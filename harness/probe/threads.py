"""Which threads of this process have worked, and on which processors they may: Linux counts them, other systems do not tell."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from plumbline.harness.machine import allowed_processors

TASKS = Path("/proc/self/task")
LOOKS = ((0.003, 8), (0.02, 40))  # seconds after which an idle thread of OpenMP waits no longer busily, and calls
# After a call ONNX Runtime's threads wait busily for 50 ms, OpenMP's for 10 ms and OpenVINO's for 1 ms (docs/measuring.md).
SETTLED_S, LOOK_S = 0.2, 0.002
DISTURBING = 0.01  # share of the time that a thread of the model's own may take


class Workers:
    """Counts what each thread does from now on."""

    def __init__(self) -> None:
        self._before = worked_ns()

    def seconds(self) -> dict[int, float]:
        """Seconds on a processor since then, by thread; none of those that slept."""
        after = worked_ns()
        return {
            task: (spent - self._before.get(task, 0)) / 1e9 for task, spent in after.items() if spent > self._before.get(task, 0)
        }

    def remarks(self, expected: int, elapsed_s: float) -> list[str]:
        """Where less worked than was asked for, or something else beside it, in words."""
        seconds, found = self.seconds(), []
        processors = set().union(*(allowed(task) for task in seconds))
        if processors and len(processors) < expected:
            found.append(f"its threads may run on {len(processors)} of {expected} processors")
        for thread in threading.enumerate():
            spent = seconds.get(thread.native_id or 0, 0.0)
            if thread is not threading.main_thread() and spent > DISTURBING * elapsed_s:
                found.append(f"a thread of the model's own ({thread.name}) ran beside it, {spent / elapsed_s:.0%} of the time")
        return found


def worked_ns() -> dict[int, int]:
    """Nanoseconds that each thread of this process has had on a processor; empty where nobody counts."""
    found = {}
    for task in TASKS.iterdir() if TASKS.exists() else ():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        except (OSError, IndexError, ValueError):  # it has ended, or this kernel keeps no such statistics
            continue
    return found


def allowed(task: int) -> set[int]:
    """Return the processors on which a thread may run."""
    try:
        lines = (TASKS / str(task) / "status").read_text().splitlines()
    except OSError:  # it has ended
        return set()
    listed = next((line.partition(":")[2].strip() for line in lines if line.startswith("Cpus_allowed_list:")), "")
    ends = [part.partition("-") for part in listed.split(",") if part]
    return {number for low, _, high in ends for number in range(int(low), int(high or low) + 1)}


def settle(clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Sleep until no thread of this process but this one runs, for SETTLED_S at most; False where one still does.

    Another runtime's threads wait busily after its last call, and would take a processor from the one whose turn it is.
    """
    ends, own = clock() + SETTLED_S, threading.get_native_id()
    while any(_runs(task) for task in TASKS.glob("*") if task.name != str(own)):
        if clock() >= ends:
            return False
        sleep(LOOK_S)
    return True


def _runs(task: Path) -> bool:
    """Whether a thread has a processor, or waits for one (man 5 proc_pid_stat: the field behind the name in brackets)."""
    try:
        return (task / "stat").read_text().rpartition(") ")[2].startswith("R")
    except OSError:  # it has ended
        return False


def place(turn: int) -> None:
    """Put the threads of this process on its processors in an order that only the number of the turn decides, and let them go.

    Processors of a virtual machine are not alike: one of them may share its core with a stranger. Threads stay where they are, so
    that of two processes of the same code one would be slower for as long as its main thread is there. In the same turn both are
    placed alike, and each turn begins with another processor.
    """
    processors = sorted(allowed_processors())
    if len(processors) < 2 or not hasattr(os, "sched_setaffinity"):
        return
    main = os.getpid()
    for number, task in enumerate([main, *sorted(task for task in worked_ns() if task != main)]):
        # the second thread, and on two processors all others too, are beside the main one, never where it is
        offset = 0 if number == 0 else 1 + (number - 1) % (len(processors) - 1)
        try:
            usual = os.sched_getaffinity(task)
            if (processor := processors[(turn + offset) % len(processors)]) in usual:
                os.sched_setaffinity(task, {processor})
                os.sched_setaffinity(task, usual)
        except OSError:  # it has ended
            continue


def used(expected: int) -> int:
    """How many threads take part when torch shares out a sum; `expected` where nobody counts. Starts torch's pool.

    Looks a second time, and longer, before it says that some do not: a busy machine may have kept one from its share.
    """
    import torch

    numbers = torch.ones(expected << 18)
    powers = torch.exp(numbers)  # starts the threads
    found = 0
    for asleep_s, calls in LOOKS:
        time.sleep(asleep_s)  # the kernel counts what a thread has done when it stops, or at the next tick
        workers = Workers()
        for _ in range(calls):  # milliseconds, beside which it is little that the main thread alone does
            torch.exp(numbers, out=powers)
        time.sleep(asleep_s)
        seconds = workers.seconds()
        if not seconds:
            return expected
        found = max(found, min(expected, sum(spent > max(seconds.values()) / 4 for spent in seconds.values())))
        if found == expected:
            break
    return found
