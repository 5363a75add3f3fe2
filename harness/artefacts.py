"""What a runtime builds from a model before it can run it: an exported, a quantised file; kept by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from harness.cell import Cell
from harness.outcomes import UNSUPPORTED, CellEnded
from harness.precisions import PRECISIONS
from harness.reference import Progress, Reference, real_images
from harness.runtimes import RUNTIMES
from harness.settings import Settings
from models.pretrained import sha256
from models.seeding import pictures
from models.weights import sources

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATION = 64  # images from which static quantisation takes its ranges


def name(cell: Cell) -> str:
    """The file, in a reference's folder, that says where the artefact of a cell is."""
    return f"artefact-{cell.runtime}-{cell.precision}.json"


def kept(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """What was built for a cell: `path`, `sha256`, `seconds`, `cached`, and what its runtime says of it.

    None for a model that is a file already.
    """
    return json.loads((folder / name(cell)).read_text())


def prepare(cell: Cell, settings: Settings, folder: Path, progress: Progress) -> None:
    """Build the artefact of a cell, or take it from the cache, and note in `folder` where it is."""
    started = time.perf_counter()
    model, reference = models.find(cell.model), Reference.load(folder)
    if model.file is not None:
        (folder / name(cell)).write_text("null")
        return
    # of a stranger's code no digest of ours knows all
    root = folder if models.is_outside(cell.model) else settings.cache
    place = root / "artefacts" / _key(cell, settings, reference)
    found = _sound(place)
    if found is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / place.name
            made.mkdir()
            progress(f"building {cell.model} for {cell.runtime} in {cell.precision}")
            _build(model, cell, settings, reference, made)
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)
        built = _sound(place)
        assert built is not None, f"{place} was just written"
        found = {**built, "cached": False}
    (folder / name(cell)).write_text(json.dumps({**found, "seconds": round(time.perf_counter() - started, 4)}))


def _build(model: models.Model, cell: Cell, settings: Settings, reference: Reference, made: Path) -> None:
    import torch

    build, precision = RUNTIMES[cell.runtime].build, PRECISIONS[cell.precision]
    assert build is not None
    if model.inputs is not None or model.outputs is not None:
        raise CellEnded(UNSUPPORTED, f"{cell.runtime} takes one tensor of pictures, {cell.model} something else", axis="runtime")
    net = reference.net(model, cell, settings.seed)
    shown, images = _calibration(model, cell, settings, reference) if precision.calibrated else (None, None)
    try:
        with torch.no_grad():
            facts = build(net, reference.inputs[:2], images, precision, made / "model.onnx")
    except ValueError as error:
        raise CellEnded(UNSUPPORTED, str(error), axis="runtime") from error
    parameters = sum(parameter.numel() for parameter in net.parameters())
    digests = {path.name: sha256(path) for path in sorted(made.iterdir())}
    told = {"parameters": parameters, "calibration": shown, **facts}
    (made / "artefact.json").write_text(json.dumps({"files": digests, "facts": told}))


def _sound(place: Path) -> dict[str, Any] | None:
    """What is said of an artefact whose files are those that were written; None for any other."""
    try:
        told = json.loads((place / "artefact.json").read_text())
        files = {name: sha256(place / name) for name in told["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if files != told["files"] or "model.onnx" not in files:
        return None
    return {"path": str(place / "model.onnx"), "sha256": files["model.onnx"], "cached": True, **told["facts"]}


def _key(cell: Cell, settings: Settings, reference: Reference) -> str:
    """Readable, and a digest of everything that an artefact depends on."""
    weights = reference.weights
    libraries = {library: version(library) for library in ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")}
    data = str(settings.data) if PRECISIONS[cell.precision].calibrated and weights["kind"] != "seeded" else None
    parts = [weights["sha256"], cell.variant, data, settings.seed, libraries, sources(Path(__file__).parent), sources()]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return f"{cell.model}-{cell.image_size}px-{cell.runtime}-{cell.precision}-{digest}"


def _calibration(model: models.Model, cell: Cell, settings: Settings, reference: Reference) -> tuple[str, Tensor]:
    """Pictures as the weights know them: real ones for real weights, of the training split where there is one."""
    images = real_images(model, cell.image_size, settings, reference.weights["kind"], split="train")
    if images is not None:
        step = max(1, len(images) // CALIBRATION)
        return f"{min(CALIBRATION, len(images))} of {images.name}", images.batch(range(0, len(images), step)[:CALIBRATION])
    channels = model.dataset(cell.image_size).channels
    return f"{CALIBRATION} seeded pictures", pictures(CALIBRATION, channels, cell.image_size, settings.seed + 2)
