"""Zeus reads some of the same instruments. Where it is right, it and our meters say the same of the same recorded device.

Elsewhere it is no oracle: it has no total of an AGX Orin or a Thor, and looks for a wrap of RAPL in a process, by the real time.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline import compiler
from plumbline.harness.meters.nvml import Nvml, Use
from plumbline.harness.meters.rails import Rails
from plumbline.harness.meters.rapl import Rapl
from tests.box import Box, box

NVML_C = Path(__file__).parents[2] / "nvml.c"
REST_S, BUSY_S = 5.0, 15.0


def of(name: str, expected: str = "zeus") -> Any:
    """Import a module, or skip; in `tox -e oracles` that is red."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"{name} is not installed: {error}"
        pytest.fail(reason) if expected in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)


def as_a_driver(device: Box) -> None:
    """Show a box's monitors below their driver, too, as the kernel does, for who looks there."""
    for monitor in (device.root / "sys/bus/i2c/devices").iterdir():
        driver = device.root / "sys/bus/i2c/drivers" / (monitor / "name").read_text().strip()
        driver.mkdir(parents=True, exist_ok=True)
        (driver / monitor.name).symlink_to(monitor)


@pytest.fixture
def rails_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Box], dict[str, float]]:
    """Zeus' rails of a box, in watts."""
    jetson = of("zeus.device.soc.jetson")

    def rails_of(device: Box) -> dict[str, float]:
        def within(path: str | Path) -> Path:
            return Path(path) if Path(path).is_relative_to(device.root) else device.root / str(path).lstrip("/")

        monkeypatch.setattr(jetson, "Path", within)
        found = jetson.Jetson._discover_available_metrics(None)
        return {name: way.measure_power() / 1e3 for name, way in found.items()}

    return rails_of


@pytest.mark.parametrize("name", ["jetson_nano", "orin_nano"])
def test_the_power_of_a_board(name: str, rails_of: Callable[[Box], dict[str, float]], tmp_path: Path) -> None:
    device = box(name, tmp_path)
    as_a_driver(device)
    meter = Rails(device.root)
    meter.open()
    seen = []
    for now_s in (REST_S, BUSY_S):
        device.clock.advance(now_s - device.clock.now)
        seen.append(meter.read())
        assert seen[-1] == pytest.approx(rails_of(device)["total_power_mw"])
    assert seen[1] > seen[0]


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("agx_orin", "VDD_GPU_SOC", "gpu_power_mw"),
        ("agx_orin", "VDD_CPU_CV", "cpu_power_mw"),
        ("thor", "VDD_GPU", "gpu_power_mw"),
        ("thor", "VDD_CPU_SOC_MSS", "cpu_power_mw"),
    ],
)
def test_the_power_of_single_rails(
    name: str, ours: str, theirs: str, rails_of: Callable[[Box], dict[str, float]], tmp_path: Path
) -> None:
    device = box(name, tmp_path)
    as_a_driver(device)
    (channel,) = (one for one in Rails(device.root)._channels() if one.label == ours)
    for now_s in (REST_S, BUSY_S):
        device.clock.advance(now_s - device.clock.now)
        assert channel.watts() == pytest.approx(rails_of(device)[theirs])
    assert "total_power_mw" not in rails_of(device), "there it is no oracle"


def test_the_energy_of_a_processor_and_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rapl = of("zeus.device.cpu.rapl")
    device = box("x86_laptop", tmp_path)
    zones = device.root / "sys/class/powercap"
    for zone in ("intel-rapl:0:0", "intel-rapl:0:1"):  # the kernel shows a zone within its parent, too
        (zones / "intel-rapl:0" / zone).symlink_to(zones / zone)
    monkeypatch.setattr(rapl.RAPLFile, "wraparound_tracker", SimpleNamespace(get_num_wraparounds=int))
    theirs, ours = rapl.RAPLCPU(0, str(zones)), Rapl(device.root)
    ours.open()

    def both(now_s: float) -> tuple[float, float]:
        device.clock.advance(now_s - device.clock.now)
        found = theirs.get_total_energy_consumption()
        return ours.read(), (found.cpu_mj + found.dram_mj) / 1e3

    for begins_s, ends_s, joules in ((0.0, 10.0, 60.0), (11.0, 20.0, 9 * 32.0)):  # a wrap lies between them
        one, other = (now - then for then, now in zip(both(begins_s), both(ends_s)))
        assert one == pytest.approx(other) == pytest.approx(joules)
    assert ours.read() == pytest.approx(60 + 10 * 32)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A made-up libnvidia-ml.so below the real bindings, and its readings."""
    pynvml = of("pynvml", "nvml")
    try:
        command = compiler.compiler()
    except compiler.NoCompiler as reason:
        pytest.skip(str(reason))
    library = compiler.library(NVML_C, [*command, "-fPIC"], command)
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    types = {"energy_mj": ctypes.c_uint64, "without_energy": ctypes.c_int32, "without_instant": ctypes.c_int32}
    cells = {name: types.get(name, ctypes.c_uint32).in_dll(library, name)
             for name in ("energy_mj", "instant_mw", "average_mw", "users", "without_energy", "without_instant")}  # fmt: skip
    for cell in cells.values():
        cell.value = 0
    return SimpleNamespace(**cells, **{name: (ctypes.c_uint32 * 4).in_dll(library, name) for name in ("pids", "percents")})


def test_the_energy_of_a_gpu(gpu: Any) -> None:
    theirs = of("zeus.device.gpu.nvidia").NVIDIAGPU(0)
    gpu.energy_mj.value = 2**40
    ours = Nvml(Path("/nowhere"), "cuda")
    assert ours.open().name == f"GPU ({theirs.get_name()})"
    assert theirs.supports_get_total_energy_consumption()
    begun = ours.read(), theirs.get_total_energy_consumption() / 1e3
    gpu.energy_mj.value += 31_250
    assert ours.read() - begun[0] == theirs.get_total_energy_consumption() / 1e3 - begun[1] == 31.25


def test_the_power_of_a_gpu_at_this_moment(gpu: Any) -> None:
    theirs = of("zeus.device.gpu.nvidia").NVIDIAGPU(0)
    gpu.without_energy.value, gpu.instant_mw.value, gpu.average_mw.value = 1, 250_125, 180_000
    ours = Nvml(Path("/nowhere"), "cuda")
    assert ours.open().unit == "W"
    assert ours.read() == theirs.get_instant_power_usage() / 1e3 == 250.125
    gpu.without_instant.value = 1
    averaged = Nvml(Path("/nowhere"), "cuda")
    assert averaged.open().averaged_s == 1.0
    assert averaged.read() == 180.0


def test_what_others_have_of_a_gpu_by_the_real_bindings(gpu: Any) -> None:
    gpu.users.value, gpu.pids[:3], gpu.percents[:3] = 3, [os.getpid(), 1, 2], [60, 25, 5]
    assert Use(Path("/nowhere"), "cuda").by_others() == 0.3
