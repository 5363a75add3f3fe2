"""NVIDIA's GPUs, through NVML and its Python bindings (the extra `nvml`: nvidia-ml-py). Not for a Jetson: `rails.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from plumbline.harness.meters.meter import Counter, EnergyMeter, Rail, Unavailable, on_tegra

INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, in milliwatts
# NVML does not say how often it has a new value. 0.1 s is the longest that arXiv 2312.02741 ("Part-time Power Measurements")
# found of its power, from Kepler to Hopper.
UPDATE_S = 0.1
PARTLY = "A100 and H100 look at their power in a quarter of the time only (arXiv 2312.02741)"


class Nvml(EnergyMeter):
    """The GPU of the cell: its energy counter (Volta and newer), else its power now, else its power averaged."""

    def open(self) -> Rail:
        if on_tegra(self.root):
            raise Unavailable("NVML tells nothing of a Tegra's power; its rails do")
        if not self.device.startswith("cuda"):
            raise Unavailable(f"the cell runs on {self.device}, and NVML reads NVIDIA's GPUs")
        try:
            import pynvml
        except ImportError as error:
            raise Unavailable("nvidia-ml-py is not installed: pip install 'plumbline[nvml]'") from error
        self._nvml = pynvml
        self._call(pynvml.nvmlInit)
        self._gpu = self._call(self._handle)
        name = self._call(lambda: pynvml.nvmlDeviceGetName(self._gpu))
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
        self._counter = Counter(rail)
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

    def _handle(self) -> Any:
        """Find the GPU that CUDA calls by the number of the cell's device, which hides and orders GPUs in ways of its own."""
        count, visible = self._nvml.nvmlDeviceGetCount(), os.environ.get("CUDA_VISIBLE_DEVICES")
        index = int(self.device.partition(":")[2] or 0)
        chosen = str(index) if visible is None else [*visible.split(","), *[""] * index][index].strip()
        if chosen.startswith("GPU-"):
            return self._nvml.nvmlDeviceGetHandleByUUID(chosen)
        if count == 1:
            return self._nvml.nvmlDeviceGetHandleByIndex(0)
        if chosen.isdigit() and os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
            return self._nvml.nvmlDeviceGetHandleByIndex(int(chosen))
        raise Unavailable(f"which of {count} GPUs is {self.device} cannot be told; set CUDA_DEVICE_ORDER=PCI_BUS_ID")

    def _joules(self) -> float:
        return self._counter.add(self._call(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)) / 1e3)

    def _instant(self) -> float:
        (field,) = self._call(lambda: self._nvml.nvmlDeviceGetFieldValues(self._gpu, [INSTANT]))
        if field.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise Unavailable(f"field {INSTANT}: NVML error {field.nvmlReturn}")
        return field.value.uiVal / 1e3

    def _average(self) -> float:
        return self._call(lambda: self._nvml.nvmlDeviceGetPowerUsage(self._gpu)) / 1e3

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except self._nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from error
