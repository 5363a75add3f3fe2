"""The probe's end of the pipe: typed lines over two file descriptors."""

from __future__ import annotations

import os

from plumbline.harness import messages
from plumbline.harness.messages import Message, Progress, Request
from plumbline.harness.probe.listener import listened


class Channel:
    """Reads requests and writes responses.

    A forked process reads on from the same pipe: the session sends no request before the last one has ended, and no question
    before the last one was answered, so nothing is read too far.
    """

    def __init__(self, read: int, write: int) -> None:
        self.read_end, self.write_end = read, write
        self._rest = b""

    def receive(self) -> Request | None:
        """Read the next request; None at the end of the stream. Raises BadMessage."""
        while b"\n" not in self._rest:
            part = os.read(self.read_end, 1 << 16)
            if not part:
                return None
            self._rest += part.replace(messages.BEAT, b"")  # where there is no listener to leave them out
        line, _, self._rest = self._rest.partition(b"\n")
        return messages.request(line)

    def send(self, message: Message) -> None:
        """Write one line."""
        self.write(messages.encode(message))

    def write(self, data: bytes) -> None:
        """Write one line of JSON, all of it."""
        data += b"\n"
        while data:
            data = data[os.write(self.write_end, data) :]

    def answer(self, fact: object) -> None:
        """Answer a request with a fact."""
        self.send(messages.answer(fact))

    def end_line(self) -> None:
        """Close a line that was cut off in the middle, if there is one."""
        os.write(self.write_end, b"\n")

    def progress(self, text: str) -> None:
        """Say what goes on."""
        self.send(Progress(text))

    @classmethod
    def over_stdio(cls, silence_s: float | None = None) -> Channel:
        """Take stdin and stdout for the protocol; what anybody prints goes to stderr from now on.

        A session that is silent for `silence_s` seconds is taken for gone.
        """
        channel = cls(os.dup(0) if silence_s is None else listened(0, silence_s), os.dup(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        return channel
