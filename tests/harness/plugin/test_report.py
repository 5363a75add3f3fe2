"""`pytest benchmarks/ --report FILE`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.harness.plugin.report import Report
from plumbline.harness.views.report import files
from plumbline.texts import size
from tests.conftest import Run, command, where
from tests.harness.studies.test_report import add
from tests.harness.studies.test_stored import run_of
from tests.records import cell_of, latency_of, record_of


class Terminal:
    def __init__(self) -> None:
        self.lines: list[tuple[str, bool]] = []

    def write_line(self, text: str, red: bool) -> None:
        self.lines.append((text, red))


def finish(report: Report, exitstatus: int = 0, **options: bool) -> tuple[int, list[tuple[str, bool]]]:
    """End a session; return its exit status and what was written, with whether that is red."""
    terminal, said = Terminal(), {"plan": False, **options}
    config = SimpleNamespace(
        option=SimpleNamespace(collectonly=said.pop("collectonly", False)),
        getoption=said.__getitem__,
        pluginmanager=SimpleNamespace(get_plugin=lambda name: terminal),
    )
    session: Any = SimpleNamespace(config=config, exitstatus=exitstatus)
    hook = report.pytest_sessionfinish(session)
    next(hook)
    assert terminal.lines == [], "the table comes first"
    with pytest.raises(StopIteration):
        hook.send(None)
    return int(session.exitstatus), terminal.lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    good, bad = record_of(latency=latency_of()), record_of(cell_of("resnet20"), outcome="failed", reason="RMS error 1")
    return run_of(tmp_path / "run", good, bad)


@pytest.mark.parametrize("found", [True, False])
def test_a_page_is_shown_where_that_is_asked_for(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return found

    monkeypatch.setattr("webbrowser.open", browser)
    out = tmp_path / "out.html"
    _, ((words, _),) = finish(Report(out, run, shown=True))
    assert opened == [out.as_uri()]
    assert words.endswith(", 2 cells" if found else f"no browser was found here; open {out.as_uri()}")
    finish(Report(out, run))
    assert len(opened) == 1, "unasked, none is"


@pytest.mark.parametrize(("given", "got"), [((), "none"), (("--report", "out.md"), "out.md")])
def test_only_a_page_is_shown(given: tuple[str, ...], got: str, tmp_path: Path, cache: Path) -> None:
    whole = command(tmp_path / "run", "--tier", "smoke", "--open-report", *given)
    done = subprocess.run(whole, capture_output=True, text=True, **where(tmp_path, cache))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert f"--open-report: expected a --report FILE.html, as a browser shows pages, got {got}" in done.stderr


def test_a_report_is_written_whatever_became_of_the_cells(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.md"
    code, ((words, red),) = finish(Report(out, run), exitstatus=1)
    assert (code, red) == (1, False)
    assert words == f"report: {out}: {size(out.stat().st_size)}, 2 cells"
    assert "1 of 2 cells passed all checks" in out.read_text()


def test_what_could_not_be_read_is_said(run: Path, tmp_path: Path) -> None:
    code, ((words, _),) = finish(Report(tmp_path / "out.md", add(run, "{\n")))
    assert code == 0 and words.startswith("run: line 3: not a record")


@pytest.mark.parametrize(("before", "after"), [(0, 1), (5, 1), (1, 1), (2, 2)])
def test_a_report_that_cannot_be_written_is_said_and_red(run: Path, before: int, after: int) -> None:
    code, ((words, red),) = finish(Report(run / "records.jsonl" / "out.md", run), exitstatus=before)
    assert (code, red) == (after, True)
    assert words.startswith("no report: ") and "cannot be written" in words


@pytest.mark.parametrize("options", [{"plan": True}, {"collectonly": True}])
def test_where_nothing_is_run_nothing_is_written(run: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    assert finish(Report(tmp_path / "out.md", run), **options) == (0, [])
    assert finish(Report(tmp_path / "out.md", tmp_path / "never begun"), exitstatus=4) == (4, [])
    assert not (tmp_path / "out.md").exists()


def test_what_cannot_be_made_is_refused_before_the_first_cell(tmp_path: Path, cache: Path, python: str) -> None:
    done = subprocess.run(
        command(tmp_path / "run", "--tier", "smoke", "--report", "out.pdf", python=python),
        capture_output=True, text=True, **where(tmp_path, cache),
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert "--report: 'out.pdf': expected a name that ends in .html, .md, .csv, .parquet, got '.pdf'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_the_option_nothing_of_the_extra_is_imported(tmp_path: Path, cache: Path) -> None:
    """The libraries of the extra would take half a second, and memory of a board; torch is the probe's alone."""
    code = (
        "import sys, pytest; code = pytest.main(sys.argv[1:]); "
        "print('imported:', sorted({'altair', 'vl_convert', 'itables', 'jinja2', 'polars', 'torch'} & set(sys.modules)))"
    )
    options = command(tmp_path / "run", "--tier", "smoke", "--plan")[3:]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, **where(tmp_path, cache))
    assert "imported: []" in done.stdout, done.stdout + done.stderr


def test_a_missing_extra_is_refused_before_the_first_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(files, "find_spec", nothing)
    with pytest.raises(
        pytest.UsageError, match=r"--report: .* takes polars, not installed here: pip install 'plumbline\[report\]'"
    ):
        Report(tmp_path / "out.csv", tmp_path)


@pytest.mark.slow
def test_a_session_writes_its_report_also_where_a_cell_failed(bench: Callable[..., Run], tmp_path: Path) -> None:
    run = bench("--tier", "smoke", "--model", "tests.faulty:GOOD,tests.faulty:RAISING", "--precision", "fp32", "--batch", "1",
                "--target", "cpu", "--report", str(tmp_path / "out.md"))  # fmt: skip
    assert run.code == 1, run.output
    assert f"report: {tmp_path / 'out.md'}: " in run.output.splitlines()[-1]
    text = (tmp_path / "out.md").read_text()
    assert "**1 of 2 cells passed all checks and were timed; 1 failed.**" in text and "this builder never builds" in text
