"""What a cell's model is compared with, prepared in a process of its own so that it costs the cell neither time nor memory.

One reference serves all cells of a model, variant and image size in a session: the weights, the counts, and the
outputs in float64. The accuracy of the fp32 parent is added when the first cell asks for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from harness import accuracy, counts
from harness.cell import Cell
from harness.settings import Settings
from models.datasets import NoData
from models.seeding import pictures, seed_weights, spread
from models.training import train
from models.variants import VARIANTS
from models.weights import Weights, locate

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUTS = 8  # pictures on which outputs are compared
CALIBRATION = 16  # pictures from which seeded batch norms take their statistics

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """`inputs` has shape (INPUTS, channels, height, width), `logits` (INPUTS, classes), in float64."""

    weights: dict[str, Any]
    state: Path
    counts: dict[str, Any]
    pictures: str
    inputs: Tensor
    logits: Tensor
    parent_correct: list[bool] | None

    @property
    def spread(self) -> float:
        return spread(self.logits)

    @classmethod
    def load(cls, folder: Path) -> Reference:
        from safetensors.torch import load_file

        text = json.loads((folder / "reference.json").read_text())
        parent = folder / "parent.json"
        correct = json.loads(parent.read_text()) if parent.exists() else None
        tensors = load_file(folder / "reference.safetensors")
        return cls(**{**text, "state": Path(text["state"])}, **tensors, parent_correct=correct)


def prepare(cell: Cell, settings: Settings, folder: Path, progress: Progress) -> None:
    """Write the reference of a cell into `folder`."""
    import torch
    from safetensors.torch import save_file

    model = models.find(cell.model)
    weights = locate(model, cell.image_size, settings.weights, settings.cache)
    if weights.kind == "trained" and weights.path is not None and not weights.path.exists():
        train(model, cell.image_size, weights.path, progress=progress)
    progress(f"preparing {cell.model} at {cell.image_size} pixels")
    torch.manual_seed(settings.seed)
    channels = model.dataset(cell.image_size).channels
    net = model.instantiate(cell.image_size).eval()
    if weights.path is None:
        state = folder / "state.safetensors"
        seed_weights(net, pictures(CALIBRATION, channels, cell.image_size, settings.seed))
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, state)
    else:
        state = weights.path
        load_weights(net, state)
    shown, inputs = _inputs(model, cell.image_size, settings, weights, channels)
    net = VARIANTS[cell.variant](net)
    with torch.no_grad():
        logits = net.double()(inputs.double())
    save_file({"inputs": inputs, "logits": logits.contiguous()}, folder / "reference.safetensors")
    source = {"kind": weights.kind, "source": weights.reason, "sha256": _sha256(state)}
    facts = {"weights": source, "state": str(state), "counts": counts.count(model, cell.image_size), "pictures": shown}
    (folder / "reference.json").write_text(json.dumps(facts))


def prepare_parent(cell: Cell, settings: Settings, folder: Path, progress: Progress) -> None:
    """Write which images the dense fp32 parent gets right into `folder`; nothing where there are no data or weights."""
    import torch

    model = models.find(cell.model)
    images = accuracy.images(model, cell.image_size, settings, Reference.load(folder).weights["kind"])
    if isinstance(images, str):
        (folder / "parent.json").write_text("null")
        return
    net = model.instantiate(cell.image_size).eval()
    load_weights(net, Reference.load(folder).state)
    with torch.inference_mode():
        correct = accuracy.classify(net, images, settings, batch=32, progress=progress)
    (folder / "parent.json").write_text(json.dumps([rank == 0 for rank in correct]))


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a safetensors file; every tensor must be wanted, and every wanted tensor there.

    Raises RuntimeError with the names that do not fit.
    """
    from safetensors.torch import load_file

    net.load_state_dict(load_file(path), strict=True)


def _inputs(model: models.Model, image_size: int, settings: Settings, weights: Weights, channels: int) -> tuple[str, Tensor]:
    """Real pictures for real weights, where there are any."""
    if weights.path is not None:
        try:
            images = model.dataset(image_size).load(settings.data, image_size)
        except NoData:
            pass
        else:
            return images.name, images.batch(range(INPUTS))
    return "seeded pictures", pictures(INPUTS, channels, image_size, settings.seed + 1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
