"""A cell: one point of the matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

AXES = ("model", "variant", "runtime", "precision", "batch", "image_size", "target")


@dataclass(frozen=True)
class Cell:
    """`batch` counts images; `image_size` is the height and width of the input, in pixels."""

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

    def values(self, axes: Iterable[str]) -> tuple[Any, ...]:
        return tuple(getattr(self, axis) for axis in axes)

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Cell:
        return cls(**{axis: fields[axis] for axis in AXES})


def without_batch(cell: Cell) -> tuple[Any, ...]:
    """What a cell shares with its other batches: among other things, its accuracy."""
    return cell.values(axis for axis in AXES if axis != "batch")


def compares_with_parent(cell: Cell) -> bool:
    """Whether a cell's accuracy is compared with its dense fp32 parent's; the parent itself has none."""
    return (cell.variant, cell.runtime, cell.precision) != ("dense", "eager", "fp32")


def id_of(axes: Iterable[str], values: Iterable[Any]) -> str:
    """The readable id of a row, as in `resnet20-dense-eager-fp32-b1-32px-cpu`; used as pytest id."""
    shown = {"batch": "b{}", "image_size": "{}px"}
    parts = (shown_model(value) if axis == "model" else value for axis, value in zip(axes, values))
    return "-".join(shown.get(axis, "{}").format(part) for axis, part in zip(axes, parts))


def stem(cell: Cell) -> str:
    """The beginning of the name of what is built for a cell, in any folder: a model's name may be a path."""
    model = re.sub(r"[^\w.+=@,-]", "_", shown_model(cell.model))
    return f"{model}-{cell.image_size}px-{cell.runtime}-{cell.precision}-"


def shown_model(reference: str) -> str:
    """A model's name; of the path of a file only the last part, as the rest is about the person. Which of the files of that name
    it is, `+sha256=` says."""
    return reference.rpartition("/")[2]
