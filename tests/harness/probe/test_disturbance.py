"""What others took of the processor while something was timed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.harness import quiet
from plumbline.harness.facts import Latency
from plumbline.harness.machine import allowed_processors
from plumbline.harness.probe import disturbance
from plumbline.harness.probe.disturbance import Disturbance
from plumbline.harness.readings import Reading, read
from tests.harness.meters.test_nvml import FakeNvml, sampled
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

    def clocks(self, khz: dict[int, int]) -> None:
        """Show the clocks of processors."""
        for number, clock in khz.items():
            file = self.root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{clock}\n")

    def begin(self) -> Disturbance:
        return Disturbance(lambda: self.now, self.root, lambda: self.own)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def values(begun: Disturbance) -> dict[str, float | None]:
    return {quantity: reading.value for quantity, reading in begun.read().items()}


def test_what_others_took_is_what_this_process_did_not(kernel: Kernel) -> None:
    """Known truth: of four seconds the processor was busy for three and a half, two of them for this process.

    Of half a second that the hypervisor took, a tick of 10 ms is not certain.
    """
    kernel.busy = 100.0
    kernel.show()
    begun = kernel.begin()
    kernel.now, kernel.own, kernel.busy, kernel.steal = 4.0, 2.0, 103.5, 0.5
    kernel.pressure, kernel.waited, kernel.throttled = 3.0, 1.0, 2
    kernel.show()
    found = values(begun)
    assert found["seconds"] == 4.0
    assert (found["others"], found["cpu_steal"], found["cpu_pressure"], found["waited"]) == (0.375, 0.1225, 0.75, 0.25)
    assert found["throttled"] == 2


def test_a_process_alone_is_disturbed_by_nobody(kernel: Kernel) -> None:
    begun = kernel.begin()
    kernel.now, kernel.own, kernel.busy = 4.0, 4.004, 4.0  # ticks are coarser than the process's own clock
    kernel.show()
    found = values(begun)
    assert (found["others"], found["waited"], found["cpu_steal"]) == (0.0, 0.0, 0.0)


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "resource", None)
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


@pytest.mark.parametrize(("own_s", "drop"), [(0.9, 0.25), (0.1, None)])
def test_a_clock_that_falls_is_seen_where_this_process_was_awake(kernel: Kernel, own_s: float, drop: float | None) -> None:
    """Processors that sleep slow down, on every machine that saves power; that disturbs nobody."""
    kernel.clocks({CPU: 2_000_000})
    begun = kernel.begin()
    kernel.now, kernel.own = 1.0, own_s
    kernel.clocks({CPU: 1_500_000})
    found = begun.read()["clock_drop"]
    assert found.value == drop
    assert (found.unavailable is None) == (drop is not None)


def test_the_clock_is_that_of_the_processor_that_is_awake(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean would have fallen by a fifth, as a processor that is not used went to sleep."""
    monkeypatch.setattr(disturbance, "allowed_processors", lambda: {0, 1})
    kernel.clocks({0: 2_000_000, 1: 2_000_000})
    begun = kernel.begin()
    kernel.now, kernel.own = 1.0, 1.0
    kernel.clocks({0: 2_000_000, 1: 1_200_000})
    assert values(begun)["clock_drop"] == 0.0


def test_what_a_thread_that_ended_had_waited_before_hides_nothing(kernel: Kernel) -> None:
    """One had waited for 5 s before; meanwhile it ended, and another one waited for a second."""
    ended = kernel.root / "proc/self/task/9/schedstat"
    ended.parent.mkdir()
    ended.write_text("1 5000000000 5\n")
    begun = kernel.begin()
    ended.unlink()
    kernel.now, kernel.waited = 4.0, 1.0
    kernel.show()
    assert values(begun)["waited"] == 0.25


def test_a_kernel_that_shows_zeros_does_not_count(kernel: Kernel) -> None:
    for task in ("7", "8"):
        (kernel.root / f"proc/self/task/{task}/schedstat").write_text("0 0 0\n")
    begun = kernel.begin()
    kernel.now = 4.0
    assert begun.read()["waited"].unavailable == "this kernel does not count in /proc/self/task/*/schedstat"


def test_a_kernel_that_does_not_count_this_process_counts_no_others(kernel: Kernel) -> None:
    """A sandbox shows a /proc/stat that stands still; nothing is known of others then, and not that they had nothing."""
    begun = kernel.begin()
    kernel.now, kernel.own = 4.0, 3.0
    found = begun.read()["others"]
    assert found.value is None
    assert found.unavailable == "/proc/stat went backwards, or does not count this process"


def test_a_counter_that_goes_backwards_is_not_taken_for_nothing(kernel: Kernel) -> None:
    """As steal does where a virtual machine has moved to another host."""
    kernel.steal, kernel.pressure = 5.0, 5.0
    kernel.show()
    begun = kernel.begin()
    kernel.now, kernel.steal, kernel.pressure = 4.0, 0.0, 0.0
    kernel.show()
    found = begun.read()
    assert found["cpu_steal"].unavailable == "/proc/stat went backwards, or does not count this process"
    assert found["cpu_pressure"].unavailable == "/proc/pressure/cpu went backwards, or does not count this process"


def test_one_tick_of_a_short_time_is_no_disturbance(kernel: Kernel) -> None:
    """10 ms of 0.1 s would be five times the limit, and may have been 1 ms."""
    begun = kernel.begin()
    kernel.now, kernel.steal = 0.1, 0.01
    kernel.show()
    assert values(begun)["cpu_steal"] == 0.0


@pytest.mark.parametrize(
    ("before", "bits", "throttled"), [("50005", "50005", 1.0), ("50000", "50000", 0.0), ("10000", "50000", 1.0)]
)
@pytest.mark.parametrize("firmware", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware"])
def test_a_raspberry_pi_that_is_throttled_says_so(
    kernel: Kernel, firmware: str, before: str, bits: str, throttled: float
) -> None:
    """The lower bits say what is now, the upper ones what was since it started: of those, one that is new."""
    file = kernel.root / "sys/devices/platform" / firmware / "get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(before)
    begun = kernel.begin()
    file.write_text(bits)
    assert values(begun)["throttled"] == throttled


def gpu(kernel: Kernel, samples: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, **how: Any) -> Reading:
    """What is read of others on a GPU of which NVML has such samples: number of the process, and percent of the GPU."""
    fake = FakeNvml(**how)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    begun = Disturbance(lambda: kernel.now, kernel.root, lambda: kernel.own, "cuda:0")
    fake.samples = [sampled(pid, percent) for pid, percent in samples]
    return begun.read()["gpu_others"]


def test_what_others_had_of_the_gpu(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu(kernel, [(os.getpid(), 60), (1, 25), (2, 5)], monkeypatch).value == 0.3
    assert gpu(kernel, [(os.getpid(), 99)], monkeypatch).value == 0.0
    assert "gpu_others" not in kernel.begin().read(), "a cell on the processor has no GPU"


@pytest.mark.parametrize(
    ("samples", "how", "reason"),
    [
        ([], {"missing": ("utilization",)}, "NVML: Not Supported"),
        ([], {"missing": ("init",)}, "NVML: Not Supported"),
        ([(1, 50)], {}, "NVML has no sample of this process"),  # in a container, and this may be it
        ([(0, 4_000_000_000)], {}, "NVML says that a process had 4000000000 % of the GPU"),
    ],
)
def test_what_others_had_of_the_gpu_may_not_be_known(
    kernel: Kernel, samples: list[tuple[int, int]], how: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [(pid or os.getpid(), percent) for pid, percent in samples]
    found = gpu(kernel, known, monkeypatch, **how)
    assert found.value is None
    assert (found.unavailable or "").startswith(reason)


def test_a_gpu_that_others_use_disturbs() -> None:
    found = quiet.reasons({"gpu_others": read("1", "machine", 0.3)})
    assert found == ["other processes had 30.0% of its GPU"]


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
