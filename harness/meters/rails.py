"""Power rails of a board on monitors of the INA family, as on every Jetson, through sysfs.

Two layouts: hwmon (JetPack 5 and newer, and any Linux: `Documentation/hwmon/ina3221.rst`, `ina2xx.rst`, `ina238.rst`) and
iio (JetPack 4, NVIDIA's own driver: Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling").
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from plumbline.harness.meters.meter import EnergyMeter, Rail, Unavailable, number_of, on_tegra, text_of

CHIPS = ("ina3221", "ina226", "ina238")  # a driver may add a letter: JetPack 4's is ina3221x
TOTALS = ("VIN", "VDD_IN", "POM_5V_IN")  # what a whole board takes, the outermost first
ASSUMED_S = 0.1  # between two values, where the layout does not say
SHUNT_STEP_V = 40e-6  # of an INA3221: data sheet, "Shunt-Voltage Register"
LEAST_STEP_W = 1e-3
# Of a rail that takes nothing an INA3221 shows its own offset, with either sign: up to 80 µV (data sheet) on 1 mΩ.
LEAST_CURRENT_MA = -80.0


class _Channel(Struct, frozen=True):
    """A rail on one channel of one monitor: the files whose product is its power, the factor to watts, and when it changes."""

    label: str
    where: str
    files: tuple[Path, ...]
    to_watts: float
    step_w: float
    update_s: float | None

    def watts(self) -> float:
        power = self.to_watts
        for file in self.files:
            power *= number_of(file, LEAST_CURRENT_MA if file.name.startswith("curr") else 0.0)
        return power


class Rails(EnergyMeter):
    """The whole board: VIN, VDD_IN or POM_5V_IN where there is such a rail; else the sum of its rails."""

    unit = "W"

    def open(self) -> Rail:
        channels = list(self._channels())
        if not channels:
            board = "this Jetson has" if on_tegra(self.root) else "there is"
            raise Unavailable(f"{board} no power monitor (INA3221, INA226, INA238) in /sys/bus/i2c/devices")
        total = next(([one for one in channels if one.label == name] for name in TOTALS if name in self._labels(channels)), None)
        used = total or channels
        for label in self._labels(used):
            same = [one.where for one in used if one.label == label]
            if len(same) > 1:
                raise Unavailable(f"the rail {label} appears twice ({' and '.join(same)}): which of them counts cannot be told")
        self._used = used
        self.read()
        stated = [one.update_s for one in used if one.update_s is not None]
        about = [] if total else ["the sum of the rails: one that feeds another is counted twice, what none feeds is missing"]
        about += [] if stated else [f"the driver does not say how often it has a new value: {ASSUMED_S:g} s is assumed"]
        update_s = max(stated, default=ASSUMED_S)
        name = " + ".join(one.label for one in used)
        return Rail(name, "W", update_s, sum(one.step_w for one in used), averaged_s=update_s, about="; ".join(about))

    def read(self) -> float:
        return sum(one.watts() for one in self._used)

    @staticmethod
    def _labels(channels: list[_Channel]) -> list[str]:
        return sorted({one.label for one in channels})

    def _channels(self) -> Iterator[_Channel]:
        for device in sorted((self.root / "sys/bus/i2c/devices").glob("*")):
            try:
                chip = text_of(device / "name")
            except Unavailable:
                continue
            if chip.startswith(CHIPS):
                for monitor in sorted(device.glob("hwmon/hwmon*")):
                    yield from self._hwmon(monitor, chip, device.name)
                for monitor in sorted(device.glob("iio:device*")):
                    yield from self._iio(monitor, device.name)

    @staticmethod
    def _hwmon(monitor: Path, chip: str, address: str) -> Iterator[_Channel]:
        try:
            update_s = number_of(monitor / "update_interval") / 1e3 or None
        except Unavailable:
            update_s = None
        if (power := monitor / "power1_input").exists():  # INA226, INA238: one rail, in microwatts
            label = next((text for name in ("label", "power1_label", "in1_label") if (text := _label(monitor / name))), None)
            if label is None:
                label = "VIN" if chip.startswith("ina238") else f"{chip} at {address}"  # the input of a Jetson Thor
            if not _skipped(label):
                yield _Channel(label, address, (power,), 1e-6, LEAST_STEP_W, update_s)
            return
        for number in range(1, 4):  # in7 is the sum of the shunts' voltages, and no rail
            label = _label(monitor / f"in{number}_label")
            files = (monitor / f"in{number}_input", monitor / f"curr{number}_input")
            if label is not None and not _skipped(label) and all(file.exists() for file in files):
                yield _Channel(label, f"{address} in{number}", files, 1e-6, _step_w(monitor, number), update_s)

    @staticmethod
    def _iio(monitor: Path, address: str) -> Iterator[_Channel]:
        for number in range(3):
            label, power = _label(monitor / f"rail_name_{number}"), monitor / f"in_power{number}_input"
            if label is not None and not _skipped(label) and power.exists():
                yield _Channel(label, f"{address} in_power{number}", (power,), 1e-3, LEAST_STEP_W, None)


def _label(file: Path) -> str | None:
    try:
        return text_of(file) or None
    except Unavailable:
        return None


def _skipped(label: str) -> bool:
    """Whether it is no rail: a channel that nothing is connected to, or what a USB-C supply has promised."""
    return label.upper() == "NC" or label.startswith("ucsi-source") or label == "sum of shunt voltages"


def _step_w(monitor: Path, number: int) -> float:
    """Watts of the least step of the current, at the voltage that is there now."""
    try:
        ohms = number_of(monitor / f"shunt{number}_resistor") / 1e6
        volts = number_of(monitor / f"in{number}_input") / 1e3
    except Unavailable:
        return LEAST_STEP_W
    return max(LEAST_STEP_W, SHUNT_STEP_V / ohms * volts) if ohms else LEAST_STEP_W
