"""A board's share of a session on several: what its worker is told, and how it says what goes on."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from plumbline.harness import messages
from plumbline.harness.lock import SESSION, of_session

KEY = "plumbline"  # of ours in what pytest-xdist hands to a worker, and takes from it
STARTS = 2  # of a board's worker: one that dies has a successor, and that one has none
SAYS_S = 0.5  # between two words of a board on what it is doing


class Share(Struct, frozen=True):
    """What one board is to do. `done` are the tests that its workers before this one have ended; this is the `start`th.

    `session` names that of all boards, and `described` says of models from outside what the session has learned of them.
    """

    session: str
    board: str
    targets: tuple[str, ...]
    run_dir: Path
    inputs_seed: int
    start: int = 1
    done: tuple[str, ...] = ()
    described: dict[str, dict[str, Any]] = {}

    @property
    def who(self) -> str:
        """As the lock of a machine knows this worker, and no other one."""
        return of_session(f"{self.session}.{self.board}.{self.start}")

    def is_of_another(self, holder: str) -> bool:
        """Whether that is another board of this session: not this one, whose last worker may have left something behind."""
        ours = f"{SESSION}{self.session}."
        return ours in holder and f"{ours}{self.board}." not in holder


class Left(Struct, frozen=True):
    """How far a board is: tests done, of how many, and the seconds that the rest will take."""

    done: int
    of: int
    seconds: float


def of_worker(config: pytest.Config) -> Share | None:
    """Return the share of the worker that this process is; None where it is none of ours."""
    given = getattr(config, "workerinput", {}).get(KEY)
    return None if given is None else messages.convert(given["share"], Share)


class Wire:
    """Says to the session what its worker would have shown: lines, what goes on right now, and how far it is."""

    def __init__(self, config: pytest.Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock, self._said_at = config, clock, float("-inf")
        self._channel: Any = config.workerinput[KEY]["channel"]  # type: ignore[attr-defined]

    def _say(self, kind: str, what: Any) -> None:
        with contextlib.suppress(OSError):  # a session that is gone ends its workers; no cell has failed by that
            self._channel.send((kind, what))

    def line(self, text: str) -> None:
        """Say what is to stand on the screen for good."""
        self._say("line", text)

    def progress(self, text: str, first: bool) -> None:
        """Say what goes on right now."""
        if self._clock() - self._said_at >= SAYS_S:
            self._said_at = self._clock()
            self._say("progress", text)

    def left(self, left: Left) -> None:
        """Say how far this board is."""
        self._say("left", (left.done, left.of, left.seconds))

    def refuse(self, error: Exception) -> None:
        """End the worker, with the reason why nothing can be measured on its board; the others go on."""
        self.abort(str(error))

    def abort(self, reason: str) -> None:
        """As `refuse`, in the midst of it."""
        self._config.workeroutput[KEY] = reason  # type: ignore[attr-defined]
        pytest.exit(reason, returncode=int(pytest.ExitCode.USAGE_ERROR))

    def begin(self, session: pytest.Session) -> None:
        """Stop after the test that runs, where the session says so."""
        gc.freeze()  # pytest looks for garbage five times when it ends; what is here now is none

        def stop(reason: str) -> None:
            session.shouldstop = reason

        self._channel.setcallback(stop)
