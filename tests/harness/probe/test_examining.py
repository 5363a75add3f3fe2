"""The doctor: instruments held against truths that are known."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from plumbline.harness import machine, quiet, runtimes, timing
from plumbline.harness.examination import BETTER, FIT, MISSING, UNFIT, Check, Circumstance, Examination
from plumbline.harness.meters import METERS, EnergyMeter, Rail
from plumbline.harness.meters.cpu_time import CpuTime
from plumbline.harness.probe import examining, memory
from plumbline.harness.readings import read
from plumbline.harness.settings import Settings


class Processor:
    """A counted loop takes a microsecond a step, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for name in ("measure", "interleave_calls", "best"):
            self._on_own_clock(monkeypatch, name)
        monkeypatch.setattr(examining, "_loop", lambda count: lambda: self.work(count * 1e-6))

    def work(self, seconds: float) -> None:
        self.now += seconds

    def _on_own_clock(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        usual = getattr(timing, name)

        def on_own_clock(*arguments: Any, **options: Any) -> Any:
            if name == "interleave_calls":
                turns = {key: partial(timing.turn, call, wait, self.clock) for key, (call, wait) in arguments[0].items()}
                return timing.interleave(turns, clock=self.clock, **options)
            return usual(*arguments, clock=self.clock, **options)

        monkeypatch.setattr(timing, name, on_own_clock)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    return Processor(monkeypatch)


def off(checks: list[Check]) -> list[str]:
    return [check.truth for check in checks if check.verdict != FIT]


def test_an_instrument_that_is_right_passes_all(processor: Processor) -> None:
    drifts: list[float] = []
    checks = [*examining._loops(), *examining._stories(drifts)]
    assert len(checks) == 8 and off(checks) == []
    assert all(check.error == pytest.approx(0.0, abs=2e-3) for check in checks)
    assert examining._speed(drifts).verdict == FIT


def test_a_machine_whose_own_speed_changes_could_be_better(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared with its plain loop cannot be judged, and that alone is no word against it."""
    usual, speeds = examining._measured, iter((1.0, 1.0, 1.1, 1.1, 1.1))

    def faster_and_slower(length: Any, count: int) -> Any:
        return usual(length, round(count * next(speeds)))

    monkeypatch.setattr(examining, "_measured", faster_and_slower)
    drifts: list[float] = []
    assert "a cold start: ten calls take three times as long" in off(list(examining._stories(drifts)))
    speed = examining._speed(drifts)
    assert (speed.verdict, speed.found) == (BETTER, "a plain loop changed by 10.0% within seconds")
    assert "take turns" in speed.advice


def test_a_loop_of_one_thread_takes_as_much_processor_time_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "BUSY_S", 0.05)
    disturbed: list[str] = []
    monkeypatch.setattr(quiet, "reasons", lambda found: disturbed)
    (check,) = examining._processor_time()
    assert check.instrument == "cpu_time" and check.got is not None and 0 < check.got <= 1.05 * (check.expected or 0)
    monkeypatch.setattr(CpuTime, "end", lambda self: 0.0)
    assert off(list(examining._processor_time())) == ["a loop that keeps one processor busy"]
    disturbed.append("others had it")
    assert [check.unavailable for check in examining._processor_time()] == ["others had it"], "no fault of the meter"


def test_memory_of_known_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "ALLOCATED", (10 * 10**6, 100 * 10**6, 10**15))
    checks = list(examining._memory())
    assert [check.verdict for check in checks] == [FIT, FIT, MISSING], checks
    assert checks[2].unavailable is not None and "are free" in checks[2].unavailable
    usual = memory.growth
    monkeypatch.setattr(memory, "growth", lambda call: (int(1.1 * (usual(call)[0] or 0)), None))
    assert off(list(examining._memory()))[:2] == ["an allocation of 10 MB", "an allocation of 100 MB"]


def test_memory_that_a_runtime_keeps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "KEEPING", {"onnxruntime": "ONNX Runtime"})
    (check,) = examining._kept()
    assert (check.verdict, check.truth) == (FIT, "a tensor of 100 MB within ONNX Runtime"), check
    usual = memory.growth
    monkeypatch.setattr(memory, "growth", lambda call: (int(1.1 * (usual(call)[0] or 0)), None))
    assert off(list(examining._kept())) == ["a tensor of 100 MB within ONNX Runtime"]
    monkeypatch.setattr(machine, "memory_free", lambda: 300 * 10**6)
    assert [check.unavailable for check in examining._kept()] == ["only 300 MB are free"]
    monkeypatch.setattr(runtimes, "missing", lambda adapter: "onnxruntime is not installed")
    assert [check.unavailable for check in examining._kept()] == ["onnxruntime is not installed"]


def test_the_clock_keeps_the_time_of_one_that_nobody_adjusts() -> None:
    clock, sleep = examining._clocks()
    assert clock.error is not None and abs(clock.error) < 0.001
    assert sleep.got is not None and sleep.got >= 0.02, "no sleep is shorter than asked for"


def a_clock_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {name: getattr(time, name) for name in ("sleep", "clock_gettime_ns", "CLOCK_MONOTONIC_RAW")}
    monkeypatch.setattr(examining, "time", SimpleNamespace(**fast, perf_counter=lambda: 1.05 * time.perf_counter()))


def samples_that_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = timing.sample
    monkeypatch.setattr(timing, "sample", lambda *how: [1.3 * seconds for seconds in usual(*how)])


def a_clock_with_coarse_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processor, "clock", lambda self: self.now // 1e-3 * 1e-3)


def what_a_turn_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = timing.turn
    monkeypatch.setattr(timing, "turn", lambda *how, **options: usual(*how, **options) + 5e-5)


def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "warm_up", lambda *how: (0, 0.0, False))
    monkeypatch.setattr(examining, "SAMPLING", Settings(warmup_s=0.0, sampling_s=0.06, min_samples=8, max_samples=16))


def a_mean_for_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = timing.summarise

    def by_the_mean(samples: list[float], *how: Any) -> Any:
        return replace(usual(samples, *how), median_s=sum(samples) / len(samples))

    monkeypatch.setattr(timing, "summarise", by_the_mean)


def peaks_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = timing.summarise
    monkeypatch.setattr(
        timing, "summarise", lambda samples, *how: usual([one for one in samples if one < 2 * min(samples)] * 2, *how)
    )


def one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        timing,
        "interleave",
        lambda turns, *, rounds, **how: {key: [turn() for _ in range(rounds)] for key, turn in turns.items()},
    )


def no_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "reasons", lambda found: [])
    monkeypatch.setattr(CpuTime, "end", lambda self: 0.0)


def what_is_held_afterwards_for_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_bytes", memory.resident_bytes)


def a_tenth_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = memory.growth
    monkeypatch.setattr(memory, "growth", lambda call: (int(1.1 * (usual(call)[0] or 0)), None))


# What breaks the instrument of each check of the doctor, by its truth.
BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a second of CLOCK_MONOTONIC_RAW": a_clock_that_is_fast,
    "a sleep of 20 ms": samples_that_are_long,
    "a counted loop, twice as long": what_a_turn_adds,
    "a slowdown by 2%": a_clock_with_coarse_ticks,
    "a slowdown by 5%": a_clock_with_coarse_ticks,
    "a slowdown by 10%": a_clock_with_coarse_ticks,
    "a cold start: ten calls take three times as long": no_warm_up,
    "spikes: each twentieth call takes three times as long": a_mean_for_the_median,
    "the same spikes": peaks_that_are_left_out,
    "a drift that both sides share": one_after_the_other,
    "a loop that keeps one processor busy": no_processor_time,
    "an allocation of 10 MB": a_tenth_too_much,
    "an allocation of 100 MB": what_is_held_afterwards_for_the_peak,
    "a tensor of 100 MB within ONNX Runtime": a_tenth_too_much,
    "a tensor of 100 MB within OpenVINO": a_tenth_too_much,
}


def all_checks() -> list[Check]:
    """Each of the doctor's checks, whose loops run on a clock of their own."""
    parts = (
        examining._clocks(),
        examining._loops(),
        examining._stories([]),
        examining._processor_time(),
        examining._memory(),
        examining._kept(),
    )
    return list(chain(*parts))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "BUSY_S", 0.05)
    monkeypatch.setattr(examining, "ALLOCATED", (10 * 10**6, 100 * 10**6))


def test_each_check_of_the_doctor_has_something_that_breaks_it(processor: Processor, short: None) -> None:
    assert [check.truth for check in all_checks()] == list(BROKEN)


@pytest.mark.parametrize("truth", BROKEN)
def test_a_broken_instrument_is_not_fit(truth: str, processor: Processor, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if "OpenVINO" in truth:
        pytest.importorskip("openvino")
    makers = {
        "CLOCK": examining._clocks, "a sleep": examining._clocks, "a counted": examining._loops, "a slowdown": examining._loops,
        "keeps one": examining._processor_time, "an allocation": examining._memory, "a tensor": examining._kept,
    }  # fmt: skip
    make = next((make for words, make in makers.items() if words in truth), partial(examining._stories, []))
    BROKEN[truth](monkeypatch)
    (check,) = (check for check in make() if check.truth == truth)
    assert check.verdict == UNFIT, check


def test_a_system_without_that_clock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_MONOTONIC_RAW")
    clock, _ = examining._clocks()
    assert (clock.verdict, clock.unavailable) == (MISSING, "this system has no such clock")


def test_what_does_not_fit_into_a_container_is_not_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host with enough; the kernel would kill the doctor."""
    monkeypatch.setattr(machine, "memory_free", lambda: 150 * 10**6)
    small, *others = examining._memory()
    assert small.unavailable is None and small.got is not None
    assert [check.unavailable for check in others] == ["150 MB are free, and half of that is not touched"] * 2


def kernel(root: Path, **files: str) -> Path:
    names = {
        "governor": "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "boost": "sys/devices/system/cpu/cpufreq/boost",
        "no_turbo": "sys/devices/system/cpu/intel_pstate/no_turbo",
    }
    for name, text in files.items():
        path = root / names[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def circumstances(root: Path, **state: float) -> dict[str, Circumstance]:
    units = {"temperature": "°C"}
    readings = {name: read(units.get(name, "1"), "machine", value) for name, value in state.items()}
    return {each.name: each for each in examining._of_machine(readings, root)}


def test_a_governor_and_a_boost_are_said_with_what_would_be_better(tmp_path: Path) -> None:
    found = circumstances(kernel(tmp_path, governor="powersave", boost="1"))
    assert found["governor"].verdict == BETTER and found["governor"].advice == "cpupower frequency-set -g performance"
    assert found["turbo"].verdict == BETTER and "echo 0 > /sys/devices/system/cpu/cpufreq/boost" in found["turbo"].advice
    found = circumstances(kernel(tmp_path, governor="performance", boost="0"))
    assert (found["governor"].verdict, found["turbo"].verdict) == (FIT, FIT)


def test_intels_turbo_is_the_other_way_round(tmp_path: Path) -> None:
    found = circumstances(kernel(tmp_path, no_turbo="0"))
    assert found["turbo"].found == "on" and "echo 1 > " in found["turbo"].advice
    assert circumstances(kernel(tmp_path, no_turbo="1"))["turbo"].verdict == FIT


def test_a_hot_or_throttled_machine_is_not_fit(tmp_path: Path) -> None:
    found = circumstances(tmp_path, temperature=91.0, throttled=0x50005)
    assert [found[name].verdict for name in ("temperature", "throttled")] == [UNFIT, UNFIT]
    found = circumstances(tmp_path, temperature=61.0, throttled=0x50000)
    assert found["temperature"].verdict == FIT and "throttled" not in found


@pytest.mark.parametrize(
    ("modes", "mode", "verdict", "advice"),
    [
        ("MAXN 5W", 0, FIT, ""),
        ("MAXN 5W", 1, BETTER, "sudo nvpmodel -m 0 (MAXN)"),
        ("15W 25W MAXN_SUPER", 0, BETTER, "sudo nvpmodel -m 2 (MAXN_SUPER)"),
        ("15W 25W MAXN_SUPER", 2, FIT, ""),
        ("MODE_10W MODE_15W_2CORE MODE_15W_4CORE", 1, FIT, ""),
    ],
)
def test_the_fastest_power_mode_is_the_one_that_its_file_names(
    tmp_path: Path, modes: str, mode: int, verdict: str, advice: str
) -> None:
    """The number says nothing: 0 is the fastest one of a Jetson Nano, and 15 W of an Orin Nano."""
    (tmp_path / "etc").mkdir()
    text = "".join(f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for number, name in enumerate(modes.split()))
    (tmp_path / "etc/nvpmodel.conf").write_text(text)
    found = circumstances(tmp_path, power_mode=mode)["power mode"]
    assert (found.verdict, found.advice) == (verdict, advice)


def test_a_power_mode_that_nothing_names_is_not_called_fit(tmp_path: Path) -> None:
    found = circumstances(tmp_path, power_mode=0)["power mode"]
    assert found.verdict == MISSING and "nvpmodel -q" in found.advice


def test_what_cannot_be_read_of_a_machine_is_named(tmp_path: Path) -> None:
    found = circumstances(tmp_path)
    assert [found[name].verdict for name in ("governor", "turbo", "temperature")] == [MISSING] * 3
    kernel(tmp_path, governor="performance")
    (tmp_path / "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor").mkdir(parents=True)  # reading it fails, as if it were off
    assert circumstances(tmp_path)["governor"].found == "performance"


def test_a_meter_of_energy_says_by_how_much_it_may_be_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(EnergyMeter):
        """A counter that goes on each second."""

        def open(self) -> Rail:
            return Rail("box", "J", 1.0, 0.5)

        def read(self) -> float:
            return 1.0

    class Showing(Counting):
        """A power."""

        def open(self) -> Rail:
            return Rail("box", "W", 0.1, 0.02)

    monkeypatch.setitem(METERS, "counting", Counting)
    monkeypatch.setitem(METERS, "showing", Showing)
    found = {each.name: each.found for each in examining._meters(tmp_path, "cpu")}
    assert found["energy by counting"].endswith("error ±1 J and 5.0% in a window")
    assert found["energy by showing"] == "box: 1 W now, a value every 0.1 s, in steps of 0.02 W; error ±0.01 W"


def test_a_busy_machine_is_not_fit_and_what_cannot_be_read_is_named() -> None:
    busy = examining._others({"others": read("1", "machine", 0.4), "waited": read("1", "process", None, "no file")})
    assert busy.verdict == UNFIT and busy.found.startswith("other processes had 40.0% of its processors")
    assert "cannot be read: waited (no file)" in busy.found
    idle = examining._others({"others": read("1", "machine", 0.01)})
    assert (idle.verdict, idle.found) == (FIT, "nothing disturbs")


def test_a_meter_that_breaks_is_not_here_and_the_doctor_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EnergyMeter):
        """A meter of a stranger."""

        def open(self) -> Rail:
            raise OSError("no such device")

    monkeypatch.setitem(METERS, "broken", Broken)
    found = {each.name: each for each in examining._meters(tmp_path, "cpu")}
    assert found["energy by broken"].verdict == MISSING and found["energy by broken"].advice == "OSError: no such device"


def test_what_makes_a_machine_unfit_is_named() -> None:
    wrong = Check("memory", "an allocation of 10 MB", "byte", 0.05, 1e7, 1.2e7)
    missing = Check("memory", "an allocation of 2 GB", "byte", 0.05, unavailable="too little")
    found = Examination([wrong, missing], [Circumstance("quiet", "somebody", UNFIT), Circumstance("turbo", "on", BETTER)], 1.0)
    assert found.unfit == ["memory: an allocation of 10 MB", "quiet: somebody"]
    assert wrong.error == pytest.approx(0.2) and missing.verdict == MISSING


def test_an_interval_wider_than_what_is_let_pass_shows_nothing() -> None:
    """A machine that cannot tell a slowdown by 2 % from one by 10 % has no instrument that is fit for it."""
    ends = {(1.018, 1.022): FIT, (0.9, 1.2): BETTER, (1.03, 1.2): UNFIT, (1.024, 1.04): BETTER}
    checks = [Check("timing in turns", "a slowdown by 2%", "1", 0.005, 1.02, sum(end) / 2, end) for end in ends]
    assert [check.verdict for check in checks] == list(ends.values())
    assert Examination([checks[1]], [Circumstance("turbo", "on", BETTER)], 1.0).better == ["timing in turns", "turbo"]
