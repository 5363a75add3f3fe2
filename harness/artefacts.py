"""What a runtime builds from a model before it can run it: an exported, a quantised file; kept by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from harness.cell import Cell
from harness.outcomes import UNSUPPORTED, CellEnded
from harness.precisions import PRECISIONS
from harness.reference import Reference
from harness.runtimes import RUNTIMES
from harness.settings import Settings
from models.datasets import NoData
from models.pretrained import sha256
from models.seeding import pictures
from models.variants import VARIANTS
from models.weights import load_weights, sources

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATION = 64  # images from which static quantisation takes its ranges

Progress = Callable[[str], None]


def name(cell: Cell) -> str:
    """The file, in a reference's folder, that says where the artefact of a cell is."""
    return f"artefact-{cell.runtime}-{cell.precision}.json"


def is_needed(cell: Cell) -> bool:
    """Whether a cell's runtime builds something from its model first."""
    return RUNTIMES[cell.runtime].build is not None and models.find(cell.model).file is None


def kept(cell: Cell, folder: Path) -> dict[str, Any]:
    """What was built for a cell: `path`, `sha256`, `seconds`, `cached`, and what its runtime says of it."""
    return json.loads((folder / name(cell)).read_text())


def prepare(cell: Cell, settings: Settings, folder: Path, progress: Progress) -> None:
    """Build the artefact of a cell, or take it from the cache, and note in `folder` where it is."""
    started = time.perf_counter()
    # of a stranger's code no digest of ours knows all
    root = folder if models.is_outside(cell.model) else settings.cache
    place = root / "artefacts" / _key(cell, settings, folder)
    found = _sound(place)
    if found is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / place.name
            made.mkdir()
            _build(cell, settings, folder, made, progress)
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)
        built = _sound(place)
        assert built is not None, f"{place} was just written"
        found = {**built, "cached": False}
    (folder / name(cell)).write_text(json.dumps({**found, "seconds": round(time.perf_counter() - started, 4)}))


def _build(cell: Cell, settings: Settings, folder: Path, made: Path, progress: Progress) -> None:
    import torch

    progress(f"building {cell.model} for {cell.runtime} in {cell.precision}")
    model, build = models.find(cell.model), RUNTIMES[cell.runtime].build
    assert build is not None
    net = model.instantiate(cell.image_size).eval()
    load_weights(net, Reference.load(folder).state)
    net = VARIANTS[cell.variant](net)
    if model.inputs is not None or model.outputs is not None:
        raise CellEnded(UNSUPPORTED, f"{cell.runtime} takes one tensor of pictures, {cell.model} something else", axis="runtime")
    shown, images = _calibration(model, cell, settings, folder)
    file = made / "model.onnx"
    try:
        with torch.no_grad():
            facts = build(net, images, PRECISIONS[cell.precision], file)
    except ValueError as error:
        raise CellEnded(UNSUPPORTED, str(error), axis="runtime") from error
    parameters = sum(parameter.numel() for parameter in net.parameters())
    digests = {path.name: sha256(path) for path in sorted(made.iterdir())}
    told = {"parameters": parameters, "calibration": shown if facts.pop("calibrated") else None, **facts}
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


def _key(cell: Cell, settings: Settings, folder: Path) -> str:
    """Readable, and a digest of everything that an artefact depends on."""
    weights = json.loads((folder / "reference.json").read_text())["weights"]
    libraries = {library: version(library) for library in ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")}
    data = str(settings.data) if cell.precision == "int8-static" and weights["kind"] != "seeded" else None
    parts = [weights["sha256"], cell.variant, data, settings.seed, libraries, sources(Path(__file__).parent), sources()]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return f"{cell.model}-{cell.image_size}px-{cell.runtime}-{cell.precision}-{digest}"


def _calibration(model: models.Model, cell: Cell, settings: Settings, folder: Path) -> tuple[str, Tensor]:
    """Pictures as the weights know them: real ones for real weights, of the training split where there is one."""
    data, weights = model.dataset(cell.image_size), Reference.load(folder).weights
    if weights["kind"] != "seeded":
        try:
            images = data.load(settings.data, cell.image_size, split="train", preparation=model.preparation)
        except NoData:
            pass
        else:
            step = max(1, len(images) // CALIBRATION)
            return f"{min(CALIBRATION, len(images))} of {images.name}", images.batch(range(0, len(images), step)[:CALIBRATION])
    return f"{CALIBRATION} seeded pictures", pictures(CALIBRATION, data.channels, cell.image_size, settings.seed + 2)
