"""What becomes of a session on several boards whose parts are killed, and what it costs with real boards. On loopback.

    tox -e trials-fleet -- FOLDER kills --times 20
    tox -e trials-fleet -- FOLDER costs --boards 2,4
    tox -e trials-fleet -- FOLDER records --number 25000,50000,100000

`kills`: four boards out of a real labgrid lab, each behind a real sshd, which replay a run. In each session one of five parts is
killed at random, by SIGKILL: a worker, an ssh, a probe, the lab's coordinator, the session. Then the session is resumed until all
is measured, and looked at: records that are missing or doubled, boards that are locked, processes that are left.

`costs`: as `plumbline overhead --targets`, with probes that measure, behind real sshds.

`records`: what appending, resuming, the table, a comparison of two boards and a report take with so many records of fifty boards.
They are synthetic (tests/synthetic_runs.py).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout

from plumbline.harness import journal
from plumbline.harness.machine import here
from plumbline.harness.outcomes import CRASHED, OK
from plumbline.harness.record import Record
from plumbline.harness.session import elsewhere
from plumbline.harness.studies import boards
from plumbline.harness.views import table
from plumbline.harness.views.table import tabulated
from plumbline.texts import number_of
from tests import synthetic_runs
from tests.harness.session.test_elsewhere import Server, reached
from tests.lab import Lab
from tests.records import replace

CELLS, BOARDS, FIFTY = 12, 4, 50
GONE_S = 60.0  # in which all that a session has started has to be gone: a probe waits 30 s for a word
US = "desk/ann"
PARTS = ("a worker", "an ssh", "a probe", "the coordinator", "the session")


@contextmanager
def machines(folder: Path, number: int, replayed: Path | None = None) -> Iterator[dict[str, Server]]:
    """Start so many machines behind an sshd each, and put an ssh on the path that knows them."""
    servers: dict[str, Server] = {}
    for name in (f"board-{index}" for index in range(1, number + 1)):
        at = folder / name
        (at / "home").mkdir(parents=True)
        if replayed is not None:
            (at / "bin").mkdir()
            replay = shlex.join([sys.executable, "-m", boards.REPLAY, str(replayed)])
            (at / "bin" / "plumbline-probe").write_text(f'#!/bin/sh\nexec {replay} "$@"\n')
            (at / "bin" / "plumbline-probe").chmod(0o755)
        servers[name] = Server(at, at / "home", name=name)
    with reached(folder / "tools", servers) as path:
        os.environ["PATH"] = path
        yield servers


class Found(NamedTuple):
    """What was wrong after one kill, and how often the session was resumed; `wrong` are records of another outcome than that."""

    resumed: int
    missing: int
    doubled: int
    locked: int
    left: int
    wrong: int


class Kills:
    """Sessions on four boards, of which something is killed."""

    def __init__(self, folder: Path, servers: dict[str, Server], lab: Lab, chance: random.Random) -> None:
        self._folder, self._servers, self._lab, self._chance = folder, servers, lab, chance
        self._targets = [f"lab:{name}" for name in servers]

    def one(self, part: str, number: int) -> Found:
        """Start a session, kill that part of it, and let it be resumed until all is measured."""
        at = self._folder / f"session-{number}"
        at.mkdir()
        session = boards.begun(at, self._targets, CELLS)
        least = self._chance.randrange(1, BOARDS * CELLS // 2)
        while self._written(at) < least:
            if session.poll() is not None:
                raise RuntimeError(f"it ended before anything was killed: {(at / 'output').read_text()[-2000:]}")
            time.sleep(0.02)
        self._kill(part, session)
        session.wait()
        self._end(part)
        left, locked, resumed = self._left(at), self._locked(), 0
        shown = set(re.findall(r"\[ *\d+/\d+\] (\S+)  ok", (at / "output").read_text()))
        missing = len(shown - {record.id for record in self._records(at) if record.outcome == OK})
        wrong = sum(record.outcome not in (OK, CRASHED) for record in self._records(at))
        code = -1
        while code != 0 and resumed < 4:
            resumed += 1
            code = boards.begun(at, self._targets, CELLS, "--resume", str(at / "run")).wait()
        records = self._records(at)
        measured = Counter(record.id for record in records if record.outcome == OK)
        missing += BOARDS * CELLS - len(measured)
        doubled = sum(count - 1 for count in measured.values())
        return Found(resumed, missing, doubled, locked + self._locked(), left + self._left(at), wrong)

    def _kill(self, part: str, session: subprocess.Popen[bytes]) -> None:
        """Kill it, or one of its kind."""
        if part == "the coordinator":
            self._lab.stop()
            return
        everything = psutil.Process(session.pid).children(recursive=True)
        kinds: dict[str, list[psutil.Process]] = {
            "the session": [psutil.Process(session.pid)],
            "a worker": [process for process in psutil.Process(session.pid).children() if "exec(eval(" in _words(process)],
            "an ssh": [process for process in everything if process.name() == "ssh"],
            "a probe": [process for process in psutil.process_iter() if boards.REPLAY in _words(process)],
        }
        self._chance.choice(kinds[part]).kill()

    def _end(self, part: str) -> None:
        """Do what the documentation says that one does then."""
        if part == "the coordinator":
            self._lab.start()
        if part == "the session":
            for place, holder in self._lab.holders.items():
                self._lab.client("-p", place, "release-from", holder)

    def _left(self, at: Path) -> int:
        """Count the processes of a session that are still there after a minute."""
        until = time.monotonic() + GONE_S
        while time.monotonic() < until:
            mine = [
                process for process in psutil.process_iter() if boards.REPLAY in _words(process) or f"{at}/" in _words(process)
            ]
            if not mine:
                return 0
            time.sleep(0.2)
        return len(mine)

    def _locked(self) -> int:
        count = 0
        for server in self._servers.values():
            try:
                FileLock(server.home / "lock", timeout=0).acquire().lock.release()
            except Timeout:
                count += 1
        return count

    def _written(self, at: Path) -> int:
        return sum(path.read_bytes().count(b"\n") for path in at.glob(f"run/*/{journal.NAME}"))

    def _records(self, at: Path) -> list[Record]:
        """Read every line of every journal: a record that was written twice is there twice."""
        return [
            journal.parsed(run, line, Record) for run in journal.runs_in(at / "run") for line in journal.lines(run) if line.whole
        ]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kills(folder: Path, times: int, seed: int) -> int:
    """Run the sessions, and print a row for each part. Returns the exit code: 1 where anything was wrong."""
    chance = random.Random(seed)
    recorded = boards.record(folder / "recorded")
    for variable, value in zip(("LG_HOSTNAME", "LG_USERNAME"), US.split("/")):
        os.environ[variable] = value
    found: dict[str, list[Found]] = defaultdict(list)
    with machines(folder, BOARDS, recorded) as servers:
        (folder / "lab").mkdir()
        lab = Lab(folder / "lab", {name: {"board": "replay"} for name in servers})
        (folder / "tools" / "labgrid-client").symlink_to(lab.tools["labgrid-client"])
        os.environ["LG_COORDINATOR"] = lab.address
        tried = Kills(folder, servers, lab, chance)
        try:
            for number in range(times):
                part = PARTS[number % len(PARTS)]
                one = tried.one(part, number)
                found[part].append(one)
                print(f"{number + 1}/{times} {part}: {one}", flush=True)
        finally:
            lab.stop()
    names = Found._fields
    rows = [[part, len(each), *(sum(getattr(one, name) for one in each) for name in names)] for part, each in found.items()]
    print(f"{here()}; {number_of(BOARDS, 'board')}, {CELLS} cells each; seed {seed}")
    heads = ["killed", "times", *names]
    print(tabulated([[str(each) for each in row] for row in rows], heads, ["killed"], "github"))
    wrong = sum(sum(one[1:]) for each in found.values() for one in each)
    return 1 if wrong else 0


def costs(folder: Path, numbers: Sequence[int], cells: int, progress: Callable[[str], None]) -> int:
    """Print what sessions on real probes behind sshds cost."""
    print(f"{here()}; real probes behind sshd on loopback, {number_of(cells, 'cell')} each")
    with machines(folder, max(numbers)) as servers:
        commands = {name: ["ssh", *elsewhere.ssh_options(), name, "plumbline-probe"] for name in servers}
        for number in (1, *numbers):
            some = dict(list(commands.items())[:number])
            print(boards.line(boards.of_boards(folder / f"of-{number}", some, cells, progress), None), flush=True)
    return 0


def records(folder: Path, numbers: Sequence[int]) -> int:
    """Print what so many records of fifty boards take, in milliseconds each."""
    rows = []
    for number in numbers:
        run = folder / f"run-{number}"
        for board in (f"board-{index}" for index in range(FIFTY)):
            synthetic_runs.write(run / board, of_board(board, number // FIFTY))
        took = {"append": appending(run / "board-0", folder / f"append-{number}")}
        began = time.perf_counter()
        read = [record for one in journal.runs_in(run) for record in journal.read(one)]
        took["read, to resume"] = (time.perf_counter() - began) / len(read)
        began = time.perf_counter()
        table.matrix(read)
        took["table"] = (time.perf_counter() - began) / len(read)
        del read
        for name, arguments in (
            ("compare two boards", ["compare", str(run / "board-0"), str(run / "board-1"), "--ignore", "target"]),
            ("report (Markdown)", ["report", str(run), "-o", str(folder / f"{number}.md")]),
        ):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "plumbline.harness", *arguments], stdout=subprocess.DEVNULL, check=True)
            took[name] = (time.perf_counter() - began) / (2 * number / FIFTY if name.startswith("compare") else number)
        rows.append([f"{number:,}", *(f"{1e3 * seconds:.3g}" for seconds in took.values())])
        print(f"{number:,}: {', '.join(f'{name} {1e3 * seconds:.3g} ms a record' for name, seconds in took.items())}", flush=True)
    print(here())
    print(tabulated(rows, ["records", *took], [], "github"))
    return 0


def of_board(board: str, count: int) -> Iterator[Record]:
    """Yield so many records of a board."""
    for record in synthetic_runs.records(synthetic_runs.cells(count), session=board):
        cell = replace(record.cell, target=board)
        yield replace(record, id=cell.id, cell=cell)


def appending(run: Path, folder: Path) -> float:
    """Return the seconds that a journal takes for each of the first thousand records of a run, each of them on the disk."""
    some = journal.read(run)[:1000]
    written = journal.Journal(folder)
    began = time.perf_counter()
    for record in some:
        written.append(record)
    took = time.perf_counter() - began
    written.close()
    return took / len(some)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for what is made; it must be empty")
    parser.add_argument("what", choices=("kills", "costs", "records"))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--boards", default="2,4")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--number", default="25000,50000,100000")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if given.what == "kills":
        return kills(folder, given.times, given.seed)
    if given.what == "records":
        return records(folder, [int(number) for number in given.number.split(",")])
    return costs(folder, [int(number) for number in given.boards.split(",")], given.cells, lambda text: None)


if __name__ == "__main__":
    sys.exit(main())
