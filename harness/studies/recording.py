"""A device in a text file: what its kernel shows of power, temperature, clocks and throttling, and how that changes.

The format is for people, too. `#` starts a comment, `@ 1.5` says that what follows is so 1.5 s after the start; then a file a
line, its path below the root first: `sys/class/thermal/thermal_zone0/temp = 41500`, or `PATH ! REASON` for one that cannot be
read. Line breaks within a file are `\\n`. A file that does not change stands there once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from plumbline import PlumblineError

# Only what is named here is recorded: no host name, no user, no serial number.
FILES = (
    "proc/sys/kernel/osrelease", "proc/device-tree/model", "sys/devices/soc0/family", "var/lib/nvpmodel/status",
    "sys/bus/i2c/devices/*/name", "sys/bus/i2c/devices/*/iio:device*/rail_name_*",
    "sys/bus/i2c/devices/*/iio:device*/in_*_input", "sys/class/hwmon/hwmon*/name", "sys/class/hwmon/hwmon*/label",
    *(f"sys/{where}/{name}" for where in ("class/hwmon/hwmon*", "bus/i2c/devices/*/hwmon/hwmon*") for name in (
        "update_interval", "samples", "label", "in*_label", "in*_input", "curr*_input", "power*_label", "power*_input",
        "power*_average", "temp*_label", "temp*_input", "shunt*_resistor",
    )),
    "sys/class/powercap/*rapl*/name", "sys/class/powercap/*rapl*/energy_uj", "sys/class/powercap/*rapl*/max_energy_range_uj",
    "sys/class/power_supply/BAT*/power_now",  # other supplies may be called by a serial number, as keyboards are
    "sys/class/thermal/thermal_zone*/type", "sys/class/thermal/thermal_zone*/temp",
    "sys/class/devfreq/*/cur_freq", "sys/class/devfreq/*/max_freq", "sys/class/devfreq/*/governor",
    *(f"sys/devices/system/cpu/cpu*/cpufreq/{name}" for name in ("scaling_governor", "scaling_cur_freq", "cpuinfo_max_freq")),
    "sys/devices/system/cpu/cpufreq/boost", "sys/devices/system/cpu/intel_pstate/no_turbo",
    "sys/devices/platform/soc*/soc*:firmware/get_throttled",
    "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count", "sys/class/hwmon/hwmon*/oc*_event_cnt",
)  # fmt: skip
EVERY_S = 0.1
MOST_BYTES = 4096  # a page: sysfs gives no more
UNREADABLE = "! "  # how such a file's content begins; a "!" of its own is written \\x21


class BadRecording(PlumblineError, ValueError):
    """A file that is no recorded device."""


class State(Struct, frozen=True):
    """What the files of a device say from a moment on, in seconds after the start; those that do not change are left out."""

    since_s: float
    files: dict[str, str]


def look(root: Path) -> dict[str, str]:
    """Return the text of each file of interest, or why it cannot be read."""
    found: dict[str, str] = {}
    for pattern in FILES:
        for path in root.glob(pattern):
            try:
                text = path.read_bytes()[:MOST_BYTES].decode(errors="backslashreplace")
            except OSError as error:
                text = UNREADABLE + (error.strerror or type(error).__name__)
            found[path.relative_to(root).as_posix()] = text.rstrip("\n\0")
    return dict(sorted(found.items()))


def record(
    root: Path, seconds: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> list[State]:
    """Look at a device for so long, ten times a second; the first state holds all files, each later one those that changed."""
    begun = clock()
    known = look(root)
    states = [State(0.0, known)]
    while (since_s := clock() - begun) < seconds:
        sleep(EVERY_S)
        now, since_s = look(root), round(clock() - begun, 3)
        changed = {name: text for name, text in now.items() if known.get(name) != text}
        if changed:
            states.append(State(since_s, changed))
        known = known | now
    return states


def written(states: list[State], head: str) -> str:
    """Write a recording, with a comment at its head."""
    return "".join([*(f"# {line}\n" for line in head.splitlines()), *_lines(states)])


def _lines(states: list[State]) -> Iterator[str]:
    for state in states:
        yield f"@ {state.since_s:g}\n"
        for name, text in state.files.items():
            escaped = text.encode("unicode_escape").decode()
            yield f"{name} {escaped}\n" if text.startswith(UNREADABLE) else f"{name} = {escaped}\n"


def parsed(text: str) -> list[State]:
    """Read a recording. Raises BadRecording, with the line."""
    states: list[State] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, space, rest = line.partition(" ")
        try:
            if name == "@":
                states.append(State(float(rest), {}))
                continue
            value = rest.removeprefix("=").removeprefix(" ").encode("latin-1").decode("unicode_escape")
        except ValueError as error:
            raise BadRecording(f"line {number}: {error}, in {line[:60]!r}") from error
        if not states or not space or not rest.startswith(("=", "! ")):
            raise BadRecording(f"line {number}: expected `@ SECONDS`, `PATH = TEXT` or `PATH ! REASON`, got {line[:60]!r}")
        states[-1].files[name] = value
    return states
