"""Rules that hold between files: who takes a duration, and who may import whom."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
# Wall time of a step or a limit, and what is no duration of an inference.
OTHER_CLOCKS = {
    "harness/meters/running.py": "the windows of energy, of which no duration is reported",
    "harness/probe/disturbance.py": "the window of its shares",
    "harness/probe/examining.py": "the clock itself, beside another one",
    "harness/probe/artefacts.py": "what building took",
    "harness/probe/subject.py": "what building took",
    "harness/probe/speed.py": "a third of a second for an estimate",
    "harness/session/client.py": "what a step took",
    "harness/cli/counts.py": "what counting took",
    "harness/studies/boards.py": "what sessions take",
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


# An import for each contract that breaks it, and no other one before it in the list.
PLANTED = {
    "models know nothing of the harness": ("models/layers.py", "plumbline.harness.cell"),
    "the two sides of the pipe meet in the vocabulary only": ("harness/probe/race.py", "plumbline.harness.session.client"),
    "the probe and the runtimes know nothing of who asks": ("harness/probe/race.py", "plumbline.harness.views.table"),
    "runtimes know nothing of processes": ("harness/runtimes/eager.py", "plumbline.harness.probe.race"),
    "who asks does not reach into the probe": ("harness/views/table.py", "plumbline.harness.probe.race"),
    "verdicts are pure: facts and records in, words out": ("harness/verdicts/limits.py", "plumbline.harness.session.plan"),
    "the vocabulary stands on its own": ("harness/cell.py", "plumbline.harness.session.plan"),
    "commands are asked by nobody": ("harness/session/plan.py", "plumbline.harness.cli.list"),
    "what both rooms share knows neither": ("files.py", "plumbline.models.layers"),
    "what measures knows the face of the models only": ("harness/runtimes/litert.py", "plumbline.models.onnx.graph"),
}


def broken(folder: Path, planted: Iterable[tuple[str, str]]) -> set[str]:
    """Which contracts do not hold of a copy of this project with some imports planted."""
    package = folder / "plumbline"
    shutil.copytree(ROOT / "src" / "plumbline", package, ignore=shutil.ignore_patterns("__pycache__", "*.c"))
    for name, imported in planted:
        with (package / name).open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": str(folder), "PATH": "", "COLUMNS": "200"},
    )  # fmt: skip
    found = {row.partition(" BROKEN")[0] for row in done.stdout.splitlines() if " BROKEN" in row}
    assert done.returncode == bool(found), done.stdout + done.stderr
    return found


@pytest.mark.slow
def test_an_import_against_the_rules_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("importlinter")
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contracts = [table["name"] for table in tables]
    assert set(contracts) == set(PLANTED), "each contract is seen broken"
    assert broken(tmp_path / "as it is", []) == set()
    assert broken(tmp_path / "planted", PLANTED.values()) == set(contracts)
