"""What a runtime builds from a model before it can run it: an exported, a quantised file; kept by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from plumbline import models
from plumbline.files import code_digest, sha256
from plumbline.harness import runtimes, timing
from plumbline.harness.cell import Cell, stem
from plumbline.harness.machine import accelerator, allowed_cpus, cpu_flags
from plumbline.harness.outcomes import CellEnded, NotAsAsked, Unsupported
from plumbline.harness.precisions import CALIBRATION, PRECISIONS
from plumbline.harness.probe import agreement, threads
from plumbline.harness.probe.reference import Progress, Reference, layers
from plumbline.harness.probe.training import context_of
from plumbline.harness.runtimes import Runtime, config
from plumbline.harness.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from plumbline.models import Layer

Calibration = tuple[str, "Tensor"]  # what the images are, and they themselves
ALIKE = 1.05  # times of builds between which noise would choose


def name(cell: Cell) -> str:
    """Return the file, in a reference's folder, that says where the artefact of a cell is."""
    own = runtimes.find(cell.runtime).adapter.one_batch or models.kind_of(cell.model) == "file"  # which may hold a batch inside
    batch = f"-b{cell.batch}" if own else ""
    return f"artefact-{cell.runtime}-{cell.precision}{batch}-{cell.device}.json"


def load(cell: Cell, folder: Path) -> dict[str, Any]:
    """Return what was built for a cell: `path`, `sha256`, `seconds`, `cached`, `in_precision`, and what its runtime says of it.

    `in_precision` is the share of MACs that is executed in the cell's precision.

    For a model that is a file already, `in_precision` alone.
    """
    return json.loads((folder / name(cell)).read_text())


def prepare(cell: Cell, settings: Settings, folder: Path, progress: Progress) -> None:
    """Build the artefact of a cell, or take it from the cache, and note in `folder` where it is."""
    started = time.perf_counter()
    model, reference = models.find(cell.model), Reference.load(folder)
    if model.file is not None:
        share = _proven_file(model.file, cell, reference, folder)
        (folder / name(cell)).write_text(json.dumps({"in_precision": share}))
        return
    # no digest covers all of a stranger's code
    foreign = models.variant(cell.variant).outside or cell.runtime.partition("+")[0] in runtimes.announced()
    root = folder if models.kind_of(cell.model) != "registered" or foreign else settings.cache
    file = runtimes.find(cell.runtime).adapter.artefact_for(cell.variant)
    assert file is not None
    calibrated = PRECISIONS[cell.precision].calibrated
    calibration = _calibration(model, cell, settings, reference) if calibrated else None
    place = root / "artefacts" / _key(cell, settings, reference, calibration)
    found = _sound(place, file)
    if found is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / place.name
            made.mkdir()
            progress(f"building {cell.model} for {cell.runtime} in {cell.precision}")
            _build(model, cell, settings, folder, reference, calibration, made)
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)
        built = _sound(place, file)
        assert built is not None, f"{place} was just written"
        found = {**built, "cached": False}
    (folder / name(cell)).write_text(json.dumps({**found, "seconds": round(time.perf_counter() - started, 4)}))


def _build(
    model: models.Model,
    cell: Cell,
    settings: Settings,
    folder: Path,
    reference: Reference,
    calibration: Calibration | None,
    made: Path,
) -> None:
    """Build, load and run it once, so that what is kept is known to work and in which precision."""
    import torch

    runtime = runtimes.find(cell.runtime).adapter
    artefact = runtime.artefact_for(cell.variant)
    assert artefact is not None
    if not runtime.any_inputs and (model.inputs is not None or model.outputs is not None):
        raise Unsupported(f"{cell.runtime} takes one tensor of pictures, {cell.model} something else")
    shown, images = calibration or (None, None)
    example = reference.batch(cell.batch if runtime.one_batch else 2)
    given: Any = model.positional(example) if runtime.any_inputs else example
    choices = runtime.alternatives(config(cell))
    built = []
    for number, chosen in enumerate(choices):
        place = made / str(number)
        place.mkdir()
        net, file = reference.net(model, cell, settings), place / artefact
        parameters = sum(parameter.numel() for parameter in net.parameters())
        with torch.no_grad():
            facts = runtime.build(net, given, images, replace(config(cell, file, chosen), shared=folder), file)
        runs = reference.net(model, cell, settings) if runtime.runs == "net" else file
        executable, share = _proven(runs, cell, model.positional(reference.batch(cell.batch)), folder, file, chosen)
        about = {"parameters": parameters, "calibration": shown, "in_precision": share, **facts}
        built.append((executable, {**about, "chosen": dict(chosen)} if chosen else about))
    best, tried = 0, list[dict[str, Any]]()
    if len(choices) > 1:
        best, tried = _best([executable for executable, _ in built], choices, model, cell, reference, folder)
    for path in sorted((made / str(best)).iterdir()):
        path.rename(made / path.name)
    for number in range(len(choices)):
        shutil.rmtree(made / str(number))
    digests = {path.name: sha256(path) for path in sorted(made.iterdir())}
    about = {**built[best][1], **({"tried": tried} if tried else {})}
    (made / "artefact.json").write_text(json.dumps({"files": digests, "facts": about}))


def _best(
    built: Sequence[Runtime],
    choices: Sequence[Mapping[str, str]],
    model: models.Model,
    cell: Cell,
    reference: Reference,
    folder: Path,
) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of the fastest build that agrees with the reference, and what is to be said of each that was tried.

    Of those within a twentieth of it, the one with the smallest error; where none agrees, that one of all. They are timed in
    turns on the cell's batch: what runs beside them slows all alike.
    """
    import torch

    tried: list[dict[str, Any]] = []
    for executable, chosen in zip(built, choices, strict=True):

        def infer(images: Tensor, executable: Runtime = executable) -> Tensor:
            fetched = executable.fetch(executable.run(executable.place(model.positional(images))))
            return model.comparable(fetched, len(images))

        with torch.inference_mode():
            found = agreement.judge(infer, reference, cell.batch, PRECISIONS[cell.precision], layers(folder))
        tried.append({**chosen, "error": found.error, "agrees": found.same_function, "median_s": None})
    agreeing = [number for number, one in enumerate(tried) if one["agrees"]]
    if len(agreeing) > 1:
        placed = {number: built[number].place(model.positional(reference.batch(cell.batch))) for number in agreeing}
        calls = {number: (partial(built[number].run, placed[number]), built[number].synchronize) for number in agreeing}
        with torch.inference_mode():
            turns = timing.interleave_calls(calls, threads.settle)
        for number, medians in turns.items():
            tried[number]["median_s"] = median(medians)
        fastest = min(tried[number]["median_s"] for number in agreeing)
        agreeing = [number for number in agreeing if tried[number]["median_s"] <= ALIKE * fastest]
    return min(agreeing or range(len(tried)), key=lambda number: tried[number]["error"]), tried


def _proven(
    model: Any,
    cell: Cell,
    arguments: tuple[Any, ...],
    folder: Path,
    file: Path | None = None,
    chosen: Mapping[str, str] | None = None,
) -> tuple[Runtime, float]:
    """Load what a cell runs, and let it show its precision, in a process that is not measured."""
    import torch

    with torch.no_grad():
        executable = runtimes.find(cell.runtime).adapter(model, config(cell, file, chosen))
        placed = executable.place(arguments)
        executable.ready(placed)
        return executable, checked_share(executable, cell, placed, layers(folder))


def checked_share(executable: Runtime, cell: Cell, placed: Any, layers: Sequence[Layer]) -> float:
    """Return the share of MACs that is executed in the cell's precision, half of them at least.

    Raises Unsupported where that are fewer in integers, of which a library multiplies what it has kernels for, and NotAsAsked in
    floating point, where nothing keeps it from doing as it was asked.
    """
    share, precision = executable.share_in_precision(placed, layers), PRECISIONS[cell.precision]
    if share < 0.5:
        words = f"asked for {cell.precision}, {cell.runtime} executes {share:.1%} of its MACs in that, and the rest in another"
        small = precision.integer or precision.weights is not None
        raise (Unsupported if small else NotAsAsked)(f"{words}; expected half of them at least")
    return share


def _proven_file(file: Path, cell: Cell, reference: Reference, folder: Path) -> float:
    """`_proven` of a model that is a file. Where that fails, it is said which precision or batch the file itself has."""
    try:
        return _proven(file, cell, (reference.batch(cell.batch),), folder)[1]
    except CellEnded as end:
        reason, fits = end.reason, models.onnx_file(file).precision
        if fits != cell.precision:
            raise Unsupported(f"{reason}. The file's numbers are {fits}: --precision {fits}") from end
        if cell.batch == 1:
            raise
        _proven(file, cell, (reference.batch(1),), folder)
        words = f"{file.name} says that it takes any batch, and runs with 1 only, got {cell.batch}; export it for others"
        raise Unsupported(f"{words}: {reason}", axis="batch") from end


def _sound(place: Path, file: str) -> dict[str, Any] | None:
    """Return what is said of an artefact whose files are those that were written; None for any other."""
    try:
        listed = json.loads((place / "artefact.json").read_text())
        files = {name: sha256(place / name) for name in listed["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if files != listed["files"] or file not in files:
        return None
    size = sum((place / name).stat().st_size for name in files)
    return {"path": str(place / file), "sha256": files[file], "bytes": size, "cached": True, **listed["facts"]}


def _key(cell: Cell, settings: Settings, reference: Reference, calibration: Calibration | None) -> str:
    """Readable, and a digest of everything that an artefact depends on."""
    adapter, weights = runtimes.find(cell.runtime).adapter, reference.weights
    names = ("torch", "torchvision", "timm", "torchao", "onnx", "onnxscript", "onnxruntime", *adapter.libraries)
    libraries = {name: _version(name) for name in names}
    data = None if calibration is None else hashlib.sha256(calibration[1].numpy().tobytes()).hexdigest()
    machine = [sorted(cpu_flags()), allowed_cpus(), cell.device, _gpu(cell), cell.batch if adapter.one_batch else None]
    compressed = None if reference.variant is None else reference.variant["sha256"]
    parts = [
        cell.model,
        weights["sha256"],
        cell.variant,
        compressed,
        data,
        settings.seed,
        machine,
        libraries,
        _code(adapter),
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return f"{stem(cell)}{digest}"


def _code(adapter: type[Runtime]) -> list[str]:
    """Return digests of the code that an artefact depends on.

    Which layers are sparse is no build of the net but a choice by time. It is kept while other code than that changes: two
    revisions that choose anew have other nets by chance (4 and 13 sparse layers were seen, and a difference by 14 %).
    """
    ours = Path(models.__file__).parent
    if adapter.artefact is None:
        return [sha256(Path(timing.__file__)), code_digest(ours / "compression")]
    return [code_digest(Path(__file__).parent.parent), code_digest(ours)]


def _gpu(cell: Cell) -> list[str] | None:
    """Name the GPU that a build is made for, with its driver: another one does not even load it. None on the CPU."""
    import torch

    if cell.device_kind != "cuda" or not torch.cuda.is_available():
        return None
    capability = ".".join(map(str, torch.cuda.get_device_capability(cell.device)))
    # a Jetson has its driver with its kernel
    return [torch.cuda.get_device_name(cell.device), capability, accelerator() or "", platform.release()]


def _version(library: str) -> str | None:
    """Of what is installed; of a module that no distribution is named after, what it says itself (tensorrt of tensorrt-cu13)."""
    try:
        return version(library)
    except PackageNotFoundError:
        return getattr(import_module(library), "__version__", None) if find_spec(library) is not None else None


def _calibration(model: models.Model, cell: Cell, settings: Settings, reference: Reference) -> tuple[str, Tensor]:
    """Pictures as the weights know them: real ones for real weights, of the training split where there is one."""
    images = context_of(model, cell.image_size, settings, _silent).images(reference.weights["kind"], split="train")
    if images is not None:
        step = max(1, len(images) // CALIBRATION)
        return f"{min(CALIBRATION, len(images))} of {images.name}", images.batch(range(0, len(images), step)[:CALIBRATION])
    return f"{CALIBRATION} seeded pictures", model.pictures(CALIBRATION, cell.image_size, settings.seed + 2)


def _silent(text: str) -> None:
    """Nothing is trained here that could be told of."""
