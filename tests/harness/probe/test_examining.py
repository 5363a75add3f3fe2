"""The doctor: instruments held against truths that are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from plumbline.harness import machine, timing
from plumbline.harness.examination import BETTER, FIT, MISSING, UNFIT, Check, Circumstance, Examination
from plumbline.harness.meters import METERS, EnergyMeter, Rail
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
    checks = [*examining._loops(), *examining._stories()]
    assert len(checks) == 8 and off(checks) == []
    assert all(check.error == pytest.approx(0.0, abs=2e-3) for check in checks)


def test_a_clock_that_counts_something_else_is_off(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each turn adds makes a loop that is twice as long less than twice as long."""
    usual = timing.turn
    monkeypatch.setattr(timing, "turn", lambda *how, **options: usual(*how, **options) + 5e-5)
    assert "a counted loop, twice as long" in off(list(examining._loops()))


def test_a_mean_in_place_of_the_median_is_off(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = timing.measure

    def by_the_mean(*arguments: Any, **options: Any) -> Any:
        found = usual(*arguments, **options)
        return replace(found, median_s=sum(found.samples_s) / len(found.samples_s))

    monkeypatch.setattr(timing, "measure", by_the_mean)
    assert "spikes: each twentieth call takes three times as long" in off(list(examining._stories()))


def test_samples_without_warm_up_are_off(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "warm_up", lambda *how: (0, 0.0, False))
    monkeypatch.setattr(examining, "SAMPLING", Settings(warmup_s=0.0, sampling_s=0.06, min_samples=8, max_samples=16))
    assert "a cold start: ten calls take three times as long" in off(list(examining._stories()))


def test_memory_of_known_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "ALLOCATED", (10 * 10**6, 100 * 10**6, 10**15))
    checks = list(examining._memory())
    assert [check.verdict for check in checks] == [FIT, FIT, MISSING], checks
    assert checks[2].unavailable is not None and "are free" in checks[2].unavailable
    usual = memory.growth
    monkeypatch.setattr(memory, "growth", lambda call: (int(1.1 * (usual(call)[0] or 0)), None))
    assert off(list(examining._memory()))[:2] == ["an allocation of 10 MB", "an allocation of 100 MB"]


def test_the_clock_keeps_the_time_of_one_that_nobody_adjusts() -> None:
    clock, sleep = examining._clocks()
    assert clock.error is not None and abs(clock.error) < 0.001
    assert sleep.got is not None and sleep.got >= 0.02, "no sleep is shorter than asked for"


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
    found = circumstances(tmp_path, temperature=91.0, throttled=0x50005, power_mode=1)
    assert [found[name].verdict for name in ("temperature", "throttled", "power mode")] == [UNFIT, UNFIT, BETTER]
    found = circumstances(tmp_path, temperature=61.0, throttled=0x50000, power_mode=0)
    assert found["temperature"].verdict == found["power mode"].verdict == FIT and "throttled" not in found


def test_a_busy_machine_is_not_fit_and_what_cannot_be_read_is_named() -> None:
    busy = examining._others({"others": read("1", "machine", 0.4), "waited": read("1", "process", None, "no file")})
    assert busy.verdict == UNFIT and busy.found.startswith("other processes had 40.0% of its processors")
    assert "cannot be read: waited (no file)" in busy.found
    quiet = examining._others({"others": read("1", "machine", 0.01)})
    assert (quiet.verdict, quiet.found) == (FIT, "nothing disturbs")


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
