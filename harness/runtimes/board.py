"""The probe's end of the pipe to an agent (agent/plumbline_agent.py) on a board that cannot run the harness."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from plumbline.files import sha256
from plumbline.harness import messages
from plumbline.harness.lock import SESSION, Busy
from plumbline.harness.machine import Capabilities, Machine, identified
from plumbline.harness.outcomes import CRASHED, UNAVAILABLE, CellEnded
from plumbline.harness.readings import Readings

AGENT = 1  # the version of the agent's messages that this probe speaks
VARIABLE = "PLUMBLINE_AGENT"  # the command that starts it, for every process of a probe that has one
ADVICE = "copy agent/plumbline_agent.py of this revision to the board"
GIVE_UP_S = 10.0


class _Message(Struct, frozen=True, tag_field="type", tag=True):
    body: int = 0  # bytes that follow the line


class Hello(_Message, frozen=True):
    """What an agent says first. `cuda` is why there is no CUDA device, `backends` the versions of what executes there."""

    agent: int = 0
    machine: dict[str, Any] = {}
    cuda: str | None = None
    backends: dict[str, dict[str, Any]] = {}


class Answer(_Message, frozen=True):
    """What a request asked for."""

    value: Any = None


class Ended(_Message, frozen=True):
    """Why there is no answer."""

    outcome: str = CRASHED
    reason: str = ""
    axis: str | None = None


class Part(Struct, frozen=True):
    """A layer as TensorRT has built it; `outputs` are the dimensions of what it returns."""

    name: str
    operator: str
    multiplies: bool
    format: str
    outputs: list[int]


class Opened(_Message, frozen=True):
    """A file is loaded, and has inferred once, in `first_s` seconds. `tried` says why backends before this one did not."""

    backend: str = ""
    version: str = ""
    provider: str = ""
    first_s: float = 0.0
    threads: int | None = None
    tried: list[str] = []
    layers: list[Part] = []


class Outputs(_Message, frozen=True):
    """Outputs of one inference, float32, one after the other in the body; it took `seconds` there, with all around it."""

    shapes: list[list[int]] = []
    seconds: float = 0.0


class Samples(Struct, frozen=True):
    """Single inferences, in seconds, and the warm-up before them."""

    samples_s: list[float]
    warmup: int
    warmup_s: float
    steady: bool


class Timed(_Message, frozen=True):
    """What was timed there."""

    model: Samples = field(default_factory=lambda: Samples([], 0, 0.0, False))
    with_transfer: Samples = field(default_factory=lambda: Samples([], 0, 0.0, False))
    disturbance: Readings = {}
    telemetry: Readings = {}
    remarks: list[str] = []


_decoder = msgspec.json.Decoder(Hello | Answer | Ended | Opened | Outputs | Timed)
Kind = TypeVar("Kind", bound=_Message)


def named() -> list[str]:
    """Return the command that starts the agent of this probe; empty where it has none."""
    return shlex.split(os.environ.get(VARIABLE, ""))


class Board:
    """An agent that was started, and waits for requests. One request at a time."""

    def __init__(self, lock: tuple[float, str] | None = None) -> None:
        """Start it. With `lock`, it takes the lock of its machine: seconds to wait for it, and who. Raises CellEnded and Busy."""
        command = named()
        if not command:
            raise CellEnded(UNAVAILABLE, "no agent here; it runs at a place of targets.toml with agent = true", axis="runtime")
        # no sign of a shell in it: ssh makes one line of all its arguments
        holds = [] if lock is None else ["--lock", f"{lock[0]:g}", re.sub(r"[^\w@.-]", "_", lock[1].partition(SESSION)[0])]
        try:
            self._process = subprocess.Popen([*command, *holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise CellEnded(UNAVAILABLE, f"the agent does not start: {command[0]}: {error.strerror}", axis="target") from error
        try:
            self.hello = self._greeted()
        except BaseException:
            self.close()
            raise

    def _greeted(self) -> Hello:
        """Read the first line, of an agent whose version may be another."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise CellEnded(UNAVAILABLE, f"the agent does not start: exit code {code}; see what it wrote above", axis="target")
        try:
            greeting = json.loads(line)
            version = greeting["agent"]
        except (ValueError, KeyError, TypeError):
            greeting, version = {}, f"{line[:60]!r}"
        if version != AGENT:
            raise CellEnded(UNAVAILABLE, f"expected an agent of version {AGENT}, got {version}; {ADVICE}", axis="target")
        if greeting["type"] == "Busy":
            raise Busy(greeting["reason"])
        return self._decoded(line, Hello)

    def ask(self, type_: str, kind: type[Kind], body: Sequence[Any] = (), **fields: Any) -> tuple[Kind, bytes]:
        """Send a request, and return the answer with its body. Raises CellEnded, with the agent's own words."""
        assert self._process.stdin is not None and self._process.stdout is not None
        size = sum(memoryview(part).nbytes for part in body)
        request = {"type": type_, **fields, **({"body": size} if size else {})}
        with contextlib.suppress(BrokenPipeError):  # it is gone: what follows says so
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            for part in body:
                self._process.stdin.write(part)
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise CellEnded(CRASHED, "the connection to the agent was lost")
        answer = self._decoded(line, kind)
        data = self._process.stdout.read(answer.body)
        if len(data) != answer.body:
            raise CellEnded(CRASHED, "the connection to the agent was lost")
        return answer, data

    @staticmethod
    def _decoded(line: bytes, kind: type[Kind]) -> Kind:
        try:
            found = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CellEnded(CRASHED, f"the agent wrote something else than expected: {error}; {ADVICE}") from error
        if isinstance(found, Ended):
            raise CellEnded(found.outcome, found.reason, found.axis)
        if not isinstance(found, kind):
            raise CellEnded(CRASHED, f"expected {kind.__name__} of the agent, got {type(found).__name__}; {ADVICE}")
        return found

    def send_file(self, path: Path) -> str:
        """Send a file that is not there yet; returns its digest, by which it is named there."""
        digest = sha256(path)
        there, _ = self.ask("Has", Answer, sha256=digest)
        if not there.value:
            self.ask("File", Answer, [path.read_bytes()], sha256=digest)
        return digest

    def machine(self, exporter: str) -> Machine:
        """Return the fingerprint of its machine; what an agent cannot know is left out.

        `exporter` is the torch that exports the files: it decides on their operators, and so on how fast they are.
        """
        found = messages.convert(self.hello.machine, Machine)
        return identified(replace(found, libraries={**found.libraries, "torch.onnx": exporter}))

    def capabilities(self, others: Sequence[str]) -> Capabilities:
        """Tell what it can run: nothing by the `others`, runtimes that execute in a probe."""
        here = messages.convert(self.hello.machine, Machine)
        gone = dict.fromkeys(others, "a board with an agent runs ONNX files only: --runtime agent")
        return Capabilities(here.cpu_flags.split(), self.hello.cuda, gone, here.cpu_model, here.cores_allowed)

    def readings(self, what: str) -> Readings:
        """Read State, that of its machine, or Memory, that of what it runs."""
        answer, _ = self.ask(what, Answer)
        return messages.convert(answer.value, Readings)

    def close(self) -> None:
        """Hang up: it ends what it runs."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GIVE_UP_S)
        self._process.kill()
        self._process.wait()
