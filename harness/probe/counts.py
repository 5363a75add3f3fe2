"""The counts of a model in the folder of its probe: written by one process, read by others."""

from __future__ import annotations

import json
from pathlib import Path

from plumbline.harness import messages
from plumbline.harness.facts import Counts
from plumbline.models import Layer, Model

NAME = "counts.json"


def taken(model: Model, image_size: int) -> Counts:
    """Count, here and now."""
    found = model.count(image_size)
    del found["layers"]
    return messages.convert(found, Counts)


def save(model: Model, image_size: int, folder: Path) -> None:
    """Count, and write the result into `folder`."""
    (folder / NAME).write_text(json.dumps(model.count(image_size)))


def load(folder: Path) -> Counts:
    """Read what another process has counted."""
    return messages.decode((folder / NAME).read_bytes(), Counts)


def layers(folder: Path) -> list[Layer]:
    """Return the layers that torch's counter saw, in the form of a formula."""
    return [Layer(**layer) for layer in json.loads((folder / NAME).read_text())["layers"]]
