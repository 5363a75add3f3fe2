"""Energy of devices that are not here: recorded trees, replayed by a virtual clock, with a truth that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.harness import timing
from plumbline.harness.facts import Energy
from plumbline.harness.meters.running import Watch
from tests.box import DEVICES, Box, box

INFERENCE_S, BUSY_S = 0.005, 10.0


def measured(device: Box, budget_s: float = 5.0, target: str = "cpu") -> dict[str, Energy]:
    """What its meters say of inferences of 5 ms that begin when the device becomes busy."""
    clock = device.clock
    watch = Watch(
        budget_s, target, root=device.root, clock=clock, time_of_day=clock, sleep=clock.advance, background=clock.background
    )
    assert device.clock.now < BUSY_S
    device.clock.advance(BUSY_S - device.clock.now)
    return watch.run(lambda: device.clock.advance(INFERENCE_S), timing.nothing)


@pytest.mark.parametrize(
    ("name", "meter", "rail", "idle_w", "busy_w"),
    [
        ("jetson_nano", "rails", "POM_5V_IN", 1.5, 7.5),
        ("orin_nano", "rails", "VDD_IN", 5.0, 15.0),
        ("agx_orin", "rails", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO", 9.0, 33.0),
        ("thor", "rails", "VIN", 27.0, 97.0),
        ("x86_laptop", "rapl", "package-0 + dram", 6.0, 32.0),
    ],
)
def test_joules_of_a_device_whose_power_is_known(
    name: str, meter: str, rail: str, idle_w: float, busy_w: float, tmp_path: Path
) -> None:
    found = measured(box(name, tmp_path))
    energy = found[meter]
    assert (energy.rail, energy.unavailable, energy.remarks) == (rail, None, [])
    assert energy.idle_w == pytest.approx(idle_w, rel=1e-3)
    assert energy.running_w == pytest.approx(busy_w, rel=1e-3)
    truth = (busy_w - idle_w) * INFERENCE_S
    assert energy.joules == pytest.approx(truth, rel=1e-3)
    assert energy.interval is not None
    assert energy.interval[0] < truth < energy.interval[1]
    assert energy.inferences_per_joule == pytest.approx(1 / truth, rel=1e-3)
    assert energy.updates is not None
    assert energy.updates >= 20
    others = {other: one.unavailable for other, one in found.items() if other != meter}
    assert all(others.values()), "each of the others says why it read nothing"
    assert set(found) == {"power_csv", "rails", "nvml", "rapl", "codecarbon"}


def test_a_sum_of_rails_says_that_it_is_one(tmp_path: Path) -> None:
    about = measured(box("agx_orin", tmp_path / "agx"))["rails"].about
    assert "the sum of the rails" in about
    assert "the sum" not in measured(box("thor", tmp_path / "thor"))["rails"].about


def test_a_layout_that_does_not_say_its_rate_has_one_assumed(tmp_path: Path) -> None:
    energy = measured(box("jetson_nano", tmp_path))["rails"]
    assert energy.update_s == 0.1
    assert "0.1 s is assumed" in energy.about


def test_the_step_of_a_monitor_follows_from_its_shunt(tmp_path: Path) -> None:
    """40 µV on 5 mΩ are 8 mA, and 40 mW at 5 V."""
    assert measured(box("orin_nano", tmp_path))["rails"].resolution == pytest.approx(0.04)


def test_a_raspberry_pi_has_no_meter_and_says_so(tmp_path: Path) -> None:
    found = measured(box("raspberry_pi_5", tmp_path))
    assert all(one.joules is None and one.rail is None for one in found.values())
    assert "no power monitor" in (found["rails"].unavailable or "")
    assert "no RAPL zone" in (found["rapl"].unavailable or "")


@pytest.mark.parametrize("name", ["jetson_nano", "orin_nano", "agx_orin", "thor"])
def test_nvml_is_not_asked_on_a_tegra(name: str, tmp_path: Path) -> None:
    found = measured(box(name, tmp_path), target="cuda")
    assert found["nvml"].unavailable == "NVML tells nothing of a Tegra's GPU; its rails tell its power"


def test_every_recorded_device_is_tested() -> None:
    names = {path.stem for path in DEVICES.glob("*.txt")}
    assert names == {"jetson_nano", "orin_nano", "agx_orin", "thor", "raspberry_pi_5", "x86_laptop"}
    for path in DEVICES.glob("*.txt"):
        head = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#"))
        made_up = "Made up after " in head and "not recorded on a" in head
        assert made_up or "recorded on a device: " in head, "each says how it is known, and after what it was made up"
