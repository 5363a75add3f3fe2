"""What executes a model. One small adapter a file, its library imported only when used; others by entry point."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from plumbline import UnknownName, entry_points
from plumbline.harness.cell import Cell
from plumbline.harness.machine import Capabilities, allowed_cpus, cpu_flags, cpu_model, cuda_device
from plumbline.harness.outcomes import NotAsAsked as NotAsAsked
from plumbline.harness.outcomes import Unsupported as Unsupported
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import board
from plumbline.harness.runtimes.adapter import RunConfig, Runtime
from plumbline.texts import nearest

FACE = 2  # of this module's names and of adapter.Runtime: whoever changes what they take or give raises it (harness/faces.py)
__all__ = [
    "FACE",
    "GROUP",
    "RUNTIMES",
    "Choice",
    "RunConfig",
    "Runtime",
    "announced",
    "capabilities",
    "config",
    "find",
    "known",
    "missing",
    "usual",
]

GROUP = "plumbline.runtimes"


class Adapters(Mapping[str, type[Runtime]]):
    """Adapters by name, each imported when it is asked for: what a cell does depends on the file of its own one alone."""

    def __init__(self, **classes: str) -> None:
        self._classes = classes

    def __getitem__(self, name: str) -> type[Runtime]:
        attribute = self._classes[name]
        adapter: type[Runtime] = getattr(import_module(f"{__name__}.{name}"), attribute)
        return adapter

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


# The first that takes a model's format is its usual one (`usual`).
RUNTIMES = Adapters(
    eager="Eager",
    compiled="Compiled",
    exported="Exported",
    onnxruntime="OnnxRuntime",
    openvino="OpenVino",
    tensorrt="TensorRT",
    litert="LiteRT",
    agent="Agent",
)


@dataclass(frozen=True)
class Choice:
    """A runtime with options, as `onnxruntime+graph=basic` asks for it; `name` says those that are not as usual."""

    name: str
    adapter: type[Runtime]
    options: Mapping[str, str]


def announced() -> dict[str, EntryPoint]:
    """Return the runtimes of installed packages."""
    return entry_points.announced(GROUP, RUNTIMES)


def known() -> list[str]:
    return [*RUNTIMES, *announced()]


def usual(model_format: str) -> str:
    """Return the runtime that a model of a format, torch or onnx, takes where none is named."""
    return next(name for name, adapter in RUNTIMES.items() if model_format in adapter.formats)


@cache
def find(reference: str) -> Choice:
    """Find the runtime of `name` or `name+option=value+...`. Raises `UnknownName`; loads another package's adapter."""
    name, *settings = reference.split("+")
    adapter = _adapter(name)
    chosen = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in adapter.options:
            options = ", ".join(sorted(adapter.options)) or "none"
            raise UnknownName(f"runtime {name!r} has no option {key!r}{nearest(key, adapter.options)}; known: {options}")
        if value not in adapter.options[key]:
            raise UnknownName(f"runtime {name!r}, option {key!r}: expected {', '.join(adapter.options[key])}, got {value!r}")
        chosen[key] = value
    unusual = {key: chosen[key] for key, values in adapter.options.items() if chosen.get(key, values[0]) != values[0]}
    canonical = "+".join([name, *(f"{key}={value}" for key, value in unusual.items())])
    return Choice(canonical, adapter, {**adapter.usual(), **unusual})


def _adapter(name: str) -> type[Runtime]:
    if name in RUNTIMES:
        return RUNTIMES[name]
    others = announced()
    if name not in others:
        raise UnknownName(f"no runtime {name!r}{nearest(name, known())}; known: {', '.join(known())}")
    adapter = entry_points.load("runtime", others[name])
    if not (isinstance(adapter, type) and issubclass(adapter, Runtime)):
        raise UnknownName(
            f"runtime {name!r}: {others[name].value!r} is {adapter!r}, expected a subclass of plumbline.harness.runtimes.Runtime"
        )
    return adapter


def config(cell: Cell, artefact: Path | None = None, chosen: Mapping[str, str] | None = None) -> RunConfig:
    """How a cell is to be executed, in this process; `chosen` are options that a build has decided. Imports torch."""
    import torch

    options = {**find(cell.runtime).options, **(chosen or {})}
    return RunConfig(PRECISIONS[cell.precision], cell.device, cell.batch, torch.get_num_threads(), options, artefact)


def capabilities() -> Capabilities:
    """Tell what this machine can run, without trying it."""
    gone = {}
    for name in known():
        try:
            reason = missing(_adapter(name))
        except UnknownName as error:
            reason = str(error)
        if reason is not None:
            gone[name] = reason
    return Capabilities(sorted(cpu_flags()), cuda_device(), gone, cpu_model(), allowed_cpus())


@cache
def _installed(library: str) -> bool:
    """Look up once whether a library is there: it takes 0.1 ms, and a matrix asks for every cell, three times."""
    return find_spec(library) is not None


def missing(adapter: type[Runtime]) -> str | None:
    """Return what has to be installed for a runtime, in words; None if nothing."""
    if adapter.elsewhere and not board.named():
        return "it executes at a place with an agent (docs/agent.md): in targets.toml, agent = true"
    gone = [library for library in adapter.libraries if not _installed(library)]
    if not gone:
        return None
    if lacking := adapter.no_wheel.get(platform.machine()):
        return f"{lacking} has no wheel for {platform.machine()}"
    how = f": pip install -e '.[{adapter.extra}]' in the project's folder" if adapter.extra else ""
    return f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not installed{how}"
