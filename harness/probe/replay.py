"""A probe that measures nothing: it answers as a run was answered, and takes as long.

`python -m plumbline.harness.probe.replay RUN` is the command of such a place. For what a session costs with many boards
(`plumbline overhead --targets`), and for tests of what may happen to them. It takes the arguments of a probe, and its lock.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from plumbline.harness import journal, machine
from plumbline.harness.cell import Cell
from plumbline.harness.devices import Peaks
from plumbline.harness.lock import Busy as Occupied
from plumbline.harness.lock import lock_machine
from plumbline.harness.machine import Capabilities
from plumbline.harness.messages import PROTOCOL, Ask, Busy, Close, Count, Ended, Exited, Hello, Open, encode
from plumbline.harness.nursery import die_with_parent
from plumbline.harness.outcomes import OK, UNAVAILABLE
from plumbline.harness.probe.channel import Channel
from plumbline.harness.record import Record

FACTS = ("prepared", "counts", "agreement", "accuracy", "latency", "memory", "layers", "audit")  # of a record, by their questions


class Replay:
    """Serves the cells of records, whatever the target; a batch that none of them has is answered as another one was."""

    def __init__(self, channel: Channel, records: list[Record]) -> None:
        self._channel = channel
        self._exactly = {replace(record.cell, target=""): record for record in records if record.outcome == OK}
        self._alike = {replace(cell, batch=0): record for cell, record in self._exactly.items()}
        self._machine = records[0].machine

    def serve(self) -> None:
        """Say hello, then serve until the end of the stream."""
        self._channel.send(Hello(PROTOCOL, self._machine, time.time()))
        cell: Record | None = None
        while (request := self._channel.receive()) is not None:
            if isinstance(request, Close):
                self._channel.send(Exited("cell"))
            elif isinstance(request, Ask) and cell is not None:
                self._answer(cell, request.question)
            elif isinstance(request, Count | Open) and (cell := self._found(request.cell)) is not None:
                self._answer(cell, "counts" if isinstance(request, Count) else "prepared")
            else:
                self._channel.send(Ended(UNAVAILABLE, "the run that is replayed has no answer to that"))
                self._channel.send(Exited("cell"))

    def _found(self, asked: Cell) -> Record | None:
        cell = replace(asked, target="")
        return self._exactly.get(cell) or self._alike.get(replace(cell, batch=0))

    def _answer(self, record: Record, question: str) -> None:
        time.sleep(record.steps_s.get(question, 0.0))
        self._channel.answer(getattr(record, question) if question in FACTS else _of_bound(record, question))


def _of_bound(record: Record, question: str) -> Any:
    """Answer what a session makes a bound of."""
    bound = record.bound
    if bound is None or bound.work is None or question == "gpu":
        return None
    if question == "work":
        return bound.work
    rate = {} if bound.macs_per_s is None else {"fp32": bound.macs_per_s, bound.work.precision: bound.macs_per_s}
    return Peaks(bound.device or "", bound.source or "", rate, bound.bytes_per_s, bound.cache_bytes)


def main(arguments: list[str]) -> int:
    """Replay the run in the first argument. Returns the exit code."""
    run, *rest = arguments
    records = journal.read(Path(run))
    channel = Channel.over_stdio(float(rest[rest.index("--silence") + 1]) if "--silence" in rest else None)
    if "--capabilities" in rest:
        here = machine.cpu_flags()
        channel.write(encode(Capabilities(sorted(here), "a replayed run", {}, machine.cpu_model(), machine.allowed_cpus())))
        return 0
    die_with_parent(signal.SIGTERM)
    if "--lock" in rest:
        wait_s, *who = rest[rest.index("--lock") + 1 :]
        try:
            held = lock_machine(float(wait_s), *who)
        except Occupied as busy:
            channel.send(Busy(str(busy)))
            return 1
    if "--hold" in rest:
        channel.send(Hello(PROTOCOL, records[0].machine))
        channel.receive()
    else:
        Replay(channel, records).serve()
    if "--lock" in rest:
        held.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
