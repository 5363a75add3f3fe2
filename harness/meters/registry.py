"""All meters by name; those of installed packages are found by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from plumbline import UnknownName, entry_points
from plumbline.harness.meters.codecarbon import CodeCarbon
from plumbline.harness.meters.cpu_time import CpuTime
from plumbline.harness.meters.meter import Meter
from plumbline.harness.meters.nvml import Nvml
from plumbline.harness.meters.power_csv import PowerCsv
from plumbline.harness.meters.rails import Rails
from plumbline.harness.meters.rapl import Rapl

GROUP = "plumbline.meters"
# Of those of energy, the one that stands in the table is the first that has a value: the most of the machine first.
METERS: dict[str, type[Meter]] = {
    "cpu_time": CpuTime, "power_csv": PowerCsv, "rails": Rails, "nvml": Nvml, "rapl": Rapl, "codecarbon": CodeCarbon,
}  # fmt: skip


def announced() -> dict[str, EntryPoint]:
    """Return the meters of installed packages."""
    return entry_points.announced(GROUP, METERS)


def find(name: str) -> type[Meter]:
    """Return the class of a meter. Raises `UnknownName`; loads another package's."""
    if name in METERS:
        return METERS[name]
    entry = announced()[name]
    meter = entry_points.load("meter", entry)
    if not (isinstance(meter, type) and issubclass(meter, Meter)):
        raise UnknownName(f"meter {name!r}: {entry.value!r} is {meter!r}, expected a subclass of plumbline.harness.meters.Meter")
    return meter
