"""What a cell's model is compared with, prepared in a process of its own so that it costs the cell neither time nor memory.

One reference serves all cells of a model, variant and image size in a session: the weights, and the outputs in
float64. The accuracy of the fp32 parent is added when the first cell asks for it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import NotHere, Unfit, UnknownName, models
from plumbline.files import sha256
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import UNAVAILABLE, CellEnded, Unsupported
from plumbline.harness.probe import accuracy, counts
from plumbline.harness.probe.training import context_of
from plumbline.harness.settings import Settings
from plumbline.models import Layer
from plumbline.tensors import spread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Context

INPUTS = 8  # pictures on which outputs are compared
STEP = 2.0**-10  # of the way from a picture to the next one: hardly a class changes, and 4,000 times what fp32 rounds
STATISTICS = ("running_mean", "running_var")  # of batch norms: of a compressed net with seeded weights they are taken anew
UNSAID = ("path", "sha256", "statistics", "layers")  # of a variant: no part of its promise
ENOUGH = 0.1  # of a response: no precision has a tolerance for which that would be too little

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """`inputs` has shape (INPUTS, channels, height, width), `outputs` (INPUTS, ...), in float64.

    `eager` is what the same net returned eagerly in fp32; None for a model that is a file. `response` is what a small step
    from each picture towards the next one changes in the outputs (RMS), as a share of the spread and of that step: 1.4 for a
    linear net, 0 for one whose outputs are all at the ends of what they can be.
    """

    weights: dict[str, Any]
    state: Path
    made_by: str
    pictures: str
    inputs: Tensor
    outputs: Tensor
    parent_correct: list[bool] | None
    eager: Tensor | None = None
    variant: dict[str, Any] | None = None
    response: float = 1.0

    @property
    def spread(self) -> float:
        return spread(self.outputs)

    def net(self, model: models.Model, cell: Cell, settings: Settings) -> nn.Module:
        """Return the cell's variant of a model, with these weights, in eval mode; of a compressed one the parent is not built."""
        import torch
        from safetensors.torch import load_file

        torch.manual_seed(settings.seed)
        if self.variant is None:
            return model.weighted(cell.image_size, self.state)
        if self.variant["path"] is not None:
            return model.compressed(cell.image_size, Path(self.variant["path"]))
        context = context_of(model, cell.image_size, settings, lambda text: None)
        made = models.variant(cell.variant)(model.weighted(cell.image_size, self.state), context).eval()
        made.load_state_dict(load_file(self.variant["statistics"]), strict=False)
        return made

    def promise(self) -> dict[str, Any] | None:
        """Return the fields of `harness.facts.Promise`; None of a dense net."""
        if self.variant is None:
            return None
        return {key: value for key, value in self.variant.items() if key not in UNSAID}

    def batch(self, count: int) -> Tensor:
        """Return that many of the pictures, the same ones again where there are not so many."""
        return self.inputs[[index % len(self.inputs) for index in range(count)]]

    def names_a_class(self, model: models.Model, image_size: int) -> bool:
        """Whether there is one output for each class of the data."""
        return tuple(self.outputs.shape[1:]) == (model.dataset(image_size).classes,)

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

    from plumbline.harness.probe.float64 import in_float64

    model = models.find(cell.model)
    progress(f"preparing {cell.model} at {cell.image_size} pixels")
    if model.file is not None:
        _prepare_file(model.file, context_of(model, cell.image_size, settings, progress), settings, folder)
        return
    torch.manual_seed(settings.seed)
    run = model.run
    context = context_of(model, cell.image_size, settings, progress)
    net, found = context.net(folder)
    shown, inputs = _inputs(context, settings, found.kind)
    compressed = None
    if cell.variant != models.DENSE:
        progress(f"making {cell.variant} of {cell.model}")
        net, compressed = _compressed(net, context, cell, folder, found.kind == "seeded")
    with torch.no_grad():
        eager = run(net, inputs)
        moving = _response(partial(run, net), inputs, eager, INPUTS)
        net = net.double() if compressed is not None else model.in_float64(net, cell.image_size, found.path)
        with in_float64():
            outputs = run(net, inputs.double())
    model.check_scores(outputs)
    tensors = {"inputs": inputs, "outputs": outputs.contiguous(), "eager": eager.contiguous()}
    save_file(tensors, folder / "reference.safetensors")
    facts = {
        "weights": {
            "kind": found.kind,
            "source": found.source,
            "sha256": found.published_sha256 or sha256(found.path),
            "training": found.training,
        },
        "state": str(found.path),
        "made_by": "the same weights in eager float64 on the CPU",
        "pictures": shown,
        "variant": compressed,
        "response": moving,
    }
    (folder / "reference.json").write_text(json.dumps(facts))


def _compressed(net: nn.Module, context: Context, cell: Cell, folder: Path, seeded: bool) -> tuple[nn.Module, dict[str, Any]]:
    """Make a net's variant, with the zeros that are not stored, and what the record says of it; `folder` gets its file."""
    try:
        made = context.compress(net, models.variant(cell.variant), folder / "variant", context.seed if seeded else None)
    except NotHere as reason:
        raise CellEnded(UNAVAILABLE, str(reason), axis="variant") from reason
    except (Unfit, UnknownName) as reason:
        raise Unsupported(str(reason), axis="variant") from reason
    stored: dict[str, Any] = {"path": None, "sha256": None}
    if made.file is not None:
        stored = {"path": str(made.file), "sha256": sha256(made.file)}
    else:  # another package's, which is made anew wherever it is needed, with the statistics that were taken here
        from safetensors.torch import save_file

        statistics = {name: value for name, value in made.net.state_dict().items() if name.endswith(STATISTICS)}
        save_file(statistics, folder / "statistics.safetensors")
        stored["statistics"] = str(folder / "statistics.safetensors")
    return made.net, {**stored, **made.promise, "trainings": context.trainings}


def _prepare_file(file: Path, context: Context, settings: Settings, folder: Path) -> None:
    """Write the reference of an ONNX file: its weights are in it, and another program executes it in float64."""
    import torch
    from safetensors.torch import save_file

    graph, model = models.onnx_file(file), context.model

    def run(images: Tensor) -> Tensor:
        parts = tuple(map(torch.from_numpy, graph.outputs_in_float64(images.numpy())))
        whole = parts if len(parts) > 1 else parts[0]
        return model.comparable(whole, len(images))

    shown, inputs = _inputs(context, settings, "file")
    outputs = run(inputs)
    model.check_scores(outputs)
    save_file({"inputs": inputs, "outputs": outputs.contiguous()}, folder / "reference.safetensors")
    facts = {
        "weights": {"kind": "file", "source": file.name, "sha256": sha256(file)},
        "state": str(file),
        "made_by": "the same file in float64 by the ONNX project's reference implementation",
        "pictures": shown,
        "response": _response(run, inputs, outputs, model.batch or 1),
    }
    (folder / "reference.json").write_text(json.dumps(facts))


def _response(run: Callable[[Tensor], Tensor], inputs: Tensor, outputs: Tensor, batch: int) -> float:
    """`Reference.response`, by `batch` of the pictures at a time; of the first ones that show that it is large enough.

    0 where nothing can be said, as the outputs do not differ or are not finite: that is found out by the agreement.
    """
    unit, moved, squares = STEP * spread(outputs), inputs + STEP * (inputs.roll(-1, 0) - inputs), 0.0
    if not (unit > 0 and isfinite(unit)):
        return 0.0
    for start in range(0, len(inputs), batch):
        part = slice(start, start + batch)
        change = (run(moved[part]) - outputs[part]).double() / unit
        squares += float(change.square().flatten(1).mean(1).sum())
        if squares / len(inputs) > ENOUGH**2:
            break
    return (squares / len(inputs)) ** 0.5


def layers(folder: Path) -> list[Layer]:
    """Return the layers of what a cell runs, in the form of a formula; those of a compressed net are not its model's."""
    variant = json.loads((folder / "reference.json").read_text()).get("variant")
    return counts.layers(folder) if variant is None else [Layer(**layer) for layer in variant["layers"]]


def prepare_parent(cell: Cell, settings: Settings, folder: Path, progress: Progress) -> None:
    """Write which images the dense fp32 parent gets right into `folder`; nothing where there are no data or weights."""
    import torch

    model, reference = models.find(cell.model), Reference.load(folder)
    images = accuracy.images(model, cell.image_size, settings, reference.weights)
    # an ONNX file has no parent in torch
    if isinstance(images, str) or model.file is not None or not reference.names_a_class(model, cell.image_size):
        (folder / "parent.json").write_text("null")
        return
    net = model.weighted(cell.image_size, reference.state)
    with torch.inference_mode():
        correct = accuracy.classify(partial(model.run, net), images, settings, batch=32, progress=progress)
    (folder / "parent.json").write_text(json.dumps([rank == 0 for rank in correct]))


def _inputs(context: Context, settings: Settings, kind: str) -> tuple[str, Tensor]:
    """Pictures by the seed for inputs: real ones for real weights, where there are any; several times where there are too few."""
    images = context.images(kind)
    if images is not None:
        order = random.Random(settings.inputs_seed).sample(range(len(images)), min(INPUTS, len(images)))
        return images.name, images.batch(list(islice(cycle(order), INPUTS)))
    return "random pictures", context.model.pictures(INPUTS, context.image_size, settings.inputs_seed)
