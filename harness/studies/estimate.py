"""`plumbline estimate`: latencies that nobody measured, from published ones of other nets on a device (harness/anchors.csv)."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from msgspec import Struct

from plumbline import models
from plumbline.harness import devices, roofline
from plumbline.harness.studies import ceilings
from plumbline.harness.verdicts.estimation import LEAST_FAMILIES, Additive, Amounts, Anchor, NoEstimate, mean_error
from plumbline.harness.views.table import LEFT, NOTHING, tabulated
from plumbline.models.counting.operations import TYPES, trace

FILE = Path(__file__).parents[1] / "anchors.csv"


class Published(Struct, frozen=True):
    """A latency that somebody published: seconds of an inference of a model by a runtime on a device."""

    device: str
    runtime: str
    precision: str
    model: str
    image_size: int
    batch: int
    seconds: float
    source: str


class Asked(Struct, frozen=True):
    """What to estimate: models at a picture size (None: the usual one) and a batch, and what was `measured` there, in seconds."""

    models: Sequence[str]
    device: str
    runtime: str
    precision: str
    image_size: int | None = None
    batch: int = 1
    measured: Mapping[str, float] = {}


@cache
def published(path: Path = FILE) -> tuple[Published, ...]:
    """Read a file of anchors."""
    with path.open(newline="") as file:
        return tuple(
            Published(
                row["device"],
                row["runtime"],
                row["precision"],
                row["model"],
                int(row["image_size"]),
                int(row["batch"]),
                float(row["ms"]) / 1e3,
                row["source"],
            )
            for row in csv.DictReader(file)
        )


@cache
def amounts(model: str, image_size: int | None, batch: int, precision: str) -> Amounts:
    """Return what an inference of a model does. Raises NoEstimate of one that cannot be followed, and UnknownName."""
    found = models.find(model)
    if precision not in TYPES:
        raise NoEstimate(f"expected one of the precisions {', '.join(TYPES)}, got {precision}")
    try:
        followed = trace(found, image_size or found.image_size, batch, TYPES[precision])
    except ValueError as reason:
        raise NoEstimate(str(reason)) from reason
    kinds: Counter[str] = Counter()
    for operation in followed.operations:
        kinds[operation.name.partition("::")[2] + (" in groups" if operation.groups > 1 else "")] += operation.bytes
    return Amounts(followed.macs, followed.bytes, len(followed.operations), dict(kinds))


def family(model: str) -> str:
    """Return the family of a model: one that was published and that its name has, else the letters with which it begins."""
    name = model.rpartition(":")[2]
    letters = re.compile("[a-z]+")
    known = {found[0] for each in published() if (found := letters.match(each.model.rpartition(":")[2]))}
    found = letters.match(name)
    return next((each for each in sorted(known) if each in name), name if found is None else found[0])


def fitted(device: str, runtime: str, precision: str) -> Additive:
    """Fit the constants of a device, a runtime and a precision. Raises NoEstimate where there are too few anchors."""
    chosen = [each for each in published() if (each.device, each.runtime, each.precision) == (device, runtime, precision)]
    if not chosen:
        known = sorted({f"{each.device} {each.runtime} {each.precision}" for each in published()})
        raise NoEstimate(
            f"no published latency of {device} by {runtime} in {precision} is known, and {LEAST_FAMILIES} families of nets are "
            f"needed; known: {', '.join(known)}"
        )
    return Additive(
        [
            Anchor(each.model, family(each.model), each.seconds, amounts(each.model, each.image_size, each.batch, each.precision))
            for each in chosen
        ]
    )


def bound_s(model: str, image_size: int | None, batch: int, precision: str, device: str) -> float | None:
    """Return the least seconds of an inference on a device; None where that is unknown."""
    peaks = devices.named(device, devices.known(devices.of_user())).peaks()
    layers = ceilings.counted(model, image_size or models.find(model).image_size)
    return roofline.bound(roofline.work(layers, None, precision, batch), peaks).seconds


def report(asked: Asked, style: str) -> tuple[str, bool]:
    """Return an answer, and whether there is an estimate of each model: how sure they are, and what a calibration changed.

    Of no model it is the published latencies, beside what the others say of each. Raises NoEstimate and UnknownDevice.
    """
    devices.named(asked.device, devices.known(devices.of_user()))
    model = fitted(asked.device, asked.runtime, asked.precision)
    known = {name: (_amounts(name, asked), seconds) for name, seconds in asked.measured.items()}
    model.calibrate(known)
    rows = [_row(name, asked, model) for name in asked.models]
    lines = [f"- calibrated by {', '.join(asked.measured)}: all estimates times {model.factor:.3g}"] if asked.measured else []
    alone, without = mean_error(model.errors), mean_error(model.family_errors)
    lines += [
        f"- estimated, not measured: from {len(model.anchors)} published latencies of {len(model.families)} families on "
        f"{asked.device}, {asked.runtime}, {asked.precision}",
        f"- mean error for a net that the constants did not see: {alone:.1%}; for a family that they did not see: {without:.1%}",
    ]
    shown = tabulated(rows, HEADS, (*LEFT, "model", "not estimated"), style) if rows else _validation(asked, model, style)
    return "\n".join([shown, "", *lines]), all(row[1] != NOTHING for row in rows)


HEADS = ["model", "estimated, ms", "95 %, ms", "family\nis known", "at least, ms", "not estimated"]


def _amounts(name: str, asked: Asked) -> Amounts:
    return amounts(name, asked.image_size, asked.batch, asked.precision)


def _row(name: str, asked: Asked, model: Additive) -> list[str]:
    least = NOTHING
    try:
        amounts_of = _amounts(name, asked)
        least = _milliseconds(bound_s(name, asked.image_size, asked.batch, asked.precision, asked.device))
        found = model.of(amounts_of, family(name))
    except NoEstimate as reason:
        return [name, NOTHING, NOTHING, NOTHING, least, str(reason)]
    low, high = (each * 1e3 for each in found.interval)
    return [name, _milliseconds(found.seconds), f"{low:.3g} to {high:.3g}", "yes" if found.kin else "no", least, NOTHING]


def _milliseconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds * 1e3:.3g}"


def _validation(asked: Asked, model: Additive, style: str) -> str:
    """Tabulate each anchor beside what the others say of it, and the bound."""
    rows = [
        [
            each.name.rpartition(":")[2],
            _milliseconds(each.seconds),
            f"{math.expm1(model.errors[each.name]):+.1%}",
            f"{math.expm1(model.family_errors[each.name]):+.1%}",
            _milliseconds(bound_s(each.name, None, 1, asked.precision, asked.device)),
        ]
        for each in model.anchors
    ]
    heads = ["model", "published, ms", "estimated\nwithout it", "without\nits family", "at least, ms"]
    return tabulated(rows, heads, (*LEFT, "model"), style)
