"""`--report FILE`: the run of a session as a report, written when the session has ended, also where cells failed, and shown."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from plumbline import PlumblineError
from plumbline.harness.journal import runs_in


class Report:
    """Writes the report of a run directory."""

    def __init__(self, file: Path, run_dir: Path, shown: bool = False) -> None:
        """Raise UsageError where a report as that file cannot be made here."""
        from plumbline.harness.views.report import files

        self._file, self._run_dir, self._shown = file.absolute(), run_dir.absolute(), shown
        try:
            files.check([file])
        except files.NotWritten as error:
            raise pytest.UsageError(f"--report: {error}") from error

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Write it when the table has been shown, which is not lost then if the report cannot be made."""
        result = yield
        if not session.config.option.collectonly and not session.config.getoption("plan") and runs_in(self._run_dir):
            try:
                words, failed = self._write(), False
            except PlumblineError as error:
                words, failed = f"no report: {error}", True
            if failed and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            if (reporter := session.config.pluginmanager.get_plugin("terminalreporter")) is not None:
                reporter.write_line(words, red=failed)
        return result

    def _write(self) -> str:
        from plumbline.harness.studies.report import gather
        from plumbline.harness.views.report import files

        evidence = gather([self._run_dir])
        said = [*evidence.problems, "report: " + files.write(evidence, [self._file])[0]]
        return "\n".join(filter(None, [*said, files.show(self._file) if self._shown else ""]))
