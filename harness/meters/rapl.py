"""RAPL: the energy counters of x86 processors, through Linux' powercap (`Documentation/power/powercap/powercap.rst`)."""

from __future__ import annotations

from pathlib import Path

from plumbline.harness.meters.meter import Counter, EnergyMeter, Rail, Unavailable, number_of, text_of

ZONES = "sys/class/powercap"
# Intel's manual, volume 3, "RAPL Interfaces": a new value each millisecond, in units of 2^-14 J on most processors.
UPDATE_S, RESOLUTION_J = 1e-3, 2**-14
READABLE = "let root make them readable: sudo chmod a+r /sys/class/powercap/*/energy_uj (after each start of the machine)"


class Rapl(EnergyMeter):
    """The whole platform (psys) where the processor counts it; else all packages, and the memory beside them."""

    def open(self) -> Rail:
        zones: dict[Path, str] = {}
        for zone in sorted((self.root / ZONES).glob("intel-rapl:*")):  # intel-rapl-mmio: are the same again
            try:
                zones[zone] = text_of(zone / "name")
            except Unavailable:
                continue
        if not zones:
            raise Unavailable(
                "no RAPL zone in /sys/class/powercap: no x86 processor, a virtual machine, or hidden by a container"
            )
        platforms = [zone for zone, name in zones.items() if name == "psys"]
        parts = platforms or [zone for zone, name in zones.items() if name.startswith("package") or name == "dram"]
        if not parts:
            raise Unavailable(f"expected a RAPL zone called package-N or psys, got {', '.join(sorted(zones.values()))}")
        names = [zones[zone] for zone in parts]
        twice = sorted({name for name in names if names.count(name) > 1 and name != "dram"})  # each package has a dram of its own
        if twice:
            raise Unavailable(f"the RAPL zone {twice[0]} appears twice: which of them counts cannot be told")
        self._counters = [(zone, Counter(self._range(zone))) for zone in parts]
        self.read()
        about = "the whole platform" if platforms else "processors and their memory: no display, disk, GPU or power supply"
        return Rail(" + ".join(names), "J", UPDATE_S, RESOLUTION_J * len(parts), about=about)

    @staticmethod
    def _range(zone: Path) -> float | None:
        try:
            return number_of(zone / "max_energy_range_uj") / 1e6
        except Unavailable:
            return None

    def read(self) -> float:
        return sum(counter.add(self._joules(zone)) for zone, counter in self._counters)

    @staticmethod
    def _joules(zone: Path) -> float:
        try:
            return number_of(zone / "energy_uj") / 1e6
        except Unavailable as error:
            if isinstance(error.__cause__, PermissionError):
                raise Unavailable(f"RAPL counters may be read by root alone here; {READABLE}") from error
            raise
