"""Rules that hold between files: who takes a duration, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Wall time of a step or a limit, and what is no duration of an inference.
OTHER_CLOCKS = {
    "harness/probe/disturbance.py": "the window of its shares",
    "harness/probe/artefacts.py": "what building took",
    "harness/probe/subject.py": "what building took",
    "harness/probe/speed.py": "a third of a second for an estimate",
    "harness/session/client.py": "what a step took",
    "harness/cli/counts.py": "what counting took",
    "harness/studies/compression.py": "what pruning took",
    "harness/studies/conformance.py": "a window for a meter",
    "harness/studies/overhead.py": "what the suite itself takes",
    "models/training/training.py": "what training took",
}


def clocks(source: str) -> bool:
    """Whether a file reads the clock by which inferences are timed."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "perf_counter")
        or (isinstance(node, ast.Name) and node.id == "perf_counter")
        for node in ast.walk(ast.parse(source))
    )


def test_a_duration_is_taken_in_one_file() -> None:
    files = [path for room in ("harness", "models", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if clocks(path.read_text())}
    assert found - set(OTHER_CLOCKS) == {"harness/timing.py"}
    assert set(OTHER_CLOCKS) <= found, "an entry that is not needed any more"


@pytest.mark.parametrize("source", ["import time\ntime.perf_counter()", "from time import perf_counter\nperf_counter()"])
def test_a_clock_elsewhere_is_seen(source: str) -> None:
    assert clocks(source)


def linted(tmp_path: Path, planted: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Check the rules of this project on a package of empty rooms with some imports planted."""
    package = tmp_path / "plumbline"
    for room in ("harness", "models"):
        for path in (ROOT / room).rglob("*.py"):
            copy = package / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("")
            (copy.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    for name, line in planted.items():
        (package / name).write_text(line)
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "line", "contract"),
    [
        ("models/layers.py", "import plumbline.harness.cell", "models know nothing of the harness"),
        ("harness/probe/race.py", "import plumbline.harness.session.client", "the two sides of the pipe"),
        ("harness/probe/race.py", "import plumbline.harness.views.table", "the probe and the runtimes"),
        ("harness/runtimes/eager.py", "import plumbline.harness.probe.race", "runtimes know nothing of processes"),
        ("harness/views/table.py", "import plumbline.harness.probe.race", "who asks does not reach into the probe"),
        ("harness/verdicts/limits.py", "import plumbline.harness.session.plan", "verdicts are pure"),
        ("harness/cell.py", "import plumbline.harness.session.plan", "the vocabulary stands on its own"),
        ("harness/session/plan.py", "import plumbline.harness.cli.list", "commands are asked by nobody"),
    ],
)
def test_an_import_against_the_rules_is_seen(tmp_path: Path, name: str, line: str, contract: str) -> None:
    pytest.importorskip("importlinter")
    done = linted(tmp_path, {name: line})
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract}" in done.stdout
    broken = [row for row in done.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(row.startswith(contract) for row in broken), broken
