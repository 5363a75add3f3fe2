"""`plumbline ceilings`: before anything runs, the least time of a cell on a device, its memory, and whether it fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from msgspec import Struct

from plumbline import models
from plumbline.harness import needs, roofline, runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.devices import Device, UnknownDevice
from plumbline.harness.facts import Bound
from plumbline.harness.needs import Needs, Unpredicted
from plumbline.harness.record import Record
from plumbline.harness.session import matrix
from plumbline.harness.session.session import learn
from plumbline.harness.views.table import LEFT, NOTHING, tabulated
from plumbline.models import DENSE, Layer
from plumbline.models.counting.counts import layers_by_torch
from plumbline.texts import number_of, size

COMPUTE, MEMORY = "compute", "bandwidth"


class Ceiling(Struct, frozen=True):
    """What a device allows a cell: the `bound` on its latency, and what it `needs` of the bytes that the device `has`.

    `largest` is the largest batch that is predicted to fit, up to needs.MOST_BATCH. `weights` are the bytes of the net's in fp32,
    as a runtime keeps them in a file, and `storage` those that are built in there. `unknown` says why a figure is missing.
    """

    cell: Cell
    device: str
    bound: Bound
    needs: Needs | None = None
    has: int | None = None
    largest: int | None = None
    weights: int | None = None
    storage: int | None = None
    unknown: list[str] = []

    @property
    def fits(self) -> bool | None:
        """Whether it needs no more than there is; None where either is unknown."""
        return None if self.needs is None or self.has is None else self.needs.process <= self.has


def cells(names: Sequence[str], axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Return the product of models and axes, where there are no values the usual ones, by the first runtime of each precision.

    Runtimes that are named are taken with the precisions that they know. Raises MatrixError.
    """
    matrix.check_all({"model": names, **axes})
    learn(names)
    found, named = list[Cell](), list(axes.get("runtime", ()))
    for model in {matrix.find(name).name: matrix.find(name) for name in names}.values():
        rest = (
            axes["variant"] or [DENSE],
            axes["precision"] or ["fp32"],
            axes["batch"] or [1],
            axes["image_size"] or [model.image_size],
        )
        for image_size in rest[-1]:
            if (unfit := matrix.unfit(model, image_size)) is not None:
                raise matrix.MatrixError(unfit.reason)
        for variant, precision, batch, image_size in itertools.product(*rest):
            knowing = [name for name in named or runtimes.RUNTIMES if precision in runtimes.find(name).adapter.precisions]
            for runtime in knowing if named else knowing[:1]:
                found.append(Cell(model.name, variant, runtime, precision, batch, image_size, "cpu"))
    if not found:
        asked = ", ".join(axes["precision"] or ["fp32"])
        raise matrix.MatrixError(f"expected a runtime that knows {asked}, got {', '.join(named)}")
    return found


def of(cell: Cell, device: Device, memory: bool = True) -> Ceiling:
    """Return the ceiling of a cell on a device; with `memory` also what it needs, which takes torch and a moment a cell.

    The memory is that of a process on a processor, with the framework's share as it is on x86: a device's own may differ.
    """
    found = _bound(cell, device, memory)
    unknown = list(found.missing)
    formula = matrix.find(cell.model).formula(cell.image_size)
    weights = None if formula is None else 4 * sum(layer.parameters for layer in formula)
    storage = None if device.storage_bytes is None else round(device.storage_bytes)
    needed = has = largest = None
    try:
        has = device.for_programs()
    except UnknownDevice as reason:
        unknown.append(str(reason))
    if memory:
        try:
            needed = Needs.of(cell)
            largest = None if has is None else needs.largest_batch(cell, has)
        except Unpredicted as reason:
            unknown.append(str(reason))
    return Ceiling(cell, device.name, found, needed, has, largest, weights, storage, unknown)


def _bound(cell: Cell, device: Device, counting: bool) -> Bound:
    if cell.variant != DENSE:
        return Bound(missing=["what a variant leaves of a net is known when it is made; the record of a run has its bound"])
    layers = matrix.find(cell.model).formula(cell.image_size)
    if layers is None and counting:
        layers = counted(cell.model, cell.image_size)
    if layers is None:
        return Bound(missing=[f"{cell.model} has no formula, and is counted where memory is asked for, too"])
    return roofline.bound(roofline.work(layers, None, cell.precision, cell.batch), device.peaks())


@cache
def counted(model: str, image_size: int) -> tuple[Layer, ...]:
    """Return the layers that torch's counter sees in a model."""
    return tuple(layers_by_torch(models.find(model), image_size))


HEADS = ["cell", "device", "at least, ms", "by", "images/s,\nat most", "needs, MB", "there are", "fits", "largest\nbatch"]


def table(found: Sequence[Ceiling], style: str) -> str:
    """Tabulate ceilings, a row each; below it what is not known, once each."""
    rows = [list(_row(each)) for each in found]
    shown = tabulated(rows, HEADS, (*LEFT, "cell", "device", "by", "fits"), style)
    return "\n".join([shown, "", *notes(found)])


def _row(found: Ceiling) -> Iterator[str]:
    seconds = found.bound.seconds
    by = COMPUTE if seconds is not None and seconds == found.bound.compute_s else MEMORY
    yield found.cell.id.removesuffix(f"-{found.cell.target}")
    yield found.device
    yield NOTHING if seconds is None else f"{seconds * 1e3:.3g}"
    yield NOTHING if not seconds else by
    yield NOTHING if not seconds else f"{found.cell.batch / seconds:.3g}"
    yield NOTHING if found.needs is None else f"{found.needs.process / 1e6:.0f}"
    yield NOTHING if found.has is None else f"{found.has / 1e6:.0f}"
    yield NOTHING if found.fits is None else "yes" if found.fits else "no"
    more = "or more" if found.largest is not None and found.largest >= needs.MOST_BATCH else ""
    yield (
        ("none" if found.needs is not None and found.has is not None else NOTHING)
        if found.largest is None
        else (f"{found.largest} {more}".rstrip())
    )


def notes(found: Iterable[Ceiling]) -> Iterator[str]:
    """Say where figures come from, and why some are missing."""
    found = list(found)
    for source in dict.fromkeys(f"{each.bound.device}: {each.bound.source}" for each in found if each.bound.device):
        yield f"- {source}"
    if any(each.needs for each in found):
        share = size(round(needs.FRAMEWORK))
        yield f"- memory: of the process, on a processor; {share} of it are the framework's share on x86 (docs/fit.md)"
    yield from _storage(found)
    for why in dict.fromkeys(why for each in found for why in each.unknown):
        yield f"- unknown: {why}"


def _storage(found: Sequence[Ceiling]) -> Iterator[str]:
    nets = {each.cell.model: each.weights for each in found if each.weights is not None}
    there = {each.device: each.storage for each in found}
    if known := {device: storage for device, storage in there.items() if storage is not None}:
        has = ", ".join(f"{device} {size(storage)}" for device, storage in known.items())
        takes = f"weights of {number_of(len(nets), 'net')}: {size(sum(nets.values()))} in fp32, once a runtime"
        yield f"- storage that is built in: {has}; {takes}; system, image and data come to that (docs/fit.md)"
    if unknown := [device for device, storage in there.items() if storage is None]:
        yield f"- unknown: the storage of {', '.join(unknown)}; storage_bytes of a file of devices can say it"


BESIDE = ["cell", "inference\nneeds, MB", "predicted", "off", "process\nneeds, MB", "predicted", "off"]
COUNTED = 20e6  # bytes: a smaller inference is lost among what a process holds anyway


def beside(records: Iterable[Record], style: str) -> str:
    """Put what was predicted beside what cells needed, with the framework's share of their own processes."""
    rows, off, unknown = [], list[tuple[float, float]](), dict[str, int]()
    for record in records:
        name = "first_inference" if record.cell.runtime in needs.SESSION else "inference"
        inference, process = record.memory_bytes(name), record.memory_bytes("process_peak")
        base = record.memory_bytes("process_base")
        if inference is None or process is None or base is None:
            continue
        try:
            found = Needs.of(record.cell, base)
        except Unpredicted as reason:
            unknown[str(reason)] = unknown.get(str(reason), 0) + 1
            continue
        errors = found.inference / inference - 1, found.process / process - 1
        if inference >= COUNTED:
            off.append(errors)
        shown = [[measured, predicted] for measured, predicted in ((inference, found.inference), (process, found.process))]
        (a, b), (c, d) = ([f"{value / 1e6:.1f}" for value in pair] for pair in shown)
        rows.append([record.cell.id, a, b, f"{errors[0]:+.0%}", c, d, f"{errors[1]:+.0%}"])
    lines = [tabulated(rows, BESIDE, (*LEFT, "cell"), style), ""]
    for name, each in (("an inference", [one for one, _ in off]), ("the process", [other for _, other in off])):
        if each:
            within = sum(abs(error) <= 0.1 for error in each)
            mean, worst = fmean(map(abs, each)), max(each, key=abs)
            lines.append(
                f"- of {name}, {number_of(len(each), 'cell')} whose inference needs {COUNTED / 1e6:.0f} MB at least: "
                f"{within} within 10 %, {mean:.0%} off on the average, {worst:+.0%} at worst"
            )
    lines += [f"- not predicted: {number_of(count, 'cell')}: {why}" for why, count in unknown.items()]
    return "\n".join(lines)
