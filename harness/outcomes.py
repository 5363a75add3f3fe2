"""What became of a cell, and the exceptions that end one."""

from __future__ import annotations

from plumbline import PlumblineError

OK, FAILED, OUT_OF_MEMORY, TIMED_OUT, CRASHED = "ok", "failed", "out_of_memory", "timed_out", "crashed"
UNSUPPORTED, UNAVAILABLE = "unsupported", "unavailable"
OUTCOMES = (OK, FAILED, OUT_OF_MEMORY, TIMED_OUT, CRASHED, UNSUPPORTED, UNAVAILABLE)


def first_line(error: BaseException) -> str:
    """Return an exception's type and the first line of what it says, which some leave empty."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


class CellEnded(PlumblineError):
    """A cell that ended before it was measured.

    `axis` names the part of the cell that is to blame for `unsupported` and `unavailable`: a person who named it in
    an option wants an error, everybody else a skip.
    """

    def __init__(self, outcome: str, reason: str, axis: str | None = None) -> None:
        super().__init__(reason)
        self.outcome, self.reason, self.axis = outcome, reason, axis


class Unsupported(CellEnded):
    """What a library says that it cannot do, or is known not to do here: the cell is skipped, with this reason."""

    def __init__(self, reason: str, axis: str = "runtime") -> None:
        super().__init__(UNSUPPORTED, reason, axis)


class NotAsAsked(CellEnded):
    """What runs otherwise than it was asked to (precision, threads, options), and the library did not say so: the cell is red."""

    def __init__(self, reason: str) -> None:
        super().__init__(FAILED, reason)
