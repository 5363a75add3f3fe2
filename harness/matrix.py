"""From `matrix.toml` and the options of the command line to cells.

A tier is a list of blocks; a block is the cross product of its axes. An option selects from the tier, and adds
what the tier does not have: `--batch 8` runs the tier's cells of batch 8, or, where it has none, all of its cells
at batch 8. A model that the tier does not have comes at its usual image size.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import models
from harness.cell import AXES, Cell
from harness.machine import cuda_device
from harness.outcomes import UNAVAILABLE, UNSUPPORTED
from harness.precisions import PRECISIONS
from harness.runtimes import RUNTIMES
from harness.settings import Settings
from models.variants import VARIANTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TARGETS = ("cpu", "cuda")
NAMES: dict[str, Sequence[str]] = {
    "variant": tuple(VARIANTS), "runtime": tuple(RUNTIMES), "precision": tuple(PRECISIONS), "target": TARGETS
}  # fmt: skip
# What a tier may say besides its cells, with the type; they are fields of Settings, or read by the plugin.
TIER_KEYS: dict[str, tuple[type, ...]] = {
    "warmup_s": (int, float),
    "sampling_s": (int, float),
    "min_samples": (int,),
    "accuracy_images": (int, str),
    "time_limit_s": (int, float),
    "memory_limit_bytes": (int,),
    "may_not_fit": (bool,),
}


class MatrixError(ValueError):
    """Something in the matrix file or an option is not right; the message says where, what came and what is known."""


@dataclass(frozen=True)
class Impossible:
    """Why a cell cannot run: `unsupported` whatever the machine, `unavailable` on this one; `axis` is to blame."""

    outcome: str
    axis: str
    reason: str


@dataclass(frozen=True)
class Tier:
    name: str
    blocks: tuple[Mapping[str, tuple[Any, ...]], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    may_not_fit: bool = False

    def apply(self, settings: Settings) -> Settings:
        return replace(settings, **self.settings)


def load(path: Path) -> dict[str, Tier]:
    """The tiers of a matrix file, by name. Raises MatrixError with file, line and key."""
    try:
        text = path.read_text()
    except OSError as error:
        raise MatrixError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MatrixError(f"{path}: {error}") from error

    def wrong(keys: Sequence[str | int], message: str) -> MatrixError:
        return MatrixError(f"{path}, line {_line(text, keys)}, {_dotted(keys)}: {message}")

    for key in tables:
        if key != "tier":
            raise wrong([key], "unknown key; a matrix file holds [tier.NAME] tables only")
    tiers = {}
    for name, table in tables.get("tier", {}).items():
        blocks, settings = [], {}
        for key, value in table.items():
            if key == "cells":
                continue
            if key not in TIER_KEYS:
                raise wrong(["tier", name, key], f"unknown key; known: cells, {', '.join(TIER_KEYS)}")
            if not isinstance(value, TIER_KEYS[key]) or (isinstance(value, bool) and bool not in TIER_KEYS[key]):
                wanted = " or ".join(kind.__name__ for kind in TIER_KEYS[key])
                raise wrong(["tier", name, key], f"wanted {wanted}, came {value!r}")
            if isinstance(value, str) and value != "all":
                raise wrong(["tier", name, key], f"wanted a number of images or 'all', came {value!r}")
            settings[key] = None if value == "all" else value
        cells = table.get("cells", [])
        if not isinstance(cells, list) or not cells:
            raise wrong(["tier", name], f"has no cells; wanted at least one [[tier.{name}.cells]]")
        for number, block in enumerate(cells):
            where: list[str | int] = ["tier", name, "cells", number]
            for axis, values in block.items():
                if axis not in AXES:
                    raise wrong([*where, axis], f"unknown key; known: {', '.join(AXES)}")
                if not isinstance(values, list):
                    raise wrong([*where, axis], f"wanted a list, came {values!r}")
                for value in values:
                    try:
                        check(axis, value)
                    except MatrixError as error:
                        raise wrong([*where, axis], str(error)) from error
            if "model" not in block:
                raise wrong(where, "a block of cells needs a model")
            blocks.append({axis: tuple(values) for axis, values in block.items()})
        may_not_fit = bool(settings.pop("may_not_fit", False))
        tiers[name] = Tier(name, tuple(blocks), settings, may_not_fit)
    return tiers


def check(axis: str, value: Any) -> None:
    """Raise MatrixError unless `value` is one that the axis knows."""
    if axis in ("batch", "image_size"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MatrixError(f"wanted a whole number from 1, came {value!r}")
    elif axis == "model":
        _find(value)
    elif value not in NAMES[axis]:
        raise MatrixError(f"no {axis} {value!r}; known: {', '.join(NAMES[axis])}")


def expand(tier: Tier, options: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """The cells of a tier under the options, in the order of the file, without repeats."""
    blocks: list[Mapping[str, tuple[Any, ...]]] = [_complete(block) for block in tier.blocks]
    for axis, values in options.items():
        chosen: list[Mapping[str, tuple[Any, ...]]] = []
        for value in values:
            holders = [block for block in blocks if value in block[axis]]
            if not holders and axis == "model":
                sizes = (_find(value).image_size,)
                holders = [{**block, "image_size": sizes} for block in blocks]
            chosen += [{**block, axis: (value,)} for block in holders or blocks]
        blocks = chosen
    cells: dict[Cell, None] = {}
    for block in blocks:
        for model in block["model"]:
            sizes = block["image_size"] or (_find(model).image_size,)
            rest = [block[axis] for axis in ("variant", "runtime", "precision", "batch")]
            for variant, runtime, precision, batch, size, target in itertools.product(*rest, sizes, block["target"]):
                cells[Cell(_find(model).name, variant, runtime, precision, batch, size, target)] = None
    return list(cells)


def impossible(cell: Cell) -> Impossible | None:
    """What can be said without running anything. None means that the cell is worth trying."""
    model, runtime = _find(cell.model), RUNTIMES[cell.runtime]
    if cell.image_size not in model.sizes:
        return Impossible(
            UNSUPPORTED, "image_size", f"{cell.model} takes images of {_shown(model.sizes)} pixels, came {cell.image_size}"
        )
    if cell.precision not in runtime.precisions:
        return Impossible(UNSUPPORTED, "precision", f"{cell.runtime} runs {', '.join(runtime.precisions)}, came {cell.precision}")
    if cell.target not in runtime.targets:
        return Impossible(UNSUPPORTED, "target", f"{cell.runtime} runs on {', '.join(runtime.targets)}, came {cell.target}")
    if cell.target == "cuda" and (reason := _cuda()) is not None:
        return Impossible(UNAVAILABLE, "target", reason)
    return None


def _complete(block: Mapping[str, tuple[Any, ...]]) -> Mapping[str, tuple[Any, ...]]:
    """Fill in the axes a block leaves out: dense, eager, fp32, batch 1, usual size, whatever targets are here."""
    here = tuple(target for target in TARGETS if target == "cpu" or _cuda() is None)
    usual = {
        "variant": ("dense",),
        "runtime": ("eager",),
        "precision": ("fp32",),
        "batch": (1,),
        "image_size": (),
        "target": here,
    }
    return {**usual, **block}


@cache
def _find(reference: Any) -> models.Model:
    try:
        return models.find(str(reference))
    except models.UnknownName as error:
        raise MatrixError(str(error)) from error


_cuda = cache(cuda_device)


def _shown(sizes: Any) -> str:
    return f"{sizes.start} to {sizes.stop - 1}" if isinstance(sizes, range) else ", ".join(map(str, sizes))


def _dotted(keys: Iterable[str | int]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _line(text: str, keys: Sequence[str | int]) -> int:
    """The line of a key, counted from 1: the header of its table (of the n-th one, for an array), then the key in it."""
    lines = text.splitlines()
    names = [key for key in keys if isinstance(key, str)]
    number = next((key for key in keys if isinstance(key, int)), 0)
    for depth in range(len(names), 0, -1):
        header = re.compile(r"\[+\s*" + r"\s*\.\s*".join(f'"?{re.escape(name)}"?' for name in names[:depth]) + r"\s*\]+")
        headers = [index for index, line in enumerate(lines) if header.match(line.strip())]
        if headers:
            start = headers[min(number, len(headers) - 1)]
            inner = names[depth] if depth < len(names) else None
            for index in range(start + 1, len(lines)):
                if inner is None or lines[index].lstrip().startswith("["):
                    break
                if re.match(rf'\s*"?{re.escape(inner)}"?\s*=', lines[index]):
                    return index + 1
            return start + 1
    return next((index + 1 for index, line in enumerate(lines) if re.match(rf'\s*\[*"?{re.escape(names[0])}\b', line)), 1)
