"""The near side: start a probe server, open a cell, ask it one question after the other. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import IO, Any

from plumbline import PlumblineError, models
from plumbline.harness import environment
from plumbline.harness.boot import BOOT
from plumbline.harness.cell import Cell, compares_with_parent
from plumbline.harness.facts import Accuracy, Agreement, Counts, Delivery, Latency, Layers, Memory, Prepared, Promise
from plumbline.harness.outcomes import CRASHED, OUT_OF_MEMORY, TIMED_OUT, UNAVAILABLE, CellEnded
from plumbline.harness.protocol import PROTOCOL
from plumbline.harness.settings import Settings
from plumbline.harness.speed import Speed
from plumbline.harness.statistics import median_interval
from plumbline.models import DENSE

PROBE = BOOT
DELIVERY_S = 1.0  # of timing a variant and its dense parent, each: what is told is a ratio, and their moods are shared


class NotDescribed(PlumblineError, LookupError):
    """A model from outside the registry that the probe does not find either."""


def describe(references: Sequence[str], command: Sequence[str] = PROBE) -> list[models.Model]:
    """What the probe says of models from outside the registry. Raises NotDescribed, with its words."""
    told = subprocess.run([*command, "--describe", *references], capture_output=True, text=True, env=environment.kept(os.environ))
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    unknown = [line["unknown"] for line in lines if "unknown" in line]
    if unknown:
        raise NotDescribed("; ".join(unknown))
    if told.returncode != 0 or len(lines) != len(references):
        words = told.stderr.strip().splitlines()[-1:] or ["it wrote nothing"]
        raise NotDescribed(f"{references[len(lines)]!r} could not be looked at: {words[0]}")
    return [models.described(line["model"]) for line in lines]


class ProbeServer:
    """A running `plumbline.harness.probe.server`, started when it is first needed and again after it died."""

    def __init__(self, log: IO[bytes], command: Sequence[str] = PROBE, progress: Callable[[str], None] = lambda text: None):
        self._log, self._command, self.progress = log, command, progress
        self._process: subprocess.Popen[bytes] | None = None
        self.versions: dict[str, Any] = {}

    def start(self) -> dict[str, Any]:
        """Start it if need be; returns what it says of its torch."""
        if self._process is None:
            self.progress("starting the probe (importing torch)")
            # a session of its own: Ctrl-C is for pytest, which then ends the probe in order
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                env=environment.kept(os.environ),
            )
            line = self.receive()
            if line is None:
                raise CellEnded(CRASHED, f"the probe did not start: {self.last_words()}")
            if (got := line.get("protocol")) != PROTOCOL:
                self.kill()
                advice = "install the same revision of plumbline on both sides"
                words = f"expected a probe that speaks protocol {PROTOCOL}, got {got}; {advice}"
                raise CellEnded(UNAVAILABLE, words, axis="target")
            self.versions = line["hello"]
        return self.versions

    def send(self, **line: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; the next receive says so
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """The next line that is not progress; None when the server is gone."""
        assert self._process is not None and self._process.stdout is not None
        for text in self._process.stdout:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # a process was killed in the middle of its line; the server says next how it ended
            if "progress" not in line:
                return line
            self.progress(line["progress"])
        self.kill()
        return None

    def close(self) -> None:
        """Let the server finish: it stops at the end of its input and removes its scratch folder."""
        self._end(lambda process: process.stdin.close() if process.stdin else None)

    def kill(self) -> None:
        """End the server, and with it the process of a cell that may be running."""
        self._end(lambda process: process.terminate())

    def _end(self, ask: Callable[[subprocess.Popen[bytes]], None]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            ask(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        if hasattr(os, "killpg"):  # it leads a group of its own; nothing of it is left behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def last_words(self) -> str:
        """The last line that the far side wrote to its log."""
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


def _delivered(parent: dict[str, Any], variant: dict[str, Any]) -> Delivery:
    reason = parent["reason"] or variant["reason"]
    if reason is not None:
        return Delivery(unavailable=reason)
    ratios = sorted(theirs / ours for theirs, ours in zip(parent["turns_s"], variant["turns_s"], strict=True))
    interval = median_interval(ratios)
    return Delivery(median(ratios), None if interval is None else list(interval), len(ratios))


class Probe:
    """One cell in its fresh process. Every question runs one step there; each can raise `CellEnded`.

    The process is started by the first question, so that a test decides when. `refusal` is raised instead, where
    the cell is known to be impossible; `accuracy` is what another batch of the same model has shown already.
    """

    def __init__(
        self,
        server: ProbeServer,
        cell: Cell,
        settings: Settings,
        *,
        refusal: CellEnded | None = None,
        accuracy: dict[str, Any] | None = None,
    ) -> None:
        self.cell, self.settings = cell, settings
        self.facts: dict[str, Any] = {}
        self.steps_s: dict[str, float] = {}
        self._refusal, self._known_accuracy = refusal, accuracy
        self.started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._started = time.perf_counter()
        self._server = server
        self._open = self._ended = False
        self.exit: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def prepared(self) -> Prepared:
        """Build the model in its process; every other question does so first."""
        if "prepared" not in self.facts:
            if self._refusal is not None:
                raise self._refusal
            self._server.start()
            compare = compares_with_parent(self.cell) and self._known_accuracy is None
            self.facts["prepared"] = self._await(
                "prepared", cell=self.cell.as_json(), settings=self.settings.as_json(), compare_with_parent=compare
            )
        return Prepared(**self.facts["prepared"])

    def counts(self) -> Counts:
        """Counting needs no weights: this question does not start the cell's process, where it has not started yet."""
        if "counts" not in self.facts and not self._open:
            if self._refusal is not None:
                raise self._refusal
            self._server.start()
            self.facts["counts"] = self._await("counts", count=self.cell.as_json(), settings=self.settings.as_json())
            self._open = False
        return Counts(**self._ask("counts"))

    def agreement(self) -> Agreement:
        return Agreement(**self._ask("agreement"))

    def accuracy(self) -> Accuracy:
        if self._known_accuracy is not None:
            self.facts["accuracy"] = self._known_accuracy
        return Accuracy(**self._ask("accuracy"))

    def latency(self) -> Latency:
        """Measured by `harness.probe.subject.Subject.latency`, by way of its QUESTIONS."""
        return Latency.from_json(self._ask("latency"))

    def memory(self) -> Memory:
        return Memory(**self._ask("memory"))

    def layers(self) -> Layers | None:
        """Where the time goes; None unless the session was asked for that."""
        return Layers(**self._ask("layers")) if self.settings.layers else None

    def promise(self) -> Promise | None:
        """What the variant says of itself; None of a dense net."""
        told = self.prepared().promise
        return None if told is None else Promise(**told)

    def delivery(self) -> Delivery | None:
        """How much faster the variant is than its dense parent, timed in turns in one process; None of a dense net. The cell's
        own process ends before."""
        if self.promise() is None:
            return None
        if "delivery" not in self.facts:
            self.close()
            asked = time.perf_counter()
            parent = replace(self.cell, variant=DENSE)
            try:
                shortly = replace(self.settings, sampling_s=min(self.settings.sampling_s, DELIVERY_S))
                found = _delivered(*Probe(self._server, parent, shortly).race([self.cell]))
            except CellEnded as end:  # its parent may not fit where it does
                found = Delivery(unavailable=f"in turns with its dense parent: {end.outcome}, {end.reason}")
            self.facts["delivery"] = asdict(found)
            self.steps_s["delivery"] = round(time.perf_counter() - asked, 4)
        return Delivery(**self.facts["delivery"])

    def race(self, others: Sequence[Cell]) -> list[dict[str, Any]]:
        """Time the cell and others of its model in turns, in one process (harness/probe/race.py); all were prepared before."""
        cells = [cell.as_json() for cell in (self.cell, *others)]
        told = self._await("race", race=cells, settings=self.settings.as_json())
        self._open = False
        return told

    def speed(self) -> Speed:
        """How fast torch is on the far side, whatever the cell is. Raises `CellEnded`."""
        self._server.start()
        told = self._await("speed", speed=self.cell.as_json(), settings=self.settings.as_json())
        self._open = False
        return Speed(**told)

    def close(self) -> None:
        """End the process and wait until it is gone."""
        if self._open:
            self._server.send(ask="end")
            with contextlib.suppress(CellEnded):  # the server is gone, and the process with it
                while self._open:
                    self._receive()
        self._ended = True

    def _ask(self, step: str) -> dict[str, Any]:
        if step not in self.facts:
            self.prepared()
            self.facts[step] = self._await(step, ask=step)
        return self.facts[step]

    def _await(self, fact: str, **question: Any) -> Any:
        if self._ended:
            raise CellEnded(CRASHED, f"asked for {fact}, but the process of this cell has ended")
        end: dict[str, Any] | None = None
        asked = time.perf_counter()
        self._open = True
        self._server.send(**question)
        while True:
            line = self._receive()
            if "fact" in line:
                assert line["fact"] == fact, f"asked for {fact}, was told {line['fact']}"
                self.steps_s[fact] = round(time.perf_counter() - asked, 4)
                return line["value"]
            end = line.get("end", end)
            if "exit" in line:
                raise self._why(line["exit"], end, fact)

    def _receive(self) -> dict[str, Any]:
        line = self._server.receive()
        if line is None:
            self._open, self._ended = False, True
            raise CellEnded(CRASHED, f"the probe server died: {self._server.last_words()}")
        if "exit" in line:
            self._open, self._ended, self.exit = False, True, line["exit"]
        return line

    def _why(self, exit: dict[str, Any], end: dict[str, Any] | None, step: str) -> CellEnded:
        """A typed outcome from how the process ended, at which step."""
        jobs = {"count": "counting", "artefact": "building", "reference": "preparing the reference"}
        during = {**jobs, "parent": "classifying with the parent"}.get(exit["job"], step)
        if exit["timed_out"]:
            return CellEnded(TIMED_OUT, f"{during} took it beyond the limit of {self.settings.time_limit_s:g} s")
        if exit["out_of_memory"]:
            return CellEnded(OUT_OF_MEMORY, f"killed by the kernel for memory during {during}")
        if end is not None:
            limit = self.settings.memory_limit_bytes
            capped = f" (limit {limit} bytes)" if limit is not None and end["outcome"] == OUT_OF_MEMORY else ""
            return CellEnded(end["outcome"], f"{during}: {end['reason']}{capped}", end["axis"])
        if exit["signal"]:
            return CellEnded(CRASHED, f"killed by {exit['signal']} during {during}")
        return CellEnded(CRASHED, f"exit code {exit['code']} during {during}: {self._server.last_words()}")
