"""A connection that answers from a list instead of from a probe, so that tests of a session take milliseconds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from plumbline.harness import messages
from plumbline.harness.devices import Peaks
from plumbline.harness.facts import Accuracy, Agreement, Counts, Energy, Latency, Outputs, Prepared, Work
from plumbline.harness.load import Loaded
from plumbline.harness.machine import Machine
from plumbline.harness.messages import Ask, Close, Count, Exited, Load, Message, Open, Response, Turn
from plumbline.harness.readings import Readings, read
from plumbline.harness.session.client import Connection
from tests.records import accuracy_of, counts_of, latency_of, prepared_of, replace

AGREEMENT = Agreement("float64", 8, "digits", 1.0, 0.0, 0.0, 0.0, 1e-6, 8e-6, 1e-6, 1.0)
WRONG = replace(AGREEMENT, error=1.0)


PEAKS = Peaks("a machine", "tests", {"fp32": 1e9, "bf16": 1e9, "fp16": 1e9, "int8": 4e9}, 1e9, 1_000_000)
MACHINE = Machine(id="fake", cpu_model="a processor", torch="2")


class FakeConnection(Connection):
    """Answers each request of a cell as told; `sent` holds the requests. `dies_at` is the question at which its process ends."""

    def __init__(
        self,
        *,
        prepared: Prepared | None = None,
        counts: Counts | None = None,
        agreement: Agreement = AGREEMENT,
        accuracy: Accuracy | None = None,
        latency: Latency | None = None,
        outputs: Outputs | None = None,
        memory: Readings | None = None,
        energy: Mapping[str, Energy] | None = None,
        load: Loaded | None = None,
        sources: Sequence[str] = (),
        work: Work | None = None,
        gpu: str | None = None,
        peaks: Peaks = PEAKS,
        peaks_anew: Peaks | None = None,
        machine: Machine = MACHINE,
        turn: Callable[[], float] = lambda: 1e-3,
        dies_at: str | None = None,
        ending: Iterable[Response] = (),
    ) -> None:
        super().__init__(io.BytesIO())
        self.sent: list[Message] = []
        self._facts: dict[str, Any] = {
            "prepared": prepared or prepared_of(parameters=100),
            "counts": counts or counts_of(),
            "agreement": agreement,
            "accuracy": accuracy or accuracy_of(None),
            "latency": latency or latency_of(),
            "outputs": outputs or Outputs([0.0], [0.0], 1.0),
            "load": load,
            "sources": list(sources),
            "work": work or Work("fp32", 1000, 1000.0, 400),
            "gpu": gpu,
            "peaks": peaks,
            "peaks_anew": peaks_anew or peaks,
            "energy": dict(energy or {}),
            "memory": cast(Readings, {"weights": read("byte", "model", 400), **(memory or {})}),
        }
        self._machine = machine
        self._turn, self._dies_at, self._ending = turn, dies_at, list(ending)
        self._slowed = 0.0
        self._lines: list[Response] = []

    def start(self) -> Machine:
        self.machine = self._machine
        return self.machine

    def launch(self) -> None:
        pass

    def send(self, message: Message) -> None:
        self.sent.append(message)
        asked = {Open: "prepared", Count: "counts", Close: "close", Turn: "turn", Load: "load"}.get(type(message), "")
        asked = message.question if isinstance(message, Ask) else asked
        if isinstance(message, Open):
            self._slowed = message.settings.slowed
        if asked == self._dies_at:
            self._lines += self._ending
        elif asked == "close":
            self._lines.append(Exited("cell"))
        else:
            self._lines.append(messages.answer(self._turn() * (1 + self._slowed) if asked == "turn" else self._facts[asked]))

    def receive(self) -> Response | None:
        return self._lines.pop(0) if self._lines else None

    def last_words(self) -> str:
        return "nothing"

    def asked(self) -> list[str]:
        """The questions that were asked of the cell's process, in order."""
        return [message.question for message in self.sent if isinstance(message, Ask)]
