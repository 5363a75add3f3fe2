"""What there is, and what is missing here: models, variants, runtimes, precisions, targets, data and tiers. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

from tabulate import tabulate

from plumbline import models
from plumbline.harness import meters, runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.machine import cpu_flags, cuda_device
from plumbline.harness.meters import METERS
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.session import matrix
from plumbline.models.compression import variants
from plumbline.models.counting.published import published
from plumbline.models.data.datasets import DATASETS
from plumbline.models.layers import Layer, macs, parameters
from plumbline.models.registry import REGISTRY
from plumbline.models.sources.outside import GROUP, announced
from plumbline.texts import number_of

OTHERS = "others: timm:NAME, torchvision:NAME, package.module:CALLABLE, FILE.onnx; one in detail: plumbline show MODEL"


def everything(tiers: dict[str, matrix.Tier], data: Path | None) -> str:
    """All names that a command line can use, in sections."""
    sections = {
        "models": tabulate(
            [_row(models.find(name)) for name in REGISTRY.names()],
            ["name", "pixels", "usual", "M parameters", "M MACs", "data", "weights by", "options"],
            disable_numparse=True,
            colalign=["left", "left", "right", "right", "right", "left", "left", "left"],
        ),
        f"models of installed packages (entry points {GROUP})": _lines(
            (name, f"shadowed by the registered one of that name ({entry.value})" if name in REGISTRY else entry.value)
            for name, entry in announced().items()
        ),
        "variants": _lines(
            [
                (variants.DENSE, "the net as it is"),
                *((_shown(technique), technique.summary) for technique in variants.TECHNIQUES.values()),
                *_packages(variants.announced()),
            ]
        ),
        "meters": _lines([*((name, f"in {meter.unit}") for name, meter in METERS.items()), *_packages(meters.announced())]),
        "runtimes": _lines((name, _runtime(name)) for name in runtimes.known()),
        "precisions": _lines((name, _precision(name)) for name in PRECISIONS),
        "targets": _lines([("cpu", "available"), ("cuda", _missing(cuda_device()))]),
        "data": _lines((name, _data(name, data)) for name in DATASETS),
        "accuracy floors": floors(),
        "tiers": _lines((name, _tier(tier)) for name, tier in tiers.items()),
    }
    text = "\n\n".join(f"{title}\n{body}" for title, body in sections.items() if body)
    return f"{text}\n\n{OTHERS}"


def floors(style: str = "simple") -> str:
    """Return the least accuracy of each model on each data set, and who says so."""
    rows = [
        [name, data, f"{floor.top1:.2%}", f"{floor.top5:.2%}" if floor.top5 else "", f"{floor.images:,}", floor.source]
        for name in REGISTRY.names()
        for data, floor in models.find(name).floors.items()
    ]
    heads = ["model", "data", "top-1", "top-5", "images", "source"]
    alignment = ["left", "left", "right", "right", "right", "left"]
    return tabulate(rows, heads, tablefmt=style, disable_numparse=True, colalign=alignment)


def one(model: models.Model, image_size: int, layers: Iterable[Layer]) -> str:
    """Return a model at an image size in pixels: its layers with their counts, and what is known of it."""
    layers = list(layers)
    data = model.dataset(image_size)
    facts = {
        "source": model.source,
        "input": f"1 x {data.channels} x {image_size} x {image_size} (batch, channels, height, width)",
        "output": f"1 x {data.classes} (batch, classes of {data.name})" if model.outputs is None else "structured",
        "pixels": matrix.shown(model.sizes),
        "data": ", ".join(model.data),
        "options": ", ".join(f"{key}={model.chosen.get(key, value)}" for key, value in model.options.items()) or "none",
        "weights by": model.pretrained or "nobody publishes any; --weights DIR",
        "parameters": f"{parameters(layers):,}",
        "MACs": f"{macs(layers):,} an image",
        "FLOPs": f"{2 * macs(layers):,} an image",
    }
    least = [
        (
            f"floor on {name}",
            f"top-1 {floor.top1:.2%}" + (f", top-5 {floor.top5:.2%}" if floor.top5 else "") + f" ({floor.source})",
        )
        for name, floor in model.floors.items()
    ]
    recipes = [(f"recipe {recipe.name!r} on {name}", str(recipe)) for name in model.recipes for recipe in model.recipes[name]]
    figures = [
        ("published", f"{figure.value} {figure.metric}{f' of {figure.layer}' if figure.layer else ''} ({figure.source})")
        for figure in published(model.name, image_size)
    ]
    table = tabulate(
        [
            [
                layer.name or "(itself)",
                f"{layer.parameters:,}",
                f"{layer.macs:,}",
                f"{layer.macs // layer.fan_in:,}" if layer.fan_in else "",
            ]
            for layer in layers
        ],
        ["layer", "parameters", "MACs", "outputs"],
        disable_numparse=True,
        colalign=["left", "right", "right", "right"],
    )
    return f"{model.name}\n\n{_lines([*facts.items(), *least, *recipes, *figures])}\n\n{table}"


def sizes(tiers: Iterable[matrix.Tier]) -> Iterator[tuple[str, int]]:
    """Every model and image size that a tier measures or counts, each once; models without torch's help only."""
    found: dict[tuple[str, int], None] = {}
    for tier in tiers:
        cells: list[Cell] = [*matrix.expand(tier, {}), *matrix.counted(tier, {})]
        for cell in cells:  # how it was trained, and how its pictures were fitted, says nothing about its layers
            found[matrix.find(cell.model).name_without("recipe", "treatment"), cell.image_size] = None
    order = {name: index for index, name in enumerate(REGISTRY.names())}
    return iter(sorted(found, key=lambda pair: (order.get(pair[0].partition("+")[0], len(order)), pair)))


def _shown(technique: variants.Technique) -> str:
    """Return a technique's name, its number and its options."""
    options = "".join(
        f"+{name}={'|'.join(technique.choices.get(name, (str(usual),)))}"
        for name, usual in technique.options.items()
        if name != technique.amount
    )
    return f"{technique.name}{'' if technique.amount is None else 'N'}{options}"


def _row(model: models.Model) -> list[str]:
    formula, size = model.formula(model.image_size), model.image_size
    counts = ["", ""] if formula is None else [f"{parameters(formula) / 1e6:.4g}", f"{macs(formula) / 1e6:.4g}"]
    options = ", ".join(f"{key}={value}" for key, value in model.options.items())
    return [model.name, matrix.shown(model.sizes), str(size), *counts, ", ".join(model.data), model.pretrained or "", options]


def _runtime(name: str) -> str:
    if name not in runtimes.RUNTIMES:
        return _package(runtimes.announced()[name])
    adapter = runtimes.RUNTIMES[name]
    options = ", ".join(f"{key}={'|'.join(values)}" for key, values in adapter.options.items())
    what = f"{', '.join(adapter.precisions)} on {', '.join(adapter.devices)}; options: {options or 'none'}"
    gone = runtimes.missing(adapter)
    if gone is None and "cpu" not in adapter.devices and (reason := cuda_device()) is not None:
        gone = f"it runs on {', '.join(adapter.devices)}; {reason}"
    return f"unavailable: {gone}" if gone else f"installed: {what}"


def _packages(announced: Mapping[str, EntryPoint]) -> Iterator[tuple[str, str]]:
    return ((name, _package(entry)) for name, entry in announced.items())


def _package(entry: EntryPoint) -> str:
    return f"of an installed package ({entry.value})"


def _precision(name: str) -> str:
    precision = PRECISIONS[name]
    if "cpu" not in precision.devices and (gone := cuda_device()) is not None:
        return f"unavailable: arithmetic of {', '.join(precision.devices)}; {gone}"
    emulated = precision.emulated("cpu", cpu_flags())
    return "emulated on this CPU, which has no such arithmetic; a few iterations only" if emulated else "available"


def _missing(reason: str | None) -> str:
    return "available" if reason is None else f"unavailable: {reason}"


def _data(name: str, root: Path | None) -> str:
    data = DATASETS[name]
    return "available, embedded" if data.embedded else _missing(data.missing(root))


def _tier(tier: matrix.Tier) -> str:
    cells, counted = len(matrix.expand(tier, {})), len(matrix.counted(tier, {}))
    return number_of(cells, "cell") + (f", {counted} more counted only" if counted else "")


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"  {name:{width}}  {text}".rstrip() for name, text in pairs)
