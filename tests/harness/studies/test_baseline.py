"""`plumbline gate --baseline` as a person calls it, on runs that are written here."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.cell import Cell
from plumbline.harness.machine import Machine
from plumbline.harness.session import session as sessions
from tests.harness.studies.test_stored import plumbline, run_of
from tests.harness.verdicts.test_comparison import row
from tests.records import cell_of, replace

CELLS = [cell_of("mlp"), cell_of("resnet20"), cell_of("small_cnn")]
HERE = Machine(id="m", cpu_model="a processor", cores_allowed=2, torch="2.15")


def run(folder: Path, number: int, noise: float = 0.003, cells: list[Cell] = CELLS, **slower: float) -> Path:
    """A session in which the whole machine is slower or faster by a third, and a model as much slower as it is told."""
    chance = random.Random(number)
    whole = chance.uniform(0.8, 1.2)
    rows = [
        row(
            1e-3 * whole * chance.lognormvariate(0, noise) * slower.get(cell.model, 1.0),
            cell=cell,
            machine=HERE,
            session=f"s{number}",
            started_at=f"2026-01-{number % 28 + 1:02}T00:00:00+00:00",
        )
        for cell in cells
    ]
    return run_of(folder / str(number), *rows)


@pytest.fixture
def base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    for number in range(12):
        assert plumbline("gate", "--baseline", tmp_path / "base", "--update", run(tmp_path / "old", number)) == 1
    capsys.readouterr()
    return tmp_path / "base"


def test_an_update_is_small_and_says_what_changed(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(base.glob("*.json"))
    assert len(files) == 12 and max(file.stat().st_size for file in files) < 4000
    whole = json.loads(files[0].read_text())
    assert set(whole["cells"][CELLS[0].id]) == {"median_s", "date", "revision"}
    assert whole["key"]["torch"]["torch"] == "2.15" and "samples_s" not in files[0].read_text()
    assert plumbline("gate", "--baseline", base, "--update", tmp_path / "old" / "3") == 1
    assert "stored already: nothing changed" in capsys.readouterr().out
    failed = run_of(
        tmp_path / "failed", row(session="x", machine=replace(HERE, torch="2.16")), row(cell=CELLS[1], outcome="failed")
    )
    assert plumbline("gate", "--baseline", base, "--update", failed) == 1
    told = capsys.readouterr().out
    assert "a new key: torch: torch 2.15 -> 2.16" in told and "failed, not stored" in told


def test_what_is_the_same_passes(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a canary: a third of spread between sessions is divided out; without one nothing can be told."""
    new = run(tmp_path / "new", 100, noise=0.0005)
    assert plumbline("gate", "--baseline", base, "--run", new) == 0
    told = capsys.readouterr().out
    assert "no regression: 2 within noise" in told and "canary: mlp-dense" in told and "would show" in told
    assert plumbline("gate", "--baseline", base, "--run", new, "--canary", "none") == 3
    assert "compare two revisions instead" in capsys.readouterr().out


def test_a_slowdown_is_confirmed_by_three_sessions(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [word for number in range(4) for word in ("--run", run(tmp_path / "new", 100 + number, resnet20=1.05))]
    junit = tmp_path / "junit.xml"
    assert plumbline("gate", "--baseline", base, *runs, "--junit", junit, "--summary", tmp_path / "page.md") == 1
    told = capsys.readouterr().out
    assert "1 regressed" in told and "resnet20" in told
    assert 'failures="1"' in junit.read_text() and "regressed" in (tmp_path / "page.md").read_text()


def test_what_was_slow_once_is_not_convicted(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run(tmp_path / "new", 100, resnet20=1.3), *(run(tmp_path / "new", 101 + number, noise=0.0005) for number in range(3))]
    assert plumbline("gate", "--baseline", base, *(word for each in runs for word in ("--run", each))) == 0
    assert "1 of 2 cells may be slower" in capsys.readouterr().out


def test_sessions_that_are_not_given_are_measured(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one, too; all by the tier and the options that were given."""
    asked = []

    def run_tier(tier: str, folder: Path, options: list[str]) -> int:
        asked.append((tier, options))
        made = run(tmp_path / "made", 200 + len(asked), resnet20=1.06)
        folder.parent.mkdir(exist_ok=True)
        made.rename(folder)
        return 0

    monkeypatch.setattr(sessions, "run_tier", run_tier)
    options = ("--tier", "smoke", "--model", "mlp,resnet20", "--run-dir", tmp_path / "measured")
    assert plumbline("gate", "--baseline", base, *options) == 1
    assert asked == [("smoke", ["--model", "mlp,resnet20"])] * 4
    told = capsys.readouterr().out
    assert "2 of 2 cells may be slower: 3 more sessions" in told and "1 regressed, 1 within noise" in told


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"machine": replace(HERE, torch="2.16")}, 3, "torch: torch 2.15 -> 2.16"),
        ({"machine": replace(HERE, git_revision="f00", id="n")}, 0, "no regression"),
        ({"outcome": "failed", "reason": "RMS error 1", "latency": None}, 1, "failed: RMS error 1"),
        ({"outcome": "unavailable", "reason": "no library", "latency": None}, 3, "unavailable: no library"),
    ],
)
def test_codes(
    base: Path, tmp_path: Path, changes: dict[str, Any], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(1e-3, cell=cell, machine=HERE, session="new") for cell in CELLS]
    changed = [replace(each, **changes) for each in rows] if "machine" in changes else [*rows[:2], replace(rows[2], **changes)]
    assert plumbline("gate", "--baseline", base, "--run", run_of(tmp_path / "new", *changed)) == code
    assert says in capsys.readouterr().out


def test_a_cell_that_is_gone_is_missing(base: Path, tmp_path: Path) -> None:
    new = run(tmp_path / "new", 100, noise=0.0005, cells=CELLS[:2])
    assert plumbline("gate", "--baseline", base, "--run", new) == 3
    assert plumbline("gate", "--baseline", base, "--run", new, "--allow", "missing") == 0


def test_what_was_never_stored_and_does_not_run_is_named(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = row(cell=cell_of("vgg16"), outcome="unavailable", reason="no library", latency=None, machine=HERE)
    rows = [row(1e-3, cell=cell, machine=HERE, session="new") for cell in CELLS]
    assert plumbline("gate", "--baseline", base, "--run", run_of(tmp_path / "new", *rows, failed)) == 0
    assert "unavailable: no library" in capsys.readouterr().out


def test_a_canary_that_is_slower_is_no_pass(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All cells twenty times as slow: each quotient is what it was."""
    new = run(tmp_path / "new", 100, noise=0.0005, mlp=20, resnet20=20, small_cnn=20)
    assert plumbline("gate", "--baseline", base, "--run", new) == 3
    assert "the canary itself has changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda text: text[:200], r"line \d+: expected JSON"),
        (lambda text: text.replace('"median_s": 0', '"median_s": -0', 1), "key cells.mlp-dense-eager-fp32-b1-8px-cpu: expected"),
        (lambda text: text.replace('"revision"', '"revisions"', 1), "key cells.mlp-dense-eager-fp32-b1-8px-cpu: expected"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "key schema: expected 1, got 2"),
        (lambda text: "[]", "the file: expected what --update wrote"),
    ],
)
def test_a_corrupt_file_is_named(base: Path, tmp_path: Path, broken: Any, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = sorted(base.glob("*.json"))[4]
    text = file.read_text()
    assert broken(text) != text
    file.write_text(broken(text))
    assert plumbline("gate", "--baseline", base, "--run", run(tmp_path / "new", 100)) == 2
    told = capsys.readouterr().err
    assert file.name in told and re.search(says, told)


def test_a_session_that_is_stored_twice_counts_once(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sorted(base.glob("*.json"))[0]
    (base / "copy.json").write_bytes(file.read_bytes())
    assert plumbline("gate", "--baseline", base, "--run", run(tmp_path / "new", 100)) == 2
    assert "is stored in" in capsys.readouterr().err


def test_a_field_of_a_later_version_is_what_it_is_by_default(base: Path, tmp_path: Path) -> None:
    for file in base.glob("*.json"):
        whole = json.loads(file.read_text())
        assert whole["key"]["settings"].pop("slowed") == 0.0
        file.write_text(json.dumps(whole))
    assert plumbline("gate", "--baseline", base, "--run", run(tmp_path / "new", 100, noise=0.0005)) == 0


def test_what_does_not_go_together(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = run(tmp_path / "new", 100)
    for words, says in (
        (("--run", new), "expected --baseline DIR"),
        (("--baseline", tmp_path / "none", "--run", new), "is no baseline"),
        (("--baseline", base, "--run", new, "--canary", "x"), "expected a cell that the run has measured"),
        (("--baseline", base, "--run", tmp_path / "old"), "holds no run"),
    ):
        assert plumbline("gate", *words) == 2
        assert says in capsys.readouterr().err
