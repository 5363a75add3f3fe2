"""The session's end of the pipe: start a probe server, open a cell, ask it one question after the other. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any, TypeVar

from msgspec.structs import replace

from plumbline import PlumblineError
from plumbline.harness import devices, environment, messages, roofline, runtimes
from plumbline.harness.boot import BOOT
from plumbline.harness.cell import Cell, compares_with_parent
from plumbline.harness.devices import Peaks, UnknownDevice
from plumbline.harness.examination import Examination
from plumbline.harness.facts import (
    Accuracy,
    Agreement,
    Audit,
    Bound,
    Counts,
    Delivery,
    Energy,
    Latency,
    Layers,
    Outputs,
    Prepared,
    Promise,
    Work,
)
from plumbline.harness.load import Loaded, Scenario
from plumbline.harness.lock import Busy, of_session
from plumbline.harness.machine import Machine
from plumbline.harness.messages import (
    BEAT,
    PROTOCOL,
    Answer,
    Ask,
    Close,
    Compress,
    Contender,
    Count,
    Ended,
    Examine,
    Exited,
    Hello,
    Load,
    MeasureSpeed,
    Message,
    Open,
    Progress,
    Race,
    Response,
    Train,
    Trained,
    Turn,
)  # fmt: skip
from plumbline.harness.outcomes import CRASHED, OUT_OF_MEMORY, TIMED_OUT, UNAVAILABLE, CellEnded
from plumbline.harness.readings import Readings, read
from plumbline.harness.session import places
from plumbline.harness.session.places import Place
from plumbline.harness.settings import Settings
from plumbline.harness.speed import Speed
from plumbline.harness.statistics import paired_ratio
from plumbline.models import DENSE, Model
from plumbline.models.sources.outside import described
from plumbline.texts import not_started

PROBE = BOOT
WHO = of_session()
NEXT_LOCK_S = 10.0  # for a probe that takes the place of one which died: what that left behind may still hold the lock
RETURN_S = 90.0  # in which a place that was lost has to be back: a board boots in 40 to 60 s
GREETING_S = 120.0  # in which a probe elsewhere has to greet, beside what it waits for the lock
QUIET_S = 60.0  # beyond the time limit of a cell, after which a place elsewhere that says nothing hangs
RETRY_S = 5.0  # between two attempts to reach it
BEATS = 6  # in the time after which silence means that the session is gone
DELIVERY_S = 1.0  # of timing a variant and its dense parent, each: what is recorded is a ratio, and drift cancels in it
Found = TypeVar("Found")
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b|nothing was heard")  # the last line of a traceback, or of a listener
# The type of the answer to each question.
ANSWERS: dict[str, Any] = {
    "counts": Counts, "prepared": Prepared, "agreement": Agreement, "accuracy": Accuracy, "latency": Latency, "work": Work,
    "gpu": str | None, "sources": list[str], "peaks": Peaks, "peaks_anew": Peaks, "turn": float,
    "outputs": Outputs, "memory": Readings, "energy": dict[str, Energy], "layers": Layers, "audit": Audit,
    "race": list[Contender], "speed": Speed, "train": Trained, "compress": Promise,
    "load": Loaded, "examine": Examination,
}  # fmt: skip


CLOCK_S = 5.0  # by which a clock elsewhere may differ without a word


class NotDescribed(PlumblineError, LookupError):
    """A model from outside the registry that the probe does not find either."""


def describe(references: Sequence[str], command: Sequence[str] = PROBE) -> list[Model]:
    """Return what the probe says of models from outside the registry. Raises NotDescribed, with its words."""
    variables = environment.passed_on(os.environ)
    done = subprocess.run(
        [*command, "--describe", *references], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=variables
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    unknown = [line["unknown"] for line in lines if "unknown" in line]
    if unknown:
        raise NotDescribed("; ".join(unknown))
    if done.returncode != 0 or len(lines) != len(references):
        words = done.stderr.strip().splitlines()[-1:] or ["it wrote nothing"]
        raise NotDescribed(f"{references[len(lines)]!r} could not be looked at: {words[0]}")
    return [described(line["model"]) for line in lines]


class Connection:
    """A running `harness.probe.server` at a place, started when it is first needed and again after it died.

    With `lock_s`, it takes the lock of its place as `who`, and waits so many seconds for it; without, whoever asks has it. With
    `keep`, a folder of this machine, what a probe has prepared for cells is there for the next one.
    """

    def __init__(
        self,
        log: IO[bytes],
        command: Sequence[str] | None = None,
        progress: Callable[[str], None] = lambda text: None,
        *,
        place: Place | None = None,
        lock_s: float | None = None,
        who: str = WHO,
        keep: Path | None = None,
    ) -> None:
        self._keep = [] if keep is None else ["--keep", str(keep)]
        self.place = place or places.find("")
        self._log, self._command, self.progress = log, command, progress
        self.lock_s, self._who = lock_s, who
        self._process: subprocess.Popen[bytes] | None = None
        self._launched: datetime | None = None  # when it was, of a process that has not greeted yet
        self._ended = Event()  # the last one has
        self.code: int | None = None  # with which the last one ended by itself
        self.clock_ahead_s = 0.0  # of this machine's, at least; negative is behind; 0 where it may well be right
        self._said_before = 0  # bytes of the log, when the probe was started
        self.machine = Machine()
        self.gone: str | None = None  # why it is asked no more
        self.patience_s = GREETING_S + (lock_s or 0.0)  # after which a place elsewhere that says nothing hangs
        self._heard_at: float | None = None  # the last moment at which it said something; None while nobody waits for it
        self._hung = False
        self.watch: Callable[[Progress], None] = lambda now: self.progress(now.text)

    def start(self) -> Machine:
        """Start it if need be; returns its machine. Raises CellEnded where it does not start, and Busy.

        A place elsewhere that has answered once may have been rebooted: it is waited for. One that has not come back is gone:
        it is not asked again.
        """
        if self.gone is not None:
            raise CellEnded(UNAVAILABLE, self.gone, axis="target")
        try:
            return self._started()
        except CellEnded as end:
            if not self.machine.id or self.place.silence_s is None or end.outcome == UNAVAILABLE:
                raise
            return self._returned(end.reason)

    def _returned(self, reason: str) -> Machine:
        """Wait until a place that was lost answers again. Raises CellEnded where it does not, and Busy."""
        until = time.monotonic() + RETURN_S
        while (left := until - time.monotonic()) > 0:
            self.progress(f"{self.place.name} does not answer; waiting {left:.0f} s more for it to come back")
            time.sleep(min(RETRY_S, left))
            try:
                return self._started()
            except CellEnded as end:
                reason = end.reason
        self.gone = f"it was lost, and has not come back in {RETURN_S:g} s: {reason}"
        raise CellEnded(UNAVAILABLE, self.gone, axis="target")

    def _started(self) -> Machine:
        self.launch()
        if self._launched is not None:
            self.progress("starting the probe (importing torch)")
            self.machine = self._hello()
            self.lock_s = None if self.lock_s is None else max(self.lock_s, NEXT_LOCK_S + (self.place.silence_s or 0))
        return self.machine

    def launch(self) -> None:
        """Begin to start it if need be; `start` waits until it has."""
        if self._process is None:
            self._launch()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the lock of its place meanwhile, without a probe. Raises CellEnded where nothing starts there, and Busy."""
        if self.lock_s is not None:
            self._launch("--hold")
            self._hello()
        try:
            yield
        finally:
            self.close()

    def _launch(self, *arguments: str) -> None:
        silence_s = self.place.silence_s
        heard = [] if silence_s is None else ["--silence", f"{silence_s:g}"]
        lock = [] if self.lock_s is None else ["--lock", f"{self.lock_s:g}", self._who]
        self._said_before, self._launched = Path(self._log.name).stat().st_size, datetime.now(timezone.utc)
        command = self._starting(*heard, *arguments, *self._keep, *lock)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is for pytest, which then ends the probe in order
                env=environment.passed_on(os.environ),
            )
        except OSError as error:
            reason = f"the probe{self._where} did not start: {not_started(command, error)}"
            raise CellEnded(UNAVAILABLE, reason, axis="target") from error
        if silence_s is not None:
            self._ended = Event()
            Thread(target=self._beat, args=(self._process, silence_s / BEATS, self._ended), daemon=True).start()

    def _hello(self) -> Machine:
        """Wait for its greeting, and return its machine. Raises CellEnded where it does not start, and Busy."""
        assert self._launched is not None
        started, self._launched = self._launched, None
        hello = self._greeted()
        if hello.clock_s is not None:
            self.clock_ahead_s = ahead(hello.clock_s, started.timestamp(), datetime.now(timezone.utc).timestamp())
        return hello.machine

    def _starting(self, *arguments: str) -> list[str]:
        return self.place.starting(*arguments) if self._command is None else [*self._command, *arguments]

    def _greeted(self) -> Hello:
        """Read the first line of a probe, whose protocol may be another."""
        assert self._process is not None and self._process.stdout is not None
        self._hung, self._heard_at = False, time.monotonic()
        line = self._process.stdout.readline()
        self._heard_at = None
        try:
            greeting = json.loads(line) if line else None
        except json.JSONDecodeError:
            greeting = {}
        if greeting is None:
            code = self._process.poll()
            self.kill()
            raise CellEnded(CRASHED, f"the probe{self._where} did not start: {self.place.explain(self._said(), code)}")
        if isinstance(greeting, dict) and greeting.get("type") == "Busy":
            self.kill()
            raise Busy(f"{self.place.name}: {greeting.get('reason')}" if self.place.name else str(greeting.get("reason")))
        got = greeting.get("protocol") if isinstance(greeting, dict) else None
        if got != PROTOCOL:
            self.kill()
            advice = "install the same revision of plumbline for session and probe"
            raise CellEnded(UNAVAILABLE, f"expected a probe that speaks protocol {PROTOCOL}, got {got}; {advice}", axis="target")
        hello = messages.response(line)
        assert isinstance(hello, Hello), f"expected a Hello, got {line!r}"
        return hello

    def send(self, message: Message) -> None:
        """Write one line."""
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; the next receive says so
            self._process.stdin.write(messages.encode(message) + b"\n")
            self._process.stdin.flush()

    def receive(self) -> Response | None:
        """Read the next message that is not progress; None when the server is gone."""
        assert self._process is not None and self._process.stdout is not None
        self._heard_at = time.monotonic()
        for line in self._process.stdout:
            self._heard_at = time.monotonic()
            try:
                message = messages.response(line)
            except messages.BadMessage:
                continue  # a process was killed in the middle of its line; the server says next how it ended
            if not isinstance(message, Progress):
                self._heard_at = None
                return message
            self.watch(message)
        self._heard_at = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.code = self._process.wait(timeout=1)
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
        self._ended.set()
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

    def _beat(self, process: subprocess.Popen[bytes], every_s: float, ended: Event) -> None:
        """Let a probe hear that its session is there, whatever goes on here; end one of which too long nothing was heard."""
        assert process.stdin is not None
        while not ended.wait(every_s):
            heard_at = self._heard_at
            if heard_at is not None and time.monotonic() - heard_at > self.patience_s:
                self._hung = True
                process.kill()
            with contextlib.suppress(OSError, ValueError):  # it died; who waits for its answer says so
                process.stdin.write(BEAT)
                process.stdin.flush()

    @property
    def _where(self) -> str:
        return f" at {self.place.name}" if self.place.name else ""

    def _said(self) -> str:
        """Return what has been written to the log since the probe was started."""
        with Path(self._log.name).open("rb") as file:
            file.seek(self._said_before)
            return file.read().decode(errors="replace")

    def last_words(self) -> str:
        """Return the last line that the probe wrote to its log, or that it said nothing for too long."""
        if self._hung:
            return f"nothing was heard of it for {self.patience_s:g} s"
        lines = self._said().strip().splitlines()
        errors = [line for line in lines if ERROR.match(line)]  # libraries may say good-bye after it
        return (errors or lines or ["it wrote nothing"])[-1]


def ahead(there_s: float, asked_s: float, answered_s: float) -> float:
    """Return by how many seconds a clock is ahead at least, which was read between two moments; negative is behind.

    So the way there and back, and whatever took time there, make no difference. 0 is within CLOCK_S.
    """
    if there_s > answered_s + CLOCK_S:
        return there_s - answered_s
    return there_s - asked_s if there_s < asked_s - CLOCK_S else 0.0


def _realised(parent: Contender, variant: Contender) -> Delivery:
    reason = parent.reason or variant.reason
    if reason is not None:
        return Delivery(unavailable=reason)
    found = paired_ratio(parent.turns_s, variant.turns_s)
    return Delivery(found.median, found.interval, found.pairs)


class CellProbe:
    """A cell in its fresh process. Every question runs one step there; each can raise `CellEnded`.

    The process is started by the first question, so that a test decides when. `refusal` is raised instead, where
    the cell is known to be impossible; `accuracy` is what another batch of the same model has shown already.
    """

    def __init__(
        self,
        connection: Connection,
        cell: Cell,
        settings: Settings,
        *,
        refusal: CellEnded | None = None,
        accuracy: Accuracy | None = None,
    ) -> None:
        self.cell, self.settings = cell, connection.place.settings(settings)
        self.facts: dict[str, Any] = {}
        self.steps_s: dict[str, float] = {}
        self._refusal, self._known_accuracy = refusal, accuracy
        self.started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._started = time.perf_counter()
        self._connection = connection
        connection.patience_s = self.settings.time_limit_s + QUIET_S
        self._open = self._ended = False
        self.exit: Exited | None = None

    @property
    def seconds(self) -> float:
        """Wall time since it was made."""
        return time.perf_counter() - self._started

    def prepared(self) -> Prepared:
        """Build the model in its process; every other question does so first."""
        if "prepared" not in self.facts:
            self._start()
            compare = compares_with_parent(self.cell) and self._known_accuracy is None
            self.facts["prepared"] = self._await("prepared", Open(self.cell, self.settings, compare))
        return self.facts["prepared"]

    def counts(self) -> Counts:
        """Count. That needs no weights, so this question does not start the cell's process, where it has not started yet."""
        if "counts" not in self.facts and not self._open:
            self._start()
            self.facts["counts"] = self._await("counts", Count(self.cell, self.settings))
            self._open = False
        return self._ask("counts")

    def agreement(self) -> Agreement:
        """Compare its outputs with the float64 reference."""
        return self._ask("agreement")

    def accuracy(self) -> Accuracy:
        """Classify images; what another batch has shown is not measured again."""
        if self._known_accuracy is not None:
            self.facts["accuracy"] = self._known_accuracy
        return self._ask("accuracy")

    def latency(self) -> Latency:
        """Measured by `harness.probe.subject.Subject.latency`, by way of its QUESTIONS."""
        return self._ask("latency")

    def bound(self) -> Bound:
        """Return the least that its latency can be. What is timed in this machine's own processors is held to its measured peaks.

        Peaks that do not allow for the latency are measured again: they may have been disturbed. That takes memory: ask last.
        Raises BadDevices where the user's file of devices is wrong.
        """
        if "bound" not in self.facts:
            self.facts["bound"] = self._bound(self.latency(), self._asked_once("work"))
        return self.facts["bound"]

    def _bound(self, latency: Latency, work: Work) -> Bound:
        elsewhere = runtimes.find(self.cell.runtime).adapter.elsewhere
        if self.cell.device_kind != "cpu" or elsewhere:
            named = None if elsewhere else self._asked_once("gpu")
            try:
                if named is None and self.cell.device not in ("cpu", "cuda", "cuda:0"):
                    raise UnknownDevice(
                        f"a machine names its first GPU only, and this is {self.cell.device}; so no peak of it is known"
                    )
                says = named or self._connection.machine.accelerator
                device = devices.matching(says, self.cell.device_kind, devices.known(devices.of_user()))
            except UnknownDevice as reason:
                return Bound(work=work, missing=[str(reason)])
            return roofline.bound(work, device.peaks())
        found = roofline.bound(work, self._asked_once("peaks"))
        if found.allows(latency):
            return found
        return replace(roofline.bound(work, self._asked_once("peaks_anew")), measured_again=True)

    def turn(self, calls: int) -> float:
        """Take one turn of `harness.timing.interleave` in this resident process: the median of so many inferences, in seconds."""
        self.prepared()
        return self._await("turn", Turn(calls))

    def outputs(self) -> Outputs:
        """Fetch what it computes for the reference's pictures, for a comparison with another revision."""
        return self._ask("outputs")

    def sources(self) -> list[str]:
        """Return what it has loaded: files of its revision, from that one's folder, and `import NAME` of packages."""
        return self._ask("sources")

    def load(self, scenario: Scenario) -> Loaded:
        """Put the object that has qualified under a load; each time anew."""
        self.prepared()
        return self._await("load", Load(scenario))

    def memory(self) -> Readings:
        """Read `weights`, `inference`, `process_peak` and `process_base`, in bytes."""
        return self._ask("memory")

    def energy(self) -> dict[str, Energy]:
        """Ask each meter of energy what one inference of the process that takes turns takes."""
        return self._ask("energy")

    def layers(self) -> Layers | None:
        """Find out where the time goes; None unless the session was asked for that."""
        return self._ask("layers") if self.settings.layers else None

    def audit(self) -> Audit | None:
        """Time what should make no difference; None unless the session was asked for that."""
        return self._ask("audit") if self.settings.audit else None

    def promise(self) -> Promise | None:
        """Return what the variant says of itself; None of a dense net."""
        return self.prepared().promise

    def delivery(self) -> Delivery | None:
        """How much faster the variant is than its dense parent, timed in turns in one process; None of a dense net.

        The cell's own process ends before.
        """
        if self.promise() is None:
            return None
        if "delivery" not in self.facts:
            self.close()
            asked = time.perf_counter()
            parent = replace(self.cell, variant=DENSE)
            try:
                shortly = replace(self.settings, sampling_s=min(self.settings.sampling_s, DELIVERY_S))
                self.facts["delivery"] = _realised(*CellProbe(self._connection, parent, shortly).race([self.cell]))
            except CellEnded as end:  # its parent may not fit where it does
                self.facts["delivery"] = Delivery(unavailable=f"in turns with its dense parent: {end.outcome}, {end.reason}")
            self.steps_s["delivery"] = round(time.perf_counter() - asked, 4)
        return self.facts["delivery"]

    def race(self, others: Sequence[Cell]) -> list[Contender]:
        """Time the cell and others of its model in turns, in one process (harness/probe/race.py)."""
        self._start()
        return self._once("race", Race([self.cell, *others], self.settings))

    def close(self) -> None:
        """End the process and wait until it is gone."""
        if self._open:
            self._connection.send(Close())
            with contextlib.suppress(CellEnded):  # the server is gone, and the process with it
                while self._open:
                    self._receive()
        self._ended = True

    def _start(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        try:
            self._connection.start()
        except Busy as busy:  # what a lost connection has left behind there still measures
            raise CellEnded(CRASHED, str(busy)) from busy

    def _once(self, fact: str, request: Message) -> Any:
        """Ask what no process of a cell remains for."""
        answer = self._await(fact, request)
        self._open = False
        return answer

    def _asked_once(self, question: str) -> Any:
        """Ask what is no fact of its own in the record."""
        self.prepared()
        return self._await(question, Ask(question))

    def _ask(self, question: str) -> Any:
        if question not in self.facts:
            self.prepared()
            self.facts[question] = self._await(question, Ask(question))
        return self.facts[question]

    def _await(self, fact: str, request: Message) -> Any:
        if self._ended:
            raise CellEnded(CRASHED, f"asked for {fact}, but the process of this cell has ended")
        end: Ended | None = None
        asked = time.perf_counter()
        self._open = True
        self._connection.send(request)
        while True:
            message = self._receive()
            if isinstance(message, Answer):
                self.steps_s[fact] = round(time.perf_counter() - asked, 4)
                try:
                    return messages.decode(bytes(message.value), ANSWERS[fact])
                except messages.BadMessage as error:  # a number that is none, say
                    raise CellEnded(CRASHED, f"the answer to {fact} is not what was expected: {error}") from error
            if isinstance(message, Ended):
                end = message
            if isinstance(message, Exited):
                raise self._why(message, end, fact)

    def _receive(self) -> Response:
        message = self._connection.receive()
        if message is None:
            self._open, self._ended = False, True
            words = self._connection.last_words()
            raise CellEnded(CRASHED, f"{self._connection.place.lost(self._connection.code) or 'the probe server died'}: {words}")
        if isinstance(message, Exited):
            self._open, self._ended, self.exit = False, True, message
        return message

    def _why(self, exit: Exited, end: Ended | None, step: str) -> CellEnded:
        """Make a typed outcome of how the process ended, at which step."""
        jobs = {"count": "counting", "artefact": "building", "reference": "preparing the reference"}
        during = {**jobs, "parent": "classifying with the parent"}.get(exit.job, step)
        if exit.timed_out:
            return CellEnded(TIMED_OUT, f"{during} took it beyond the limit of {self.settings.time_limit_s:g} s")
        if exit.out_of_memory:
            return CellEnded(OUT_OF_MEMORY, f"killed by the kernel for memory during {during}")
        if end is not None and exit.job in ("train", "compress"):
            return CellEnded(end.outcome, end.reason, end.axis)
        if end is not None:
            limit = self.settings.memory_limit_bytes
            capped = f" (limit {limit} bytes)" if limit is not None and end.outcome == OUT_OF_MEMORY else ""
            return CellEnded(end.outcome, f"{during}: {end.reason}{capped}", end.axis)
        if exit.signal:
            return CellEnded(CRASHED, f"killed by {exit.signal} during {during}")
        return CellEnded(CRASHED, f"exit code {exit.code} during {during}: {self._connection.last_words()}")


def measured_speed(connection: Connection, settings: Settings) -> Speed:
    """Ask how fast torch is at a place. Raises CellEnded."""
    return _asked(connection, "speed", MeasureSpeed(settings))


def examined(connection: Connection, settings: Settings, device: str) -> Examination:
    """Hold the instruments of a place against known truths. Raises CellEnded."""
    return _asked(connection, "examine", Examine(settings, device))


def trained(connection: Connection, request: Train) -> Trained:
    """Train at a place, or go on with it. Raises CellEnded."""
    return _asked(connection, "train", request)


def compressed(connection: Connection, request: Compress) -> Promise:
    """Write a compressed net at a place. Raises CellEnded."""
    return _asked(connection, "compress", request)


def _asked(connection: Connection, fact: str, request: MeasureSpeed | Examine | Train | Compress) -> Any:
    """Ask what belongs to no cell's process; the folders are those of the place."""
    connection.start()
    probe = CellProbe(connection, NO_CELL, request.settings)
    if isinstance(request, Train | Compress):  # which take as long as they take
        connection.patience_s = math.inf
    return probe._once(fact, replace(request, settings=probe.settings))


NO_CELL = Cell("", DENSE, "eager", "fp32", 1, 1, "cpu")


def peak_of(exit: Exited | None) -> Readings:
    """Return what even a killed process leaves: the most that it held."""
    return (
        {} if exit is None or not exit.process_peak_bytes else {"process_peak": read("byte", "process", exit.process_peak_bytes)}
    )
