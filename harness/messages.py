"""Every line that a session and a probe exchange, typed and versioned: one definition for the two.

A line is one JSON object, tagged by `type`. The session sends a request and waits for what it leads to:

    session -> Count | Open | Race | MeasureSpeed | Examine | Train | Compress
    probe   -> Progress ..., then Answer, or Ended and Exited where it ended before
    session -> Ask, Turn, Load ...     after Open: what the test asks of the cell's process, one question at a time
    probe   -> Answer ...
    session -> Close                   the cell's process ends, and the server says how:
    probe   -> Exited

The first line of a probe is Hello, or Busy where another session measures at its place. The process of a cell owns the pipe
while it lives; the server reads nothing meanwhile. So no request is sent before the last one is answered.

A probe that was started with `--silence SECONDS` ends when it has heard nothing for so long. Its session sends a BEAT more often
than that, between or within the lines; no line holds one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from plumbline import PlumblineError
from plumbline.harness.cell import Cell
from plumbline.harness.load import Scenario
from plumbline.harness.machine import Machine
from plumbline.harness.readings import Readings
from plumbline.harness.settings import Settings

PROTOCOL = 4  # raised whenever an older session or probe would misread a line
BEAT = b"\0"
Found = TypeVar("Found")


class BadMessage(PlumblineError, ValueError):
    """A line that is no message of this protocol."""


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=True):
    """One line."""


class Count(Message, frozen=True):
    """Count the model of a cell. Answered by Counts."""

    cell: Cell
    settings: Settings


class Open(Message, frozen=True):
    """Start the process of a cell. Answered by Prepared."""

    cell: Cell
    settings: Settings
    compare_with_parent: bool = True


class Ask(Message, frozen=True):
    """Ask the cell's process one of `probe.subject.QUESTIONS`. Answered by what that question returns."""

    question: str


class Turn(Message, frozen=True):
    """Ask the cell's process for one turn of so many timed inferences. Answered by their median, in seconds."""

    calls: int


class Load(Message, frozen=True):
    """Put the cell's process under a load. Answered by Loaded."""

    scenario: Scenario


class Close(Message, frozen=True):
    """End the cell's process."""


class Race(Message, frozen=True):
    """Time cells of one model in turns, in one process. Answered by a list of Contender."""

    cells: list[Cell]
    settings: Settings


class MeasureSpeed(Message, frozen=True):
    """Find out how fast torch is at this place. Answered by Speed."""

    settings: Settings


class Examine(Message, frozen=True):
    """Hold the instruments of this place against known truths. Answered by Examination."""

    settings: Settings
    device: str


class Train(Message, frozen=True):
    """Train the model and variant of a cell, or go on with it. Answered by Trained.

    `changes` are fields of its recipe. `start` are weights to begin with, without their last layer where it gets a `new_head`.
    `device` is `cpu`, `cuda`, or None for the best that is there. `anew` forgets what an earlier training has left. `out` is a
    folder for a copy of the weights.
    """

    cell: Cell
    settings: Settings
    device: str | None = None
    changes: dict[str, Any] = {}
    start: str | None = None
    new_head: bool = False
    anew: bool = False
    out: str | None = None
    checkpoint_s: float = 60.0


class Compress(Message, frozen=True):
    """Write a compressed model to the file `out`. Answered by Promise."""

    cell: Cell
    settings: Settings
    out: str


Request = Count | Open | Ask | Turn | Load | Close | Race | MeasureSpeed | Examine | Train | Compress


class Hello(Message, frozen=True):
    """What a probe says first: its protocol, its machine, and what the clock there says, in seconds since 1970 UTC."""

    protocol: int
    machine: Machine
    clock_s: float | None = None


class Busy(Message, frozen=True):
    """What a probe says instead of Hello where somebody else measures there."""

    reason: str


class Progress(Message, frozen=True):
    """What goes on; of a training also the step that it is at, of how many, and whether that is the end of an epoch."""

    text: str
    step: int | None = None
    steps: int | None = None
    milestone: bool = False


class Answer(Message, frozen=True):
    """The answer to a request; its type follows from the request."""

    value: Raw


class Ended(Message, frozen=True):
    """The outcome of a cell that ended by itself, and the axis to blame."""

    outcome: str
    reason: str
    axis: str | None = None


class Exited(Message, frozen=True):
    """How the process of a job ended; `state_before` and `state_after` are readings of the machine around a cell."""

    job: str
    code: int | None = 0
    signal: str | None = None
    timed_out: bool = False
    out_of_memory: bool = False
    process_peak_bytes: int | None = None
    seconds: float = 0.0
    state_before: Readings = {}
    state_after: Readings = {}


Response = Hello | Busy | Progress | Answer | Ended | Exited


class Contender(Struct, frozen=True):
    """What became of a cell in a race.

    `turns_s` are the durations of its turns in seconds, the n-th of all cells being of one round; `reason` is why it was not
    timed.
    """

    reason: str | None = None
    turns_s: list[float] = []


class Trained(Struct, frozen=True):
    """A training that has ended: its record, where its weights are, and what is to be said of them.

    `copy` is a second file of them that was asked for, `usual` says whether benchmarks look for these weights, `floor` is the
    top-1 that the model has to reach, with its source. `before`: it had been trained before.
    """

    name: str
    record: dict[str, Any]
    weights: str
    copy: str | None
    usual: bool
    floor: float | None = None
    floor_source: str | None = None
    before: bool = False


def _encode_other(value: Any) -> Any:
    if isinstance(value, (Path, str)):  # torch's version is a subclass
        return str(value)
    raise NotImplementedError(f"no JSON for a {type(value).__name__}")


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no {kind.__name__} from JSON")


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)
_requests, _responses = (msgspec.json.Decoder(kind, dec_hook=_decode_path) for kind in (Request, Response))


def encode(value: Any) -> bytes:
    """Write a message, a record or a fact as JSON, without a line break. NaN and infinity become null."""
    return _encoder.encode(value)


def answer(value: Any) -> Answer:
    """Make an Answer of a fact."""
    return Answer(Raw(encode(value)))


def decode(line: bytes, kind: type[Found]) -> Found:
    """Read JSON as a type. Raises BadMessage, with the place in it, where it is something else."""
    return _read(msgspec.json.Decoder(kind, dec_hook=_decode_path), line)


def _read(decoder: msgspec.json.Decoder[Found], line: bytes) -> Found:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(str(error)) from error


def request(line: bytes) -> Request:
    """Read what a session sent. Raises BadMessage."""
    return _read(_requests, line)


def response(line: bytes) -> Response:
    """Read what a probe sent. Raises BadMessage."""
    return _read(_responses, line)


def convert(value: Any, kind: type[Found]) -> Found:
    """Make a typed value of plain lists and dicts. Raises BadMessage where they are something else."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise BadMessage(str(error)) from error


def plain(value: Any) -> Any:
    """Return a fact, message or record as plain lists and dicts."""
    return msgspec.json.decode(encode(value))


def schema(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type."""
    return msgspec.json.schema(kind, schema_hook=lambda kind: {"type": "string"})
