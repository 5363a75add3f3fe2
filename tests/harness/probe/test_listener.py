"""A listener passes on what a session says, and hangs up when it says nothing."""

from __future__ import annotations

import subprocess
import sys
import time

from plumbline.harness.messages import BEAT

# Says all that it has heard, when nothing more comes.
SERVER = "import sys; from plumbline.harness.probe.listener import listened; print(open(listened(0, float(sys.argv[1]))).read())"


def server(silence_s: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SERVER, f"{silence_s:g}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_beats_keep_a_session_and_are_not_passed_on() -> None:
    with server(2.0) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for _ in range(12):  # longer than the silence
            process.stdin.write(BEAT)
            process.stdin.flush()
            time.sleep(0.25)
        process.stdin.write(b'{"type"' + BEAT + b': "Close"}\n')
        process.stdin.flush()
        assert process.stdout.read() == b'{"type": "Close"}\n\n', "its end is the silence: the pipe is open"
        assert process.stderr.read() == b"nothing was heard of the session for 2 s; what runs here is ended\n"


def test_a_session_that_hangs_up_is_not_waited_for() -> None:
    with server(3600.0) as process:
        assert process.communicate(b"{}\n") == (b"{}\n\n", b"")
