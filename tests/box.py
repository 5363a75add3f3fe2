"""A device in a box: a recorded tree (tests/devices/) that changes as a virtual clock goes, so that no device is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbline.harness.studies import recording

DEVICES = Path(__file__).parent / "devices"
COUNTERS = "energy_uj"  # between two moments of a recording such a file goes on evenly; any other one stays as it was


class Clock:
    """Time that goes only when it is told to. What runs in the background runs while it goes."""

    def __init__(self, went: Callable[[float], None] = lambda now: None) -> None:
        self.now, self._went = 0.0, went
        self._polls: list[tuple[Callable[[], float], float]] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time go. Also a `sleep`."""
        end = self.now + seconds
        while self._polls and min(due for _, due in self._polls) <= end:
            self._move(max(self.now, min(due for _, due in self._polls)))
            self._polls = [(poll, due if due > self.now else self.now + max(poll(), 1e-6)) for poll, due in self._polls]
        self._move(end)

    def jump(self, seconds: float) -> None:
        """Show another time, though none went by: who waits in the background waits no longer and no shorter."""
        self.now += seconds
        self._polls = [(poll, due + seconds) for poll, due in self._polls]

    def _move(self, now: float) -> None:
        self.now = now
        self._went(now)

    @contextmanager
    def background(self, poll: Callable[[], float]) -> Iterator[None]:
        """Stand in for the thread that polls meters."""
        self._polls.append((poll, self.now))
        yield
        self._polls = [entry for entry in self._polls if entry[0] is not poll]


class Box:
    """A device unpacked into a folder, and the clock by which its files change."""

    def __init__(self, recorded: str, root: Path) -> None:
        self.root, self.clock = root, Clock(self._write)
        self._states = recording.parsed(recorded)
        self._shown: dict[str, str] = {}
        self.changes: dict[str, str] = {}  # by path: what a file says, whatever was recorded
        self._write(0.0)

    def _write(self, now: float) -> None:
        files: dict[str, str] = {}
        for state in self._states:
            if state.since_s <= now:
                files |= state.files
        for name in [name for name in files if name.endswith(COUNTERS) and not files[name].startswith(recording.UNREADABLE)]:
            files[name] = str(self._counted(name, now))
        for name, text in (files | self.changes).items():
            if self._shown.get(name) != text:
                path = self.root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text + "\n")
                if text.startswith(recording.UNREADABLE):
                    path.chmod(0)
                self._shown[name] = text

    def _counted(self, name: str, now: float) -> int:
        points = [(state.since_s, int(state.files[name])) for state in self._states if name in state.files]
        before = max(point for point in points if point[0] <= now)
        after = min((point for point in points if point[0] > now), default=before)
        if after == before:
            return before[1]
        wraps_at = int(self._states[0].files.get(name.replace(COUNTERS, "max_energy_range_uj"), 0))
        step = after[1] - before[1]
        step += wraps_at if step < 0 else 0
        counted = before[1] + round(step * (now - before[0]) / (after[0] - before[0]))
        return counted - wraps_at if wraps_at and counted >= wraps_at else counted


def box(name: str, folder: Path) -> Box:
    """Unpack one of tests/devices/."""
    return Box((DEVICES / f"{name}.txt").read_text(), folder)
