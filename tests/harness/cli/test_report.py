"""`plumbline report` as a person calls it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import polars
import pytest

from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report import files, pictures
from plumbline.harness.views.report.picture import Picture
from tests.harness.studies.test_report import a_gate, add
from tests.harness.studies.test_stored import plumbline, run_of
from tests.harness.views.report.test_static import CELLS_PICTURE
from tests.records import cell_of, latency_of, record_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    cells = [record_of(cell_of(name), latency=latency_of()) for name in ("mlp", "small_cnn")]
    return run_of(tmp_path / "run", *cells, record_of(cell_of("resnet20"), outcome="failed", reason="RMS error 1"))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that says what it was made of, in the place of the real one."""
    stub = ModuleType("plumbline.harness.views.report.page")

    def make(evidence: Evidence, drawn: list[Picture], title: str) -> str:
        return f"{title}: {len(evidence.rows)} cells, {len(drawn)} pictures"

    stub.page = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kind of picture."""
    kind = ModuleType("a_kind")
    kind.pictures = lambda evidence: [CELLS_PICTURE]  # type: ignore[attr-defined]
    monkeypatch.setattr(pictures, "KINDS", ("a_kind",))
    monkeypatch.setitem(sys.modules, f"{pictures.__name__}.a_kind", kind)


@pytest.mark.usefixtures("page", "drawn")
def test_a_file_for_each_ending(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it wrote and how large that is; what is there is written over."""
    out = [tmp_path / "new" / f"report{ending}" for ending in (".html", ".md", ".csv", ".parquet")]
    (tmp_path / "new").mkdir()
    out[0].write_text("old")
    assert plumbline("report", run, *(word for file in out for word in ("-o", file)), "--title", "Mine") == 0
    assert out[0].read_text() == "Mine: 3 cells, 1 pictures"
    assert out[1].read_text().startswith("## Mine\n")
    assert len(out[2].read_text().splitlines()) == 4
    assert polars.read_parquet(out[3]).height == 3
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{out[0]}: 25 B, 3 cells" and len(told) == 4


@pytest.mark.usefixtures("page", "drawn")
def test_without_a_name_it_is_a_page_here(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plumbline("report", run) == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("drawn")
def test_pictures_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plumbline("report", run, "--pictures", tmp_path / "pictures", "--format", "svg") == 0
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["latency.svg"]
    assert "1 picture as svg, " in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("page", "drawn")
@pytest.mark.parametrize("found", [True, False])
def test_the_browser_opens_the_page(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: bool
) -> None:
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return found

    monkeypatch.setattr("webbrowser.open", browser)
    assert plumbline("report", run, "-o", tmp_path / "a.csv", "-o", tmp_path / "b.html", "--open") == 0
    assert opened == [(tmp_path / "b.html").resolve().as_uri()]
    assert ("no browser was found here" in capsys.readouterr().err) == (not found)


def test_what_cannot_be_read_is_said_and_the_rest_is_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(run, {"schema": 9}, "{")
    assert plumbline("report", run, "-o", tmp_path / "out.csv") == 0
    said = capsys.readouterr().err
    assert "run: line 4: expected a record of schema" in said and "run: line 5 has no end" in said
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def test_runs_in_which_nothing_can_be_read_end_with_1(tmp_path: Path) -> None:
    """A report of them says why; that of a gate alone is one."""
    out = tmp_path / "out.md"
    assert plumbline("report", add(run_of(tmp_path / "run"), {"schema": 9}), "-o", out) == 1
    assert "expected a record of schema 2, got 9" in out.read_text()
    a_gate(tmp_path / "gate")
    assert plumbline("report", tmp_path / "gate", "-o", out) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("none", "-o", "out.md"),
            "expected a run, a folder of runs, or what a gate has written, got nothing, as it is not there",
        ),
        (("run", "-o", "out.pdf"), "'out.pdf': expected a name that ends in .html, .md, .csv, .parquet, got '.pdf'"),
        (("run", "-o", "out"), "got 'no ending'"),
        (("run", "-o", "run/records.jsonl/out.md"), "cannot be written: "),
        (("run", "-o", "out.md", "--open"), "--open: expected an -o FILE.html"),
        (("run", "--pictures", "p", "--format", "png,gif"), "--format: expected some of png, svg, got 'gif'"),
        (("run", "--pictures", "run/records.jsonl"), "cannot hold pictures: "),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(run.parent)
    assert plumbline("report", *words) == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told
    assert not (run.parent / "out.md").exists()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("-o", "out.html"), "altair and vl-convert and itables and jinja2"),
        (("-o", "out.csv"), "polars"),
        (("-o", "out.parquet"), "polars"),
        (("--pictures", "p"), "altair and vl-convert"),
    ],
)
def test_a_missing_extra_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], missing: str
) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(files, "find_spec", nothing)
    assert plumbline("report", run, *words) == 2
    assert f"takes {missing}, not installed here: pip install 'plumbline[report]'" in capsys.readouterr().err
    assert plumbline("report", run, "-o", run / "out.md") == 0, "which takes none of them"
