"""NVIDIA's GPUs, by a module that stands in for nvidia-ml-py: there is none here, and its library neither."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.harness.meters import Unavailable
from plumbline.harness.meters.nvml import Nvml, Use


class NVMLError(Exception):
    """As NVML's."""


class FakeNvml(SimpleNamespace):
    """One GPU or several, of which some quantities are not supported."""

    NVMLError, NVML_SUCCESS = NVMLError, 0

    def __init__(self, missing: tuple[str, ...] = (), count: int = 1) -> None:
        self.missing, self.count = missing, count
        self.shown_mj: list[float] = [5e6, 5e6 + 30_000, 4.0]
        self.asked: list[str] = []
        self.samples: list[Any] = []

    def _of(self, name: str, value: Any) -> Any:
        self.asked.append(name)
        if name in self.missing:
            raise NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None:
        self._of("init", None)

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetName(self, gpu: object) -> str:
        return f"GPU at {gpu}"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: object) -> float:
        return self._of("energy", None) or self.shown_mj.pop(0)

    def nvmlDeviceGetFieldValues(self, gpu: object, fields: list[int]) -> list[Any]:
        assert fields == [186]
        failed = "instant" in self.missing
        return [SimpleNamespace(nvmlReturn=3 if failed else 0, value=SimpleNamespace(uiVal=0 if failed else 250_000))]

    def nvmlDeviceGetProcessUtilization(self, gpu: object, since_us: int) -> list[Any]:
        return self._of("utilization", self.samples)

    def nvmlDeviceGetPowerUsage(self, gpu: object) -> int:
        return self._of("usage", 240_000)


def sampled(pid: int, percent: int, at_us: int = 1 << 62) -> Any:
    """A sample of a process, later than any window begins."""
    return SimpleNamespace(pid=pid, timeStamp=at_us, smUtil=percent)


def of(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch, device: str = "cuda", root: Path = Path("/nowhere")) -> Nvml:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    return Nvml(root, device)


def test_the_counter_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = of(FakeNvml(), monkeypatch)
    rail = meter.open()
    assert (rail.name, rail.unit, rail.update_s, rail.resolution) == ("GPU (GPU at 0)", "J", 0.1, 1e-3)
    assert meter.read() == 30.0
    assert meter.read() < 0, "a counter that was reset goes backwards, which no window takes"


def test_a_sample_from_before_the_window_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    of(fake, monkeypatch)
    use = Use(Path("/nowhere"), "cuda", lambda: 10.0)
    fake.samples = [sampled(os.getpid(), 50, 11_000_000), sampled(1, 40, 9_000_000), sampled(2, 20, 11_000_000)]
    assert use.by_others() == 0.2


def test_then_the_power_at_this_moment_then_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    instant = of(FakeNvml(("energy",)), monkeypatch)
    rail = instant.open()
    assert (rail.unit, rail.averaged_s, instant.read()) == ("W", 0.0, 250.0)
    assert "field 186" in rail.about
    averaged = of(FakeNvml(("energy", "instant")), monkeypatch)
    rail = averaged.open()
    assert (rail.unit, rail.averaged_s, averaged.read()) == ("W", 1.0, 240.0)
    assert "averaged over 1 s" in rail.about
    with pytest.raises(Unavailable, match=r"gives neither energy nor power of GPU .*: NVML: Not Supported"):
        of(FakeNvml(("energy", "instant", "usage")), monkeypatch).open()


def test_a_driver_that_is_missing_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="NVML: Not Supported"):
        of(FakeNvml(("init",)), monkeypatch).open()


def test_no_package_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = of(FakeNvml(), monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unavailable, match="nvidia-ml-py is not installed: pip install"):
        meter.open()


def test_a_cell_on_the_processor_asks_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    with pytest.raises(Unavailable, match="the cell runs on cpu"):
        of(fake, monkeypatch, "cpu").open()
    assert fake.asked == []


def test_a_tegra_is_told_by_its_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("proc/sys/kernel/osrelease", "5.15.148-tegra"), ("sys/devices/soc0/family", "Tegra")):
        root, fake = tmp_path / text, FakeNvml()
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text + "\n")
        with pytest.raises(Unavailable, match="Tegra"):
            of(fake, monkeypatch, root=root).open()
        assert fake.asked == []


@pytest.mark.parametrize(
    ("device", "variables", "gpu"),
    [
        ("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-5"}, "GPU-5"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "GPU-5,GPU-7"}, "GPU-7"),
        ("cuda:1", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "1"),
        ("cuda:1", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3, 2"}, "2"),
        ("cuda:1", {}, None),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_which_of_several_gpus(device: str, variables: dict[str, str], gpu: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = of(FakeNvml(count=4), monkeypatch, device)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if gpu is None:
        with pytest.raises(Unavailable, match=f"which of 4 GPUs is {device} cannot be told; set CUDA_DEVICE_ORDER"):
            meter.open()
    else:
        assert meter.open().name == f"GPU (GPU at {gpu})"


def test_the_real_module_has_what_is_used() -> None:
    pynvml = pytest.importorskip("pynvml")
    assert pynvml.NVML_FI_DEV_POWER_INSTANT == 186
    names = {name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML"))}
    assert {name for name in names if not hasattr(pynvml, name)} == set()
