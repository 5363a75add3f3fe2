"""What several test files share: one probe server, and pytest sessions run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness import journal, record
from harness.ask import ProbeServer
from harness.session import REPOSITORY
from harness.settings import Settings


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own, so that training on digits is seen to work."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def settings(cache: Path) -> Settings:
    """For cells that are measured quickly."""
    return Settings(cache=cache, sampling_s=0.05, warmup_s=0.02, accuracy_images=100, time_limit_s=60)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbeServer]:
    with (tmp_path_factory.mktemp("probe") / "probe.log").open("wb") as log:
        server = ProbeServer(log)
        yield server
        server.close()


def announce(folder: Path, entries: str) -> None:
    """What an installed package leaves in a folder on the path, with these entry points."""
    about = folder / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(entries)


class Run:
    """A pytest session on benchmarks/ that has ended."""

    def __init__(self, process: subprocess.CompletedProcess[str], folder: Path) -> None:
        self.code, self.output, self.folder = process.returncode, process.stdout + process.stderr, folder

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        return {kept["cell"]["id"]: kept for kept in journal.read(self.folder)}


@pytest.fixture
def bench(tmp_path: Path, cache: Path) -> Callable[..., Run]:
    """Run `pytest benchmarks/` in a process of its own; every record it writes is checked against the schema."""

    def run(*options: str, folder: str = "run", timeout: float = 300) -> Run:
        process = subprocess.run(
            command(tmp_path / folder, *options), capture_output=True, text=True, timeout=timeout, **where(tmp_path, cache)
        )
        ended = Run(process, tmp_path / folder)
        if (ended.folder / journal.NAME).exists():
            for kept in ended.records.values():
                jsonschema.validate(kept, record.schema(), jsonschema.Draft202012Validator)
        return ended

    return run


def command(folder: Path, *options: str) -> list[str]:
    place = [] if "--resume" in options or "--run-dir" in options else ["--run-dir", str(folder)]
    return [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "-p", "no:cacheprovider", *place, *options]


def where(tmp_path: Path, cache: Path) -> dict[str, Any]:
    """Its own lock and cache, and no data: a test must not depend on what the machine happens to have."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PLUMBLINE_")}
    environment = {
        **kept,
        "TMPDIR": str(tmp_path),
        "PLUMBLINE_LOCK": str(tmp_path / "lock"),
        "XDG_CACHE_HOME": str(cache),
        "COLUMNS": "200",
    }
    return {"cwd": REPOSITORY, "env": environment}
