"""What others took of the processor while something was timed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline.harness import machine
from plumbline.harness.facts import Latency
from plumbline.harness.machine import allowed_processors
from plumbline.harness.probe import disturbance
from plumbline.harness.probe.disturbance import Disturbance
from plumbline.harness.readings import read
from tests.records import latency_of, replace

CPU = min(allowed_processors())


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(disturbance, "allowed_processors", lambda: {CPU})


class Kernel:
    """The files that a kernel shows of one processor, and the time that goes on; all in seconds."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.own, self.busy, self.steal, self.pressure, self.waited, self.throttled = root, *[0.0] * 7
        self.show()

    def show(self) -> None:
        processor = f"cpu{CPU} {self.busy * 100:.0f} 0 0 900 50 0 0 {self.steal * 100:.0f} 0 0"
        files = {
            "proc/stat": f"cpu 0 0 0 0 0 0 0 0\n{processor}\ncpu999 9 9 9 9\n",
            "proc/pressure/cpu": f"some avg10=0.00 total={self.pressure * 1e6:.0f}\nfull avg10=0.00 total=0\n",
            "proc/self/task/7/schedstat": f"1 {self.waited * 1e9:.0f} 5\n",
            "proc/self/task/8/schedstat": "1 500 5\n",
            f"sys/devices/system/cpu/cpu{CPU}/thermal_throttle/core_throttle_count": f"{self.throttled:.0f}\n",
        }
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def begin(self) -> Disturbance:
        return Disturbance(lambda: self.now, self.root, lambda: self.own)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def values(begun: Disturbance) -> dict[str, float | None]:
    return {quantity: reading.value for quantity, reading in begun.read().items()}


def test_what_others_took_is_what_this_process_did_not(kernel: Kernel) -> None:
    """Known truth: of four seconds the processor was busy for three and a half, two of them for this process."""
    kernel.busy = 100.0
    kernel.show()
    begun = kernel.begin()
    kernel.now, kernel.own, kernel.busy, kernel.steal = 4.0, 2.0, 103.5, 0.5
    kernel.pressure, kernel.waited, kernel.throttled = 3.0, 1.0, 2
    kernel.show()
    found = values(begun)
    assert found["seconds"] == 4.0
    assert (found["others"], found["cpu_steal"], found["cpu_pressure"], found["waited"]) == (0.375, 0.125, 0.75, 0.25)
    assert found["throttled"] == 2


def test_a_process_alone_is_disturbed_by_nobody(kernel: Kernel) -> None:
    begun = kernel.begin()
    kernel.now, kernel.own, kernel.busy = 4.0, 4.004, 4.0  # ticks are coarser than the process's own clock
    kernel.show()
    found = values(begun)
    assert (found["others"], found["waited"], found["cpu_steal"]) == (0.0, 0.0, 0.0)


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "resource", None)
    monkeypatch.setattr(machine, "state", dict)
    found = Disturbance(iter([10.0, 14.0]).__next__, tmp_path).read()
    unread = {quantity: reading.unavailable for quantity, reading in found.items() if reading.value is None}
    assert set(unread) == set(found) - {"seconds"}
    assert unread["cpu_pressure"] == "this system has no /proc/pressure/cpu"
    assert all(unread.values())


def test_switches_and_faults_are_those_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Iterator[int] = iter([100, 142])
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_nivcsw=next(counts), ru_majflt=5))
    monkeypatch.setattr(disturbance, "resource", usage)
    found = values(Disturbance())
    assert (found["involuntary_switches"], found["major_faults"]) == (42, 0)


def test_a_clock_that_falls_is_seen(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([2e9, 1.5e9])
    monkeypatch.setattr(machine, "state", lambda: {"clock": read("Hz", "machine", next(clocks))})
    begun = kernel.begin()
    kernel.now = 1.0
    assert values(begun)["clock_drop"] == 0.25


@pytest.mark.parametrize(("bits", "throttled"), [("50005", 1.0), ("50000", 0.0)])
def test_a_raspberry_pi_that_is_throttled_says_so(kernel: Kernel, bits: str, throttled: float) -> None:
    """The lower bits say what is now, the upper ones what was since it started."""
    file = kernel.root / "sys/devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(bits)
    assert values(kernel.begin())["throttled"] == throttled


def latency(median_s: float, others: float) -> Latency:
    found = {"others": read("1", "machine", others)}
    return replace(latency_of(), first_s=median_s, disturbance=found)


@pytest.mark.parametrize(
    ("others", "becomes_calm", "kept", "tries"),
    [
        ([0.0], True, 1, 1),  # quiet
        ([0.5, 0.0], True, 2, 2),  # disturbed, then quiet
        ([0.5, 0.7], True, 1, 2),  # disturbed more when it was repeated
        ([0.5], False, 1, 1),  # never calm: not repeated
    ],
)
def test_a_disturbed_measurement_is_repeated_once_when_it_is_calm(
    others: list[float], becomes_calm: bool, kept: int, tries: int
) -> None:
    left, said = list(enumerate(others, 1)), list[str]()
    found = disturbance.in_quiet(lambda: latency(*left.pop(0)), 5.0, said.append, lambda within_s: becomes_calm)
    assert (found.first_s, found.tries, left) == (kept, tries, [])
    assert bool(found.disturbed) == (others[kept - 1] > 0.05)
    assert len(said) == (others[0] > 0.05)


def test_nothing_is_repeated_where_no_time_is_given_for_that() -> None:
    left = [latency(1, 0.5)]
    assert disturbance.in_quiet(left.pop, 0.0, print).tries == 1


def test_calm_is_waited_for_as_long_as_is_allowed(kernel: Kernel) -> None:
    busy = iter([0.4, 0.3, 0.0])

    def sleep(seconds: float) -> None:
        kernel.now += seconds
        kernel.busy += next(busy, 0.4) * seconds
        kernel.show()

    def waited(within_s: float) -> bool:
        return disturbance.calm(within_s, lambda: kernel.now, sleep, root=kernel.root, own=lambda: 0.0)

    assert waited(5.0) and kernel.now == 3 * disturbance.WINDOW_S
    kernel.now = 0.0
    assert not waited(1.2) and kernel.now == 1.0, "two looks fit into it"
