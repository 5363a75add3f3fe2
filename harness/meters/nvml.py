"""NVIDIA's GPUs, through NVML and its Python bindings (the extra `nvml`: nvidia-ml-py). Not for a Jetson: `rails.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbline.harness.meters.meter import Counter, EnergyMeter, Rail, Unavailable, on_tegra

INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, in milliwatts
# NVML does not say how often it has a new value. 0.1 s is the longest that arXiv 2312.02741 ("Part-time Power Measurements")
# found of its power, from Kepler to Hopper.
UPDATE_S = 0.1
PARTLY = "A100 and H100 look at their power in a quarter of the time only (arXiv 2312.02741)"


class Gpu:
    """The GPU of a cell's device. Raises Unavailable, with the reason, where NVML cannot be asked about it."""

    def __init__(self, root: Path, device: str) -> None:
        if on_tegra(root):
            raise Unavailable("NVML tells nothing of a Tegra's GPU; its rails tell its power")
        if not device.startswith("cuda"):
            raise Unavailable(f"the cell runs on {device}, and NVML reads NVIDIA's GPUs")
        try:
            import pynvml
        except ImportError as error:
            raise Unavailable("nvidia-ml-py is not installed: pip install 'plumbline[nvml]'") from error
        self.nvml = pynvml
        self.ask(pynvml.nvmlInit)
        self.handle = self.ask(self._find, device)

    def ask(self, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function of NVML. Raises Unavailable, with NVML's own words."""
        try:
            return function(*given)
        except self.nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from error

    def _find(self, device: str) -> Any:
        """Find the GPU that CUDA calls by the number of the cell's device, which hides and orders GPUs in ways of its own."""
        count, visible = self.nvml.nvmlDeviceGetCount(), os.environ.get("CUDA_VISIBLE_DEVICES")
        index = int(device.partition(":")[2] or 0)
        chosen = str(index) if visible is None else [*visible.split(","), *[""] * index][index].strip()
        if chosen.startswith("GPU-"):
            return self.nvml.nvmlDeviceGetHandleByUUID(chosen)
        if count == 1:
            return self.nvml.nvmlDeviceGetHandleByIndex(0)
        if chosen.isdigit() and os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
            return self.nvml.nvmlDeviceGetHandleByIndex(int(chosen))
        raise Unavailable(f"which of {count} GPUs is {device} cannot be told; set CUDA_DEVICE_ORDER=PCI_BUS_ID")


class Use:
    """What processes have of a GPU from now on. Raises Unavailable, as `Gpu`. `clock` is the time of day, NVML's own."""

    def __init__(self, root: Path, device: str, clock: Callable[[], float] = time.time) -> None:
        self._gpu = Gpu(root, device)
        self._since_us = int(clock() * 1e6)

    def by_others(self) -> float:
        """Return the share of its time that other processes had, by NVML's last samples of each. Raises Unavailable.

        A window without a sample of this process is too short for one, or in a container, where this process has another number
        than NVML's: then none of the others can be told from it.
        """
        ask = self._gpu.nvml.nvmlDeviceGetProcessUtilization
        samples = [one for one in self._gpu.ask(ask, self._gpu.handle, self._since_us) if one.timeStamp > self._since_us]
        if not any(one.pid == os.getpid() for one in samples):
            raise Unavailable("NVML has no sample of this process: the time was too short, or a container hides its number")
        if (most := max(one.smUtil for one in samples)) > 100:
            raise Unavailable(f"NVML says that a process had {most} % of the GPU")
        return min(1.0, sum(one.smUtil for one in samples if one.pid != os.getpid()) / 100)


class Nvml(EnergyMeter):
    """The GPU of the cell: its energy counter (Volta and newer), else its power now, else its power averaged."""

    def open(self) -> Rail:
        self._gpu = Gpu(self.root, self.device)
        name = self._ask(self._gpu.nvml.nvmlDeviceGetName)
        rail = f"GPU ({name if isinstance(name, str) else name.decode()})"
        assumed = f"a new value every {UPDATE_S:g} s is assumed; {PARTLY}"
        ways: list[tuple[Callable[[], float], Rail]] = [
            (self._joules, Rail(rail, "J", UPDATE_S, 1e-3, about=f"the GPU's own counter; {assumed}")),
            (self._instant, Rail(rail, "W", UPDATE_S, 1e-3, about=f"power at this moment (field {INSTANT}); {assumed}")),
            (
                self._average,
                Rail(rail, "W", UPDATE_S, 1e-3, 1.0, f"averaged over 1 s from Ampere on, GA100 excepted; {assumed}"),
            ),
        ]
        self._counter = Counter()
        reasons: list[str] = []
        for way, declared in ways:
            try:
                way()
            except Unavailable as reason:
                reasons.append(str(reason))
            else:
                self._way = way
                return declared
        raise Unavailable(f"NVML gives neither energy nor power of {rail}: {reasons[-1]}")

    def read(self) -> float:
        return self._way()

    def _joules(self) -> float:
        return self._counter.add(self._ask(self._gpu.nvml.nvmlDeviceGetTotalEnergyConsumption) / 1e3)

    def _instant(self) -> float:
        (field,) = self._ask(self._gpu.nvml.nvmlDeviceGetFieldValues, [INSTANT])
        if field.nvmlReturn != self._gpu.nvml.NVML_SUCCESS:
            raise Unavailable(f"field {INSTANT}: NVML error {field.nvmlReturn}")
        return field.value.uiVal / 1e3

    def _average(self) -> float:
        return self._ask(self._gpu.nvml.nvmlDeviceGetPowerUsage) / 1e3

    def _ask(self, function: Callable[..., Any], *given: Any) -> Any:
        return self._gpu.ask(function, self._gpu.handle, *given)
