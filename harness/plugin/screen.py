"""What a session on one board writes: through pytest's own reporter."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import pytest

from plumbline.harness.plugin.share import Left
from plumbline.harness.views import terminal

SILENCE_S = 60.0  # after which a log is told that something still goes on


class Terminal:
    """Writes lines, and in a line that is overwritten what goes on right now."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._line_begun, self._printed_at = None, time.monotonic()

    def line(self, text: str) -> None:
        """Write a line. pytest starts a line with the file's name once; it is ended once, and not begun again."""
        reporter, self._printed_at = self._reporter, time.monotonic()
        if reporter is not None:
            if self._line_begun != reporter.currentfspath:
                self._line_begun = reporter.currentfspath
                reporter.write("" if reporter.isatty else "\n")
            erase = "\r\x1b[2K" if reporter.isatty else ""
            reporter.write(f"{erase}{text}\n", flush=True)

    def progress(self, text: str, first: bool) -> None:
        """Show what goes on right now.

        On a terminal in a line that is overwritten; elsewhere before the first cell, and where nothing else was said for a
        minute.
        """
        reporter, silent = self._reporter, time.monotonic() - self._printed_at > SILENCE_S
        if reporter is not None and reporter.isatty:
            capture = self._config.pluginmanager.get_plugin("capturemanager")
            with capture.global_and_fixture_disabled() if capture else nullcontext():  # a test is running
                reporter.write(f"\r\x1b[2K... {text}\r", flush=True)
        elif silent or (first and not text.startswith(("accuracy", "preparing"))):
            self.line(f"... {text}")

    def left(self, left: Left) -> None:
        """Do nothing: each line says it."""

    def refuse(self, error: Exception) -> None:
        """End the session, with the reason why nothing can be measured."""
        raise pytest.UsageError(str(error)) from error

    def abort(self, reason: str) -> None:
        """End the session in the midst of it."""
        pytest.exit(reason, returncode=int(pytest.ExitCode.INTERNAL_ERROR))

    def begin(self, session: pytest.Session) -> None:
        """Make what cannot be encoded readable."""
        if self._reporter is not None:
            terminal.readable(self._reporter._tw._file)

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")
