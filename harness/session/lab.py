"""Boards out of a labgrid lab: by its command line reserved, acquired, named as places, and given back.

A lab says who may use a board. Who measures there the lock on the board says (harness/lock.py), whatever the lab has forgotten.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from plumbline.harness.session import places
from plumbline.harness.session.places import BadPlace
from plumbline.harness.target import BadTarget, Target, in_lab

CLIENT = "labgrid-client"
ANSWERS_S = 30.0  # after which a coordinator that has not answered does not answer
HANDS_OUT_S = 5.0  # in which a lab reserves a board that is free
SAYS_S = 60.0  # between two words on what is waited for
# What a user of labgrid may have set, and would be taken for what is asked here.
NOT_OURS = ("LG_ENV", "LG_INITIAL_STATE", "LG_PLACE", "LG_STATE", "LG_TOKEN")
ENDINGS = ("SIGHUP", "SIGTERM")  # a closed terminal, a job that is cancelled

# What labgrid-client says, and what that means; the first that fits.
SAID = {
    "Could not connect to coordinator":
        "the coordinator at {coordinator} does not answer; see whether labgrid-coordinator runs, or set $LG_COORDINATOR",
    "has no matching remote resource":
        "nothing is exported for this place; see whether its labgrid-exporter runs",
}  # fmt: skip


def on_stderr(text: str) -> None:
    """Say it where no output of a command is disturbed."""
    print(text, file=sys.stderr, flush=True)


class Listed(NamedTuple):
    """A place of the lab: its name, its tags as KEY=VALUE, and who has acquired it, HOST/USER."""

    name: str
    tags: frozenset[str]
    holder: str | None

    def fits(self, wanted: Collection[str]) -> bool:
        return set(wanted) <= {*self.tags, f"name={self.name}"}

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(sorted(self.tags)) or 'no tags'})"


class Lab:
    """The boards that a session has out of a lab. `close` gives them back.

    Of several targets `lab:X`, those that differ in their device alone are one board; the same one again is another board.
    `wait_s` is how long to wait for a board that others have.
    """

    def __init__(self, say: Callable[[str], None] = on_stderr, wait_s: float = 0.0) -> None:
        self._say, self._wait_s = say, wait_s
        self._held: list[str] = []
        self._before: dict[signal.Signals, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def hand_out(self, targets: Sequence[str], earlier: Collection[str] = ()) -> list[str]:
        """Return the targets, with the board that was acquired in the place of `lab:X`; of those that fit, one of `earlier`.

        Raises BadPlace, also where nothing is free in time, and BadTarget.
        """
        self._end_in_order()
        return self._with_boards(targets, lambda wanted: self._acquired(wanted, earlier))

    def look_up(self, targets: Sequence[str], earlier: Collection[str] = ()) -> list[str]:
        """Return the targets, with a board that would do in the place of `lab:X`; nothing is acquired. Raises as `hand_out`."""
        found: list[str] = []

        def first(wanted: tuple[str, ...]) -> str:
            fit = [each.name for each in _again(self._fitting(wanted), earlier) if each.name not in found]
            if not fit:
                raise BadPlace(f"expected another place of the lab with {_words(wanted)}, got no more than {', '.join(found)}")
            found.append(fit[0])
            self._say(f"as if the lab had handed out {fit[0]} for {_words(wanted)}; nothing is acquired")
            return fit[0]

        return self._with_boards(targets, first)

    def close(self) -> None:
        """Give back what was acquired, also where Ctrl-C comes again; what cannot be is said, with the command that does it."""
        in_main = threading.current_thread() is threading.main_thread() and bool(self._held)
        for number in _signals("SIGINT", *ENDINGS) if in_main else ():
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, signal.SIG_IGN)
        while self._held:
            name, release = self._held[-1], ("release-from", whoami())
            try:
                _client("-p", name, *release)
            except BadPlace as error:
                command = shlex.join([CLIENT, "-p", name, *release])
                gone = f"place {name} is not acquired" in str(error)
                forgotten = (
                    f"the lab had forgotten who has {name}, as a restarted coordinator does; others may have waited for its lock"
                )
                self._say(forgotten if gone else f"{name} is not given back: {error}; later: {command}")
            else:
                self._say(f"{name} is given back to the lab")
            self._held.pop()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _end_in_order(self) -> None:
        """Let whatever would end this process at once end it as Ctrl-C does: boards are given back then."""
        if threading.current_thread() is threading.main_thread():
            for number in _signals(*ENDINGS):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._before[number] = signal.signal(number, signal.default_int_handler)

    def _with_boards(self, targets: Sequence[str], board: Callable[[tuple[str, ...]], str]) -> list[str]:
        """Put boards into targets; those that leave the least choice come first, so that no other takes theirs."""
        asked: list[tuple[Target, tuple[tuple[str, ...], int] | None]] = []
        seen: Counter[Target] = Counter()
        for target in map(Target.parse, targets):
            wanted = in_lab(target.place)
            asked.append((target, None if wanted is None else (wanted, 0 if _one(wanted) else seen[target])))
            seen[target] += 1
        keys = sorted({key for _, key in asked if key is not None}, key=lambda key: (not _one(key[0]), -len(key[0]), key))
        boards = {key: place_of(board(key[0])) for key in keys}
        return [target.name if key is None else Target(boards[key], target.device).name for target, key in asked]

    def _fitting(self, wanted: Collection[str]) -> list[Listed]:
        """Return the places with these tags, those first that are free. Raises BadPlace where there is none."""
        listed = parse(_client("-v", "places"))
        found = [place for place in listed if place.fits(wanted)]
        if not found:
            there = ", ".join(map(str, listed)) or "no place at all"
            raise BadPlace(f"expected a place of the lab with {_words(wanted)}, got {there}")
        return sorted(found, key=lambda place: place.holder is not None)

    def _acquired(self, wanted: tuple[str, ...], earlier: Collection[str]) -> str:
        """Reserve a place and acquire it; the reservation goes then, as it would keep the place from others for a while."""
        fitting = self._fitting(wanted)
        chosen = _again(fitting, earlier)
        if all(place.holder for place in chosen) and not self._wait_s:
            raise BadPlace(self._taken(wanted, chosen))
        filters = wanted if chosen == fitting else (f"name={chosen[0].name}",)
        token = None
        try:
            with _ended_later():
                token = _client("reserve", "--shell", *filters).strip().rpartition("=")[2]
            name = self._allocated(token, wanted, filters)
            with _ended_later():
                _client("-p", name, "acquire")
                self._held.append(name)
        finally:
            if token is not None:
                _client("cancel-reservation", token, check=False)
        killed = shlex.join([CLIENT, "-p", name, "release-from", whoami()])
        self._say(f"the lab has handed out {name} for {_words(wanted)}; should this session be killed: {killed}")
        return name

    def _allocated(self, token: str, wanted: tuple[str, ...], filters: tuple[str, ...]) -> str:
        """Wait until a place is reserved, and return its name. Raises BadPlace."""
        until = time.monotonic() + max(self._wait_s, HANDS_OUT_S)
        waiting = _started("wait", token)
        try:
            patience = HANDS_OUT_S
            while True:
                try:
                    told, _ = waiting.communicate(timeout=max(0.0, min(patience, until - time.monotonic())))
                    break
                except subprocess.TimeoutExpired:
                    patience = SAYS_S
                    others = self._fitting(filters)
                    if time.monotonic() >= until:
                        raise BadPlace(self._taken(wanted, others)) from None
                    self._say(f"waiting for a board with {_words(wanted)}: {_holders(others)}")
        finally:
            waiting.kill()
            waiting.wait()
        if (found := re.search(r"^allocations:\n +main: (.+)$", told, re.MULTILINE)) is None:
            raise BadPlace(f"expected {CLIENT} to reserve a place, got {told.strip().splitlines()[-1:] or 'nothing'}")
        return found[1]

    def _taken(self, wanted: tuple[str, ...], others: Sequence[Listed]) -> str:
        held = next((place for place in others if place.holder and place.name not in self._held), None)
        who = held and held.holder
        gone = f"; if {who} is gone for good: {CLIENT} -p {held.name} release-from {who}" if held and who else ""
        time_s = f" in {self._wait_s:g} s" if self._wait_s else ""
        return f"no board with {_words(wanted)} is free{time_s}: {_holders(others)}; wait for it: --wait SECONDS{gone}"


def _signals(*names: str) -> list[signal.Signals]:
    """Return those that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


@contextmanager
def _ended_later() -> Iterator[None]:
    """Let what would end the session end it afterwards: of a command that is cut short nobody knows what it has done."""
    came: list[int] = []
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _signals("SIGINT", *ENDINGS):
                before[number] = signal.getsignal(number)
                signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def place_of(name: str) -> str:
    """Return the place that a place of the lab is: of targets.toml where that has the name, else `ssh:NAME`. Raises BadPlace."""
    for text in (name, f"ssh:{name}"):
        try:
            if Target.parse(text).place == text:
                return places.find(text).name
        except (BadTarget, BadPlace):
            continue
    raise BadPlace(f"expected the lab to name a place of targets.toml or a host for ssh, got {name!r}; rename it in the lab")


def whoami() -> str:
    """Return the name under which labgrid acquires, HOST/USER: $LG_HOSTNAME and $LG_USERNAME, or this host and user."""
    return f"{os.environ.get('LG_HOSTNAME') or socket.gethostname()}/{os.environ.get('LG_USERNAME') or getpass.getuser()}"


def parse(text: str) -> list[Listed]:
    """Read what `labgrid-client -v places` writes."""
    found = []
    for part in re.split(r"^Place '", text, flags=re.MULTILINE)[1:]:
        lines = dict(line.strip().partition(": ")[::2] for line in part.splitlines())
        tags = frozenset(tag.strip() for tag in lines.get("tags", "").split(",") if tag.strip())
        holder = lines.get("acquired", "None")
        found.append(Listed(part.partition("'")[0], tags, None if holder == "None" else holder))
    return found


def _again(fitting: list[Listed], earlier: Collection[str]) -> list[Listed]:
    return [place for place in fitting if place_of(place.name) in earlier] or fitting


def _one(wanted: Sequence[str]) -> bool:
    return wanted[0].startswith("name=")


def _words(wanted: Collection[str]) -> str:
    return " ".join(wanted)


def _holders(listed: Sequence[Listed]) -> str:
    return ", ".join(f"{place.name} is {f'held by {place.holder}' if place.holder else 'reserved'}" for place in listed)


def _started(*arguments: str) -> subprocess.Popen[str]:
    """Start labgrid-client, which Ctrl-C does not reach. Raises BadPlace where it is not installed."""
    variables = {key: value for key, value in os.environ.items() if key not in NOT_OURS}
    try:
        return subprocess.Popen(
            [CLIENT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=variables,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise BadPlace(
            f"expected {CLIENT} on the PATH, got none; install labgrid in an environment of its own, and link it: docs/lab.md"
        ) from error
    except OSError as error:
        raise BadPlace(f"{CLIENT} cannot be run: {error}") from error


def _client(*arguments: str, check: bool = True) -> str:
    """Run labgrid-client and return what it wrote. Raises BadPlace, unless `check` is off, with the meaning of what it said."""
    running = _started(*arguments)
    try:
        told, said = running.communicate(timeout=ANSWERS_S)
    except subprocess.TimeoutExpired:
        running.kill()
        told, _ = running.communicate()
        said = f"it has not answered in {ANSWERS_S:g} s"
    if check and running.returncode != 0:
        raise BadPlace(f"{CLIENT} {shlex.join(arguments)}: {_meaning(said, running.returncode)}")
    return told


def _meaning(said: str, code: int) -> str:
    coordinator = os.environ.get("LG_COORDINATOR", "127.0.0.1:20408")
    found = next((meaning for pattern, meaning in SAID.items() if pattern in said), None)
    if found is not None:
        return found.format(coordinator=coordinator)
    last = said.strip().splitlines()[-1:] or [f"it wrote nothing, exit code {code}"]
    return last[0].removeprefix("labgrid-client: ").removeprefix("Error: ")
