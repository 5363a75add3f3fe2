"""A process between a session elsewhere and the server, for a connection that is lost without a word.

A server cannot tell a session that has nothing to say from one that is gone. So a session elsewhere sends a beat every few
seconds, and the listener hangs up in its name when none has come for too long. Server and cells read from the listener's pipe.
They get no beats, so that none wakes a process which is timed.
"""

from __future__ import annotations

import os
import select
from functools import partial

from plumbline.harness.messages import BEAT
from plumbline.harness.probe.process import fork


def listened(read: int, silence_s: float) -> int:
    """Fork a listener to a file descriptor; returns the one to read from in its place. It ends with this process.

    That one comes to its end when the session hangs up, or is silent for so many seconds.
    """
    heard, passed_on = os.pipe()
    fork(partial(_listen, read, heard, passed_on, silence_s))
    os.close(passed_on)
    return heard


def _listen(read: int, heard: int, write: int, silence_s: float) -> int:
    for other in (heard, 1):  # what this process holds, nobody sees closed
        os.close(other)
    waiting = select.poll()
    waiting.register(read, select.POLLIN)
    while waiting.poll(silence_s * 1e3):
        data = os.read(read, 1 << 16)
        if not data:
            return 0
        data = data.replace(BEAT, b"")
        while data:
            data = data[os.write(write, data) :]
    os.write(2, b"nothing was heard of the session for %g s; what runs here is ended\n" % silence_s)
    return 1
