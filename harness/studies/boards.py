"""What a session on several boards costs the machine that runs it: `plumbline overhead --targets N`.

The boards replay a short run that is measured first (harness/probe/replay.py), and take next to no time of a processor
themselves: what is seen is the cost of the session.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from plumbline.harness import journal
from plumbline.harness.machine import here
from plumbline.harness.session.session import REPOSITORY
from plumbline.harness.studies.overhead import SMALLEST, NotMeasured
from plumbline.texts import number_of

LATER_S, SHARE = 5.0, 0.02  # that a session may end after its slowest board; of a core that it may take for each
EVERY_S = 0.2  # between two looks at its processes
REPLAY = "plumbline.harness.probe.replay"
QUICKLY = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--calm", "0", "--cool", "0")
TIER = "[tier.default]\nsampling_s = 1\nwarmup_s = 0.1\nenergy_s = 0\naccuracy_images = 0\n[[tier.default.cells]]\n"


class Cost(NamedTuple):
    """Of a session on so many boards: wall time and processor's time in seconds, and the most memory of all its processes.

    `steady` is the share of a core that it took for each board while all of them measured; None of a session that was too short.
    """

    boards: int
    cells: int
    wall_s: float
    cpu_s: float
    bytes: int
    steady: float | None

    @property
    def cells_an_hour(self) -> float:
        return self.cells / self.wall_s * 3600


def report(progress: Callable[[str], None], numbers: Sequence[int], cells: int = 20) -> list[str]:
    """Measure and print what sessions on so many boards cost; returns what missed its limit.

    The slowest board alone is a session on one of them.
    """
    print(f"{here()}; boards that replay a run, {number_of(cells, 'cell')} each")
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        progress("measuring the cell that the boards replay")
        recorded = record(Path(folder) / "recorded")

        def of(number: int) -> Cost:
            return of_boards(Path(folder) / f"of-{number}", replays(Path(folder), recorded, number), cells, progress)

        alone = of(1)
        print(line(alone, None))
        for number in numbers:
            found = of(number)
            late = found.wall_s - alone.wall_s
            progress("")
            print(line(found, late), flush=True)
            if late > LATER_S:
                missed.append(f"{number} boards take {late:.1f} s more than one")
            if found.steady is not None and found.steady > SHARE:
                missed.append(f"{number} boards take {found.steady:.1%} of a core each")
    print(f"limits: {LATER_S:g} s later than one board alone; {SHARE:.0%} of a core a board")
    return missed


def line(cost: Cost, late_s: float | None) -> str:
    """Show it, with by how much later it ended than the slowest board alone."""
    later = "" if late_s is None else f" ({late_s:+.1f} s)"
    steady = "" if cost.steady is None else f", {cost.steady:.1%} of a core a board while all measure"
    return (
        f"{number_of(cost.boards, 'board'):>9}: {cost.wall_s:6.1f} s{later}, {cost.cells_an_hour:8,.0f} cells an hour; "
        f"{cost.cpu_s:5.1f} s of a processor in all{steady}; {cost.bytes / 1e6:,.0f} MB"
    )


def record(folder: Path) -> Path:
    """Measure the cell that boards replay; returns its run."""
    folder.mkdir()
    if (code := begun(folder, ["cpu"], 1).wait()) != 0:
        raise NotMeasured(f"pytest ended with {code}: {(folder / 'output').read_text()[-500:]}")
    return folder / "run"


def replays(folder: Path, recorded: Path, number: int) -> dict[str, list[str]]:
    """Return so many boards that replay a run: their names and commands."""
    locks = {f"board-{index}": f"PLUMBLINE_LOCK={folder}/lock-{index}" for index in range(1, number + 1)}
    return {name: ["env", lock, sys.executable, "-m", REPLAY, str(recorded)] for name, lock in locks.items()}


def of_boards(folder: Path, boards: Mapping[str, Sequence[str]], cells: int, progress: Callable[[str], None]) -> Cost:
    """Run a session on boards, by the commands that start their probes, and watch its processes."""
    folder.mkdir()
    number, names = len(boards), list(boards)
    (folder / "targets.toml").write_text("".join(f"[place.{name}]\ncommand = {json.dumps(boards[name])}\n" for name in names))
    began = time.perf_counter()
    process = begun(folder, names, cells)
    watched = _Watch(psutil.Process(process.pid), folder / "run", names, cells)
    while process.poll() is None:
        watched.look(time.perf_counter() - began)
        progress(f"{number_of(number, 'board')}: {watched.records} of {number * cells} cells")
        time.sleep(EVERY_S)
    wall = time.perf_counter() - began
    if process.returncode:
        raise NotMeasured(f"pytest ended with {process.returncode}: {(folder / 'output').read_text()[-500:]}")
    return Cost(number, number * cells, wall, watched.cpu_s, watched.bytes, watched.steady(number))


class _Watch:
    """Sums up the session's processes, without those of the boards, as often as it looks."""

    def __init__(self, session: psutil.Process, run: Path, names: Sequence[str], cells: int) -> None:
        self._session, self._run, self._names, self._cells = session, run, names, cells
        self._cpu: dict[int, float] = {}
        self._seen: list[tuple[float, float]] = []  # moments at which all boards measured, and the processor's time by then
        self.bytes = self.records = 0

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu.values())

    def look(self, now_s: float) -> None:
        held = 0
        for process in self._processes():
            try:
                with process.oneshot():
                    times, held = process.cpu_times(), held + process.memory_full_info().uss
            except psutil.Error:
                continue  # it has just ended
            self._cpu[process.pid] = times.user + times.system
        self.bytes = max(self.bytes, held)
        counts = [_lines(folder / journal.NAME) for folder in self._folders()]
        self.records = sum(counts)
        if counts and min(counts) > 0 and max(counts) < self._cells:
            self._seen.append((now_s, self.cpu_s))

    def steady(self, number: int) -> float | None:
        if len(self._seen) < 10:
            return None
        (begin_s, before), (end_s, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end_s - begin_s) / number

    def _folders(self) -> list[Path]:
        return [self._run] if len(self._names) == 1 else [self._run / name for name in self._names]

    def _processes(self) -> list[psutil.Process]:
        """Pytest and its workers: what these have started are the boards."""
        try:
            workers = self._session.children() if len(self._names) > 1 else []
        except psutil.Error:
            return []
        return [self._session, *workers]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def begun(folder: Path, targets: Sequence[str], cells: int, *options: str) -> subprocess.Popen[bytes]:
    """Start a session of a small net in so many batches on targets, into `folder`/run; what it prints is in `folder`/output."""
    batches = ", ".join(str(batch) for batch in range(1, cells + 1))
    (folder / "matrix.toml").write_text(f'{TIER}model = ["{SMALLEST}"]\nbatch = [{batches}]\n')
    command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), *QUICKLY, "--target", ",".join(targets)]
    command += ["--matrix", str(folder / "matrix.toml"), "--run-dir", str(folder / "run"), *options]
    if (folder / "targets.toml").exists():
        command += ["--targets", str(folder / "targets.toml")]
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=dict(os.environ))
