"""`plumbline recommend`, from journals to exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.harness.cli import main
from plumbline.harness.journal import NAME
from tests.grids import DENSE, EVEN, edge_study, stored
from tests.records import record_of, replace

STUDY = ("--max-memory-mb", "2600", "--min-top1", "0.7", "--by", "energy")
Recommend = Callable[..., tuple[int, str]]


@pytest.fixture
def recommend(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Recommend:
    def run(*arguments: object) -> tuple[int, str]:
        """Return the exit code and all that was printed."""
        monkeypatch.setattr(sys, "argv", ["plumbline", "recommend", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def test_the_edge_studys_conclusion_from_a_journal(tmp_path: Path, recommend: Recommend) -> None:
    code, text = recommend(stored(tmp_path / "run", edge_study(DENSE)), *STUDY)
    assert (code, re.findall("^recommended: (.*)$", text, re.M)) == (0, ["vgg16-dense-agent-fp32-b16-224px"])
    code, text = recommend(stored(tmp_path / "even", edge_study(EVEN)), *STUDY, "--model", "vgg16")
    assert (code, re.findall("^recommended: (.*)$", text, re.M)) == (0, ["vgg16-dense-agent-fp32-b16-224px"])


def test_nothing_fits_and_following_the_advice_something_does(tmp_path: Path, recommend: Recommend) -> None:
    run = stored(tmp_path / "run", edge_study(DENSE))
    code, text = recommend(run, "--max-memory-mb", 2600, "--min-top1", 0.9, "--by", "energy")
    assert code == 1
    advised = re.findall(r"^top-1 ≥ 0.9 +(0\.\d+) +\d+% +(\S+)", text, re.M)
    assert len(advised) == 2, "the smallest relaxation, and the one that gains most"
    for share, setting in advised:
        code, text = recommend(run, "--max-memory-mb", 2600, "--min-top1", share, "--by", "energy")
        assert (code, re.findall("^recommended: (.*)$", text, re.M)) == (0, [setting])


def test_axes_select(tmp_path: Path, recommend: Recommend) -> None:
    run = stored(tmp_path / "run", edge_study(EVEN))
    code, text = recommend(run, "--model", "vgg16,resnet50", "--batch", 1, "--image-size", "224", "--by", "accuracy")
    assert (code, re.findall("^recommended: (.*)$", text, re.M)) == (0, ["resnet50-dense-agent-fp32-b1-224px"])
    assert "2 of 2 cells" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "vgg"], "--model: expected one of vgg16, resnet50, mobilenet_v3_large, got 'vgg' (did you mean vgg16?)"),
        (["--batch", "3"], "--batch: expected one of 1, 8, 16"),
        (["--min-top1", "-1"], "expected a number > 0, got '-1'"),
        (["--max-latency-ms", "fast"], "expected a number > 0, got 'fast'"),
        (["--by", "beauty"], "invalid choice: 'beauty'"),
        (["--model", "vgg16", "--model", "resnet50", "--batch", "1", "--variant", "prune"], "--variant: expected one of dense"),
    ],
)
def test_misuse(tmp_path: Path, recommend: Recommend, arguments: list[str], words: str) -> None:
    code, text = recommend(stored(tmp_path / "run", edge_study(EVEN)), *arguments)
    assert code == 2
    assert words in text


def test_what_is_no_run_is_refused_and_what_cannot_be_read_is_named(tmp_path: Path, recommend: Recommend) -> None:
    code, text = recommend(tmp_path)
    assert (code, f"expected a run, or a folder of runs, got no {NAME} in it" in text) == (2, True)
    run = stored(tmp_path / "runs" / "one", edge_study(EVEN))
    with (run / NAME).open("ab") as file:
        file.write(b'{"schema":99}\n{"schema":2,"no record":1}\n')
    code, text = recommend(tmp_path / "runs", *STUDY)
    assert code == 0
    assert "- not read: one: line 73: expected a record of schema 2, got 99" in text
    assert "- not read: one: line 74: not a record" in text
    (run / NAME).write_bytes(b"nonsense\n")
    code, text = recommend(run)
    assert (code, "expected one record at least, got none; one: line 1: not a record" in text) == (2, True)


def test_a_run_of_which_nothing_was_timed_recommends_nothing(tmp_path: Path, recommend: Recommend) -> None:
    run = stored(tmp_path / "run", [record_of(outcome="failed", reason="wrong outputs")])
    code, text = recommend(run)
    assert (code, "nothing was timed (1 failed)" in text) == (1, True)


def test_several_machines_where_nothing_fits_on_one_end_with_1(tmp_path: Path, recommend: Recommend) -> None:
    first = edge_study(EVEN)
    small = [replace(each, session="two", machine=replace(each.machine, id="small")) for each in first if each.cell.batch == 128]
    run = stored(tmp_path / "run", [*first, *small])
    code, text = recommend(run, "--max-memory-mb", 900)
    assert code == 1
    assert len(re.findall("^recommended: ", text, re.M)) == 1
    assert "nothing fits" in text


def test_it_needs_neither_torch_nor_scipy(tmp_path: Path) -> None:
    """They would take longer than the second that it may take for 2,000 cells."""
    run = stored(tmp_path / "run", edge_study(EVEN))
    code = (
        f"import sys; from plumbline.harness.cli import main; sys.argv = ['plumbline', 'recommend', {str(run)!r}]; main(); "
        "sys.exit(', '.join({'torch', 'scipy', 'pandas', 'polars'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
