"""What devices can do at most: the file devices.toml, its check, and the peaks from which a bound on latency follows.

A rate that nobody has published is unknown, and what needs it is refused by name.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from plumbline import PlumblineError
from plumbline.harness import messages
from plumbline.harness.precisions import PRECISIONS
from plumbline.texts import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("devices.toml")
VARIABLE = "PLUMBLINE_DEVICES"  # names another file, beside FILE
KINDS = ("cpu", "cuda")
# What a peak is named by: floating point by its precision, integers of 8 bits by their type, however their ranges are found.
NUMBERS = ("fp32", "tf32", "bf16", "fp16", "int8")


class BadDevices(PlumblineError, ValueError):
    """A file of devices that is not what it should be."""


class UnknownDevice(PlumblineError, LookupError):
    """A device, or a figure of one, that nobody has described."""


class Peaks(Struct, frozen=True):
    """What a device does at most.

    `macs_per_s` is by NUMBERS, a MAC being two FLOPs; `bytes_per_s` is the bandwidth of its memory, and `cache_bytes` what its
    caches hold, both None where unknown. `headroom` is the factor by which the true peaks may lie above these figures, `source`
    says where they come from.
    """

    device: str
    source: str
    macs_per_s: dict[str, float]
    bytes_per_s: float | None = None
    cache_bytes: int | None = None
    headroom: float = 1.0

    def of(self, precision: str) -> float:
        """Return the MACs a second that no net in a precision exceeds. Raises UnknownDevice where that is not known.

        A net in few bits has layers in fp32, too, and one whose weights only are small may multiply in their format:
        the fastest of these counts.
        """
        needed = (numbers_of(precision), "fp32")
        for numbers in needed:
            if numbers not in self.macs_per_s:
                raise UnknownDevice(f"no peak rate of {self.device} in {numbers} is known; a file of devices can name it")
        return max(self.macs_per_s[numbers] for numbers in needed) * self.headroom

    def bandwidth(self) -> float:
        """Return the bytes a second that its memory does not exceed. Raises UnknownDevice where that is not known."""
        if self.bytes_per_s is None:
            raise UnknownDevice(f"the memory bandwidth of {self.device} is not known; a file of devices can name it")
        return self.bytes_per_s * self.headroom


class Mode(Struct, frozen=True, forbid_unknown_fields=True):
    """A power mode: FLOP/s by NUMBERS, and the bandwidth where it is another one than the device's."""

    flop_per_s: dict[str, float]
    bytes_per_s: float | None = None


class Device(Struct, frozen=True, forbid_unknown_fields=True):
    """A device of the file, in base units; what is None is unknown. `matches` is looked for in the name that it gives itself.

    `memory_bytes` is what is built in, `visible_bytes` what a system shows of it, `usable_bytes` what a program has had there.
    `cores` are those of the CPU, `storage_bytes` the storage that is built in.
    """

    name: str
    kind: str
    matches: str
    source: str
    mode: dict[str, Mode]
    bytes_per_s: float | None = None
    memory_bytes: float | None = None
    visible_bytes: float | None = None
    usable_bytes: float | None = None
    cores: int | None = None
    storage_bytes: float | None = None
    cache_bytes: float | None = None
    headroom: float = 1.0

    def for_programs(self) -> int:
        """Return the bytes that a program may have there: what one has had, else what a system shows. Raises UnknownDevice."""
        if (found := self.usable_bytes or self.visible_bytes) is None:
            raise UnknownDevice(
                f"how much memory {self.name} has for programs is not known; usable_bytes of a file of devices can say it"
            )
        return round(found)

    def peaks(self, mode: str | None = None) -> Peaks:
        """Return its peaks in a power mode; without one, the largest figures of all modes. Raises UnknownDevice."""
        if mode is not None and mode not in self.mode:
            raise UnknownDevice(f"{self.name}: expected one of the modes {', '.join(self.mode)}, got {mode!r}")
        chosen = self.mode if mode is None else {mode: self.mode[mode]}
        rates: dict[str, float] = {}
        for each in chosen.values():
            for numbers, flops in each.flop_per_s.items():
                rates[numbers] = max(rates.get(numbers, 0.0), flops / 2)
        bandwidths = [each.bytes_per_s or self.bytes_per_s for each in chosen.values()]
        known = [bandwidth for bandwidth in bandwidths if bandwidth is not None]
        return Peaks(
            f"{self.name}, {' or '.join(chosen)}",
            self.source,
            rates,
            max(known) if len(known) == len(bandwidths) else None,
            None if self.cache_bytes is None else round(self.cache_bytes),
            self.headroom,
        )


class _File(Struct, forbid_unknown_fields=True):
    device: dict[str, Device] = {}


def numbers_of(precision: str) -> str:
    """Return the NUMBERS in which a precision may multiply: its own, or that of weights which only are small."""
    entry = PRECISIONS[precision]
    return "int8" if entry.integer or entry.weights == "int8" else "fp16" if entry.weights == "float16" else precision


def load(path: Path = FILE) -> dict[str, Device]:
    """Read a file of devices. Raises BadDevices, which names the device and the key that is wrong."""
    try:
        found = messages.convert(tomllib.loads(path.read_text()), _File).device
    except OSError as error:
        raise BadDevices(f"{path}: cannot be read: {error.strerror}; name a file of devices") from error
    except (tomllib.TOMLDecodeError, messages.BadMessage) as error:
        raise BadDevices(
            f"{path}: {error}; expected tables [device.NAME] with {', '.join(Device.__struct_fields__)}, and "
            "[device.NAME.mode.MODE] with flop_per_s and bytes_per_s, in base units"
        ) from error
    for name, device in found.items():
        if (wrong := _wrong(device)) is not None:
            raise BadDevices(f"{path}: device {name!r}: {wrong}")
    return found


def of_user() -> Path | None:
    """Return the file that $PLUMBLINE_DEVICES names; None where it names none."""
    return Path(text) if (text := os.environ.get(VARIABLE)) else None


def known(more: Path | None = None) -> dict[str, Device]:
    """Return the devices of FILE, and those of another file, which may describe one anew. Raises BadDevices."""
    return {**load(), **load(more)} if more is not None else load()


def named(name: str, devices: Mapping[str, Device]) -> Device:
    """Return the device of that name. Raises UnknownDevice."""
    if name not in devices:
        raise UnknownDevice(
            f"no device {name!r}{nearest(name, devices)}; known: {', '.join(devices)}; describe yours in a file that ${VARIABLE} "
            "names, as docs/devices.md shows; plumbline doctor --target TARGET says what it calls itself"
        )
    return devices[name]


def matching(says: str | None, kind: str, devices: Mapping[str, Device]) -> Device:
    """Return the device of a kind by what it says that it is, as in `Machine.accelerator`. Raises UnknownDevice."""
    if says is None:
        raise UnknownDevice("nothing says which device this is; so no peak of it is known")
    for device in reversed(list(devices.values())):  # those of a user's file are the last ones
        if device.kind == kind and re.search(device.matches, says):
            return device
    raise UnknownDevice(f"no peaks of {says!r} ({kind}) are known; describe it in a file of devices (docs/devices.md)")


def _wrong(device: Device) -> str | None:
    """Say what is wrong with a device that has the right types; None if nothing."""
    if device.kind not in KINDS:
        return f"kind: expected {' or '.join(KINDS)}, got {device.kind!r}"
    try:
        re.compile(device.matches)
    except re.error as error:
        return f"matches: expected a regular expression, got {device.matches!r} ({error})"
    if not device.mode:
        return "expected at least one power mode, as [device.NAME.mode.MODE], got none"
    if device.headroom < 1:
        return f"headroom: expected 1 or more, got {device.headroom:g}"
    for name, mode in device.mode.items():
        for numbers in mode.flop_per_s:
            if numbers not in NUMBERS:
                return f"mode {name!r}, flop_per_s: expected {', '.join(NUMBERS)}, got {numbers!r}"
        if "fp32" not in mode.flop_per_s:
            return f"mode {name!r}, flop_per_s: expected fp32 among them, got {', '.join(mode.flop_per_s) or 'nothing'}"
    quantities = {
        key: value
        for key in Device.__struct_fields__
        if key.endswith(("_bytes", "_per_s")) and (value := getattr(device, key)) is not None
    }
    for name, mode in device.mode.items():
        quantities |= {f"mode {name!r}, flop_per_s.{numbers}": value for numbers, value in mode.flop_per_s.items()}
        if mode.bytes_per_s is not None:
            quantities[f"mode {name!r}, bytes_per_s"] = mode.bytes_per_s
    for key, value in quantities.items():
        least = 1e6 if key.endswith("_bytes") and key != "cache_bytes" else 1e3 if key == "cache_bytes" else 1e8
        if value < least:
            unit = "bytes" if key.endswith("_bytes") else "a base unit a second"
            return f"{key}: expected {unit}, got {value:g}; GB, GFLOP/s and the like are written as 25.6e9"
    return None
