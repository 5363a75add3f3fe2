"""A cell: one point of the matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from plumbline.harness.target import Target

AXES = ("model", "variant", "runtime", "precision", "batch", "image_size", "target")


class Cell(Struct, frozen=True):
    """Seven axes. `batch` counts images; `image_size` is the height and width of the input, in pixels.

    `target` names a place and a device there, as `cpu`, `cuda:1` or `board@cuda` (harness/target.py).
    """

    model: str
    variant: str
    runtime: str
    precision: str
    batch: int
    image_size: int
    target: str

    @property
    def id(self) -> str:
        return id_of(AXES, self.values(AXES))

    @property
    def device(self) -> str:
        """The device as torch names it: `cpu`, `cuda` or `cuda:1`."""
        return Target.parse(self.target).device

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]

    @property
    def place(self) -> str:
        """The name of the place; empty for this machine."""
        return Target.parse(self.target).place

    def values(self, axes: Iterable[str]) -> tuple[Any, ...]:
        return tuple(getattr(self, axis) for axis in axes)


def without_batch(cell: Cell) -> tuple[Any, ...]:
    """Return what a cell shares with its other batches: among other things, its accuracy."""
    return cell.values(axis for axis in AXES if axis != "batch")


def compares_with_parent(cell: Cell) -> bool:
    """Whether a cell's accuracy is compared with its dense fp32 parent's; the parent itself has none."""
    return (cell.variant, cell.runtime, cell.precision) != ("dense", "eager", "fp32")


def id_of(axes: Iterable[str], values: Iterable[Any]) -> str:
    """Return the readable id of a row, as in `resnet20-dense-eager-fp32-b1-32px-cpu`; used as pytest id."""
    shown = {"batch": "b{}", "image_size": "{}px"}
    parts = (shown_model(value) if axis == "model" else value for axis, value in zip(axes, values))
    return "-".join(shown.get(axis, "{}").format(part) for axis, part in zip(axes, parts))


def stem(cell: Cell) -> str:
    """Return the beginning of the name of what is built for a cell, in any folder: a model's name may be a path."""
    model = re.sub(r"[^\w.+=@,-]", "_", shown_model(cell.model))
    return f"{model}-{cell.image_size}px-{cell.runtime}-{cell.precision}-"


def shown_model(reference: str) -> str:
    """Return a model's name; of the path of a file only the last part, as the rest is about the person.

    Which of the files of that name it is, `+sha256=` says.
    """
    return reference.rpartition("/")[2]
