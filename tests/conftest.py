"""What several test files share: one probe server, Pythons that start at once, and pytest sessions run as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import settings as hypothesis_settings

from plumbline.harness import journal, record
from plumbline.harness.session import places
from plumbline.harness.session.client import PROBE, Connection
from plumbline.harness.session.session import REPOSITORY
from plumbline.harness.settings import Settings
from plumbline.harness.target import HERE
from plumbline.process_state import ProcessState
from tests.nursery import nursery


def take_cores() -> None:
    """Under `pytest -n` each worker keeps to cores of its own, and so does all that it starts.

    What waits for a thread that waits for a core takes ten times as long.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        allowed, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        first = int(worker.removeprefix("gw")) % len(allowed)
        os.sched_setaffinity(0, allowed[first :: min(workers, len(allowed))])


take_cores()
hypothesis_settings.register_profile("plumbline", deadline=None)  # how fast a machine is is no property of the code
hypothesis_settings.load_profile("plumbline")

HOUR_S = 3600.0  # a limit that only what hangs comes to, on however slow and busy a machine


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own, so that training on digits is seen to work; for what runs here and for sessions alike."""
    folder = tmp_path_factory.mktemp("cache") / "plumbline"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever else measures on this machine is no concern of a test."""
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "own-lock"))


@pytest.fixture
def settings(cache: Path) -> Settings:
    """For cells that are measured quickly."""
    return Settings(cache=cache, sampling_s=0.05, warmup_s=0.02, accuracy_images=100, time_limit_s=HOUR_S)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python that has imported torch before it starts (tests/nursery.py). Not for tests of what is imported or left behind."""
    base = tmp_path_factory.getbasetemp()  # under `pytest -n` the parent is one for all workers
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    started = nursery(shared)
    yield str(started.python)
    started.close()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    """Let commands that run here start a probe that has imported torch."""
    monkeypatch.setattr(places.find(HERE), "command", (python, *PROBE[1:]))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, python: str) -> Iterator[Connection]:
    with (tmp_path_factory.mktemp("probe") / "probe.log").open("wb") as log:
        server = Connection(log, command=[python, *PROBE[1:]])
        yield server
        server.close()


def announce(folder: Path, entries: str) -> None:
    """What an installed package leaves in a folder on the path, with these entry points."""
    about = folder / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(entries)


@pytest.fixture
def gpu() -> None:
    """Skip what needs a CUDA device where there is none; fail where one was expected (tox -e cuda)."""
    import torch

    if not torch.cuda.is_available():
        reason = "expected a CUDA device, torch finds none"
        pytest.fail(reason) if "cuda" in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)


class Run:
    """A pytest session on benchmarks/ that has ended."""

    def __init__(self, process: subprocess.CompletedProcess[str], folder: Path) -> None:
        self.code, self.output, self.folder = process.returncode, process.stdout + process.stderr, folder

    @property
    def records(self) -> dict[str, Any]:
        """The records by the cell's id, of all boards; a test says of which fields it knows that they are there."""
        return {kept.id: kept for folder in journal.runs_in(self.folder) for kept in journal.read(folder)}


@pytest.fixture
def bench(tmp_path: Path, cache: Path, python: str) -> Callable[..., Run]:
    """Run `pytest benchmarks/` in a process of its own; every record it writes is checked against the schema."""

    def run(*options: str, folder: str = "run", timeout: float = HOUR_S) -> Run:
        process = subprocess.run(
            command(tmp_path / folder, *options, python=python),
            capture_output=True,
            text=True,
            timeout=timeout,
            **where(tmp_path, cache),
        )
        ended = Run(process, tmp_path / folder)
        for board in journal.runs_in(ended.folder):
            for line in (board / journal.NAME).read_text().splitlines():
                jsonschema.validate(json.loads(line), record.schema(), jsonschema.Draft202012Validator)
        return ended

    return run


def command(folder: Path, *options: str, python: str = sys.executable) -> list[str]:
    place = [] if "--resume" in options or "--run-dir" in options else ["--run-dir", str(folder)]
    place += [] if "--time-limit" in options else ["--time-limit", f"{HOUR_S:g}"]
    return [python, "-m", "pytest", str(REPOSITORY / "benchmarks"), "-p", "no:cacheprovider", *place, *options]


def where(tmp_path: Path, cache: Path) -> dict[str, Any]:
    """Its own lock and cache, and no data: a test must not depend on what the machine happens to have."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PLUMBLINE_", "PYTEST_"))}
    environment = {
        **kept,
        "TMPDIR": str(tmp_path),
        "PLUMBLINE_LOCK": str(tmp_path / "lock"),
        "XDG_CACHE_HOME": str(cache.parent),
        "COLUMNS": "200",
        "PLUMBLINE_CALM_S": "0",  # other tests run meanwhile: nothing becomes calm
    }
    return {"cwd": REPOSITORY, "env": environment}


@pytest.fixture
def state() -> Iterator[ProcessState]:
    """As it was before the test, and is again after it."""
    before = ProcessState()
    yield before
    before.put_back()
