"""Places where probes run, each a command that starts one: this machine, those of targets.toml, and those elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from plumbline import PlumblineError
from plumbline.harness import devices, messages, runtimes
from plumbline.harness.boot import BOOT
from plumbline.harness.devices import BadDevices, UnknownDevice
from plumbline.harness.machine import Capabilities, allowed_cpus, cpu_flags, cpu_model, cuda_device
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.session.shipping import Hold, Needed
from plumbline.harness.settings import UNKNOWN, Settings
from plumbline.harness.target import DEVICES, HERE, KINDS, Target, at, in_lab, stood_in, stood_in_by, with_agent
from plumbline.texts import not_started, size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

IN_FOLDER = 'cd "$1" && shift && exec "$@"'  # sh -c IN_FOLDER sh FOLDER COMMAND ...
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "targets.toml"


class BadPlace(PlumblineError, ValueError):
    """A place that is not known, that is described wrongly, or that does not answer."""


class Place:
    """`command` starts a probe. `data`, `weights` and `cache` are folders there; what is None that place finds for itself."""

    starting_s = 60.0  # after which a place that has not answered a question does not answer
    bring = "name a folder there that has them as data = ... in targets.toml"
    root: Path | None = None  # with the files of a revision, which a probe there runs (session/revisions.py)
    scratch: Path | None = None  # a folder there that is removed in the end, known to who has it made
    remark: str | None = None  # on the latency of cells there, which is not that of the place's name
    prepares_here = False  # whether this machine works for what is measured there
    silence_s: float | None = 30.0  # after which a probe there takes its session for gone; ssh here does sooner
    gone: str | None = None  # why it does not answer, of one that was given up

    def __init__(
        self, name: str, command: tuple[str, ...], data: str | None = None, weights: str | None = None, cache: str | None = None
    ) -> None:
        self.name, self.command = name, command
        self._folders = {"data": data, "weights": weights, "cache": cache}

    @property
    def machine(self) -> str:
        """Name the machine, HERE for this one: what is measured on one machine is measured in turn."""
        return self.name

    def starting(self, *arguments: str) -> list[str]:
        """Return the command that starts a probe with these arguments."""
        return [*self.command, *arguments]

    def uses(self, device: str) -> None:
        """Learn that cells are to run on a device there, before it is asked what it can run."""

    def prepare(self, needed: Needed, say: Callable[[str], None], hold: Hold = nullcontext) -> None:
        """Make ready what the cells of a session need there. Whatever takes time there is done under `hold`. Raises BadPlace."""

    def tidy(self) -> None:
        """Remove there what nobody will need again. Raises BadPlace."""

    def explain(self, said: str, code: int | None) -> str:
        """Say in a sentence why nothing answered: of what was written to stderr, and the exit code."""
        lines = said.strip().splitlines()
        return lines[-1] if lines else f"it wrote nothing, exit code {code}"

    def lost(self, code: int | None) -> str | None:
        """Say what it means that a probe which had answered is gone, by the exit code of its command; None where it died."""
        return None

    @cached_property
    def capabilities(self) -> Capabilities:
        """Ask what it can run. Raises BadPlace where it does not answer."""
        asking = self.starting("--capabilities")
        try:
            asked = subprocess.run(asking, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.starting_s)
        except subprocess.TimeoutExpired as error:
            raise BadPlace(f"target {self.name!r} does not answer: it has not in {self.starting_s:g} s") from error
        except OSError as error:
            raise BadPlace(f"target {self.name!r} does not answer: {not_started(asking, error)}") from error
        try:
            return messages.decode(asked.stdout, Capabilities)
        except messages.BadMessage as error:
            said = asked.stderr.decode(errors="replace")
            words = self.explain(said, asked.returncode) if said.strip() or not asked.stdout else str(error)
            raise BadPlace(f"target {self.name!r} does not answer as a probe: {words}") from error

    def missing(self, runtime: runtimes.Choice) -> str | None:
        """Say what has to be installed for a runtime; None if nothing."""
        return self.capabilities.runtimes.get(runtime.name.partition("+")[0])

    def data(self, needed: Needed) -> list[str] | None:
        """Return the folders of data sets that cells find there; None where nobody has looked."""
        there = self._folders["data"]
        return self.capabilities.data if there is None else None

    def settings(self, settings: Settings) -> Settings:
        """Give settings the folders of this place instead of those of the machine that asks."""
        there = {key: None if folder is None else Path(folder) for key, folder in self._folders.items()}
        return replace(settings, **{**there, "cache": there["cache"] or UNKNOWN})


class Here(Place):
    """The machine of the session: nothing has to be asked, and its folders are those of the session."""

    silence_s = None
    machine = HERE

    def __init__(self) -> None:
        super().__init__(HERE, BOOT)

    @cached_property
    def capabilities(self) -> Capabilities:
        """Look at this machine; of runtimes `missing` looks at one at a time."""
        return Capabilities(sorted(cpu_flags()), cuda_device(), {}, cpu_model(), allowed_cpus())

    def missing(self, runtime: runtimes.Choice) -> str | None:
        """Say what has to be installed for a runtime; None if nothing."""
        return runtimes.missing(runtime.adapter)

    def data(self, needed: Needed) -> None:
        """Return None."""

    def settings(self, settings: Settings) -> Settings:
        """Return them as they are."""
        return settings


class Small:
    """What a stand-in takes from its device: `bytes_` of memory for programs, and `cpus`, as many of this machine's as it has.

    Empty `cpus` are all that are allowed here; `remark` is what the table says. Raises UnknownDevice where nobody has described
    the device, or said how much memory a program may have there.
    """

    def __init__(self, device: str) -> None:
        found = devices.named(device, devices.known(devices.of_user()))
        self.bytes_, cores = found.for_programs(), found.cores
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.cpus = allowed[:cores] if cores is not None and cores < len(allowed) else []
        few = f"{cores} wanted, {min(cores, allowed_cpus())} here" if cores is not None else "as many as here"
        self.remark = f"in the memory of {found.name} ({size(self.bytes_)}; cores: {few}), at the speed of this machine"


class Gone(Place):
    """A place that does not answer. What it can run nobody knows, and nothing is ruled out: it has the cells of any machine."""

    def __init__(self, name: str, gone: str) -> None:
        super().__init__(name, ())
        self.gone = gone

    @cached_property
    def capabilities(self) -> Capabilities:
        """Return those of a machine that has all arithmetic in hardware."""
        return Capabilities(sorted(set().union(*(precision.native for precision in PRECISIONS.values()))), None, {}, "", 0)

    def data(self, needed: Needed) -> None:
        """Return None."""


class StandIn(Here):
    """A small device's place taken by this machine: with as much memory and as many cores as that has, at its own speed.

    The limit counts Python and torch, as they take their share of a board's memory, too. Raises UnknownDevice.
    """

    def __init__(self, name: str, device: str) -> None:
        super().__init__()
        small = Small(device)
        self.name, self._bytes, self.remark = name, small.bytes_, small.remark
        if small.cpus:
            self.command = (*BOOT[:2], f"import os; os.sched_setaffinity(0, {small.cpus}); {BOOT[2]}")

    def settings(self, settings: Settings) -> Settings:
        """Return them with the device's memory as the limit of a cell."""
        asked = settings.memory_limit_bytes
        return replace(settings, memory_limit_bytes=self._bytes if asked is None else min(asked, self._bytes))


class Board(Place):
    """A board with an agent: `command` starts the agent there, and a probe here asks it; so all folders are those of here."""

    silence_s = None
    prepares_here = True

    def starting(self, *arguments: str) -> list[str]:
        return [*find(HERE).command, "--agent", shlex.join(self.command), *arguments]

    def data(self, needed: Needed) -> None:
        """Return None."""

    def settings(self, settings: Settings) -> Settings:
        """Return them as they are."""
        return settings


class _Entry(Struct, forbid_unknown_fields=True):
    command: list[str]
    agent: bool = False
    data: str | None = None
    weights: str | None = None
    cache: str | None = None


class _File(Struct, forbid_unknown_fields=True):
    place: dict[str, _Entry] = {}


_known: dict[str, Place] = {HERE: Here()}


def load(path: Path) -> None:
    """Learn the places of a file. Raises BadPlace, with the key that is wrong."""
    try:
        listed = messages.convert(tomllib.loads(path.read_text()), _File)
    except OSError as error:
        raise BadPlace(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, messages.BadMessage) as error:
        raise BadPlace(f"{path}: {error}; expected tables [place.NAME] with command, agent, data, weights and cache") from error
    for name, entry in listed.place.items():
        if not entry.command or at(name) or with_agent(name) or in_lab(name) or Target.parse(name).place != name:
            raise BadPlace(
                f"{path}: place {name!r}: expected a command, and a name that is no device and no image, got "
                f"{json.dumps(entry.command)}"
            )
        if entry.agent and (entry.data or entry.weights or entry.cache):
            raise BadPlace(f"{path}: place {name!r}: an agent has no data, weights and cache; those of this machine are used")
        kind = Board if entry.agent else Place
        _known[name] = kind(name, tuple(entry.command), entry.data, entry.weights, entry.cache)


def find(name: str) -> Place:
    """Return the place of that name. Raises BadPlace."""
    if name not in _known:
        from plumbline.harness.session.elsewhere import BoardOverSsh, Contained, Elsewhere

        if (device := stood_in(name)) is not None:
            try:
                image = stood_in_by(name)
                _known[name] = StandIn(name, device) if image is None else Contained(name, device, image)
            except (UnknownDevice, BadDevices) as error:
                raise BadPlace(f"target {name!r}: {error}") from error
        elif (host := with_agent(name)) is not None:
            _known[name] = BoardOverSsh(name, host)
        elif (where := at(name)) is not None:
            _known[name] = Elsewhere(name, where)
        elif in_lab(name) is not None:
            raise BadPlace(
                f"target {name!r}: a lab hands a board out to who asks on the command line; name it there, by --target"
            )
        else:
            named = ", ".join(filter(None, _known)) or "none"
            raise BadPlace(f"no target {name!r}; known: {', '.join(DEVICES)}, cuda:1, {KINDS}, and of {FILE.name}: {named}")
    return _known[name]


def silent(names: Iterable[str]) -> dict[str, BadPlace]:
    """Ask places what they can run, all at once. Returns those that do not answer, each with what is wrong."""

    def asked(name: str) -> BadPlace | None:
        try:
            _ = find(name).capabilities
        except BadPlace as error:
            return error
        return None

    every = list(dict.fromkeys(names))
    with ThreadPoolExecutor(max(1, len(every))) as threads:
        return {name: error for name, error in zip(every, threads.map(asked, every)) if error is not None}


def give_up(name: str, reason: str) -> None:
    """Ask a place nothing more: it does not answer."""
    _known[name] = Gone(name, reason)


def of(target: str) -> Place:
    """Return the place of a target, which knows then that its device is used. Raises BadPlace and BadTarget."""
    parsed = Target.parse(target)
    place = find(parsed.place)
    place.uses(parsed.device)
    return place
