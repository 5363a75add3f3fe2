"""What people see while they wait, on a terminal or in a log, and in which characters."""

from __future__ import annotations

import codecs
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from plumbline.texts import duration

INSTEAD = {"±": "+-", "×": "x", "≤": "<=", "≥": ">=", "µ": "u", "–": "-", "…": "..."}


def readable(stream: Any) -> None:
    """Let a text stream write what its encoding lacks in other characters, instead of raising UnicodeEncodeError.

    Such encodings are those of Windows' code pages, or of LC_ALL=C.
    """
    if hasattr(stream, "reconfigure"):  # pytest and others put their own in the place of a terminal
        stream.reconfigure(errors=NAME)


def _instead(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(INSTEAD.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


NAME = "plumbline"
codecs.register_error(NAME, _instead)


class Progress:
    """Say what goes on right now, on standard error.

    On a terminal in a line that is overwritten, and erased in the end; elsewhere, as in a log of CI, at once, and then once every
    `every_s` seconds at most, with the time since it began.
    """

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._text, self._began, self._printed_at = "", 0.0, -math.inf
        self._lock, self._over = threading.Lock(), threading.Event()

    def __call__(self, text: str) -> None:
        """Show a text; an empty one says that nothing goes on any more."""
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
            return
        with self._lock:
            if text and not self._text:
                self._began = self._clock()
                if self._began - self._printed_at >= self._every_s:
                    self._printed_at = self._began
                    print(f"... {text}", file=sys.stderr, flush=True)
            self._text = text

    def remind(self) -> None:
        """Say it again where that was long enough ago."""
        with self._lock:
            now = self._clock()
            if self._text and not sys.stderr.isatty() and now - self._printed_at >= self._every_s:
                self._printed_at = now
                print(f"... {self._text} (for {duration(now - self._began)} now)", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        threading.Thread(target=self._remind, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self("")

    def _remind(self) -> None:
        while not self._over.wait(self._every_s / 10):
            self.remind()
