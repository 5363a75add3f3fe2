"""The counts of a model in the folder of its probe: written by one process, read by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plumbline.harness.facts import Counts
from plumbline.models import Layer, Model, count

NAME = "counts.json"


def taken(model: Model, image_size: int) -> Counts:
    """Count, here and now."""
    found = count(model, image_size)
    del found["layers"]
    return Counts(**found)


def keep(model: Model, image_size: int, folder: Path) -> None:
    """Count, and write the result into `folder`."""
    (folder / NAME).write_text(json.dumps(count(model, image_size)))


def kept(folder: Path) -> dict[str, Any]:
    """The fields of `harness.facts.Counts`."""
    fields = json.loads((folder / NAME).read_text())
    del fields["layers"]
    return fields


def layers(folder: Path) -> list[Layer]:
    """The layers that torch's counter saw, in the form of a formula."""
    return [Layer(**layer) for layer in json.loads((folder / NAME).read_text())["layers"]]
