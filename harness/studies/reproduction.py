"""`plumbline reproduce`: train what the four studies trained, measure it, and put the figures beside those reported.

The tier `reproduction` is run like any other; an interrupted one goes on, its trainings from their checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from plumbline.harness import runtimes
from plumbline.harness.outcomes import OK
from plumbline.harness.record import Record
from plumbline.harness.verdicts.words import FAILED, MISSING, PASSED
from plumbline.harness.views.table import NOTHING, tabulated
from plumbline.models.counting.published import REPORTED, Reported
from plumbline.models.registry import REGISTRY
from plumbline.texts import duration

TIER = "reproduction"
HEADS = (
    "model", "px", "runtime", "precision", "reported", "here", "top-5", "verdict", "reached in", "trained in", "machine",
    "source", "note",
)  # fmt: skip
LEFT = ("model", "runtime", "precision", "treatment", "outcome", "verdict", "trained in", "machine", "source", "note")
MODELS = ("alexnet_cifar", "alexnet_cifar_residual", "resnet20", "resnet56")


def tables(records: Sequence[Record], style: str = "simple") -> str:
    """Return what the studies reported beside what was measured, the sweeps, and all runtimes and precisions."""
    parts = ["Reported and measured\n", reported(records, style)]
    if rows := list(_sweeps(records)):
        heads = ["depth", "width", "pixels", "treatment", "M parameters", "M MACs", "top-1", "ms, batch 1", "trained in"]
        parts += ["\nMNIST, sweeps by the study's recipe\n", tabulated(rows, heads, LEFT, style)]
    if any(record.cell.model in MODELS for record in records):
        parts += ["\nEvery runtime and precision: top-1 on all 10,000 images (points lost)\n", _every_runtime(records, style)]
    return "\n".join(parts)


def reported(records: Sequence[Record], style: str = "simple") -> str:
    """Tabulate each accuracy that a study reports."""
    return tabulated([_beside(figure, records) for figure in REPORTED], HEADS, LEFT, style)


def missed(records: Sequence[Record]) -> list[str]:
    """Return the reported accuracies that were measured here, and not reached."""
    rows = [dict(zip(HEADS, _beside(figure, records), strict=True)) for figure in REPORTED]
    return [f"{row['model']} ({row['verdict']})" for row in rows if row["verdict"].startswith(FAILED)]


def _beside(figure: Reported, records: Sequence[Record]) -> list[str]:
    place = (figure.model, figure.image_size, figure.runtime, figure.precision)
    fits = [record for record in records if _place(record) == place]
    expected = _percent(figure.top1) + (f" / {_percent(figure.top5)}" if figure.top5 is not None else "")
    head = [figure.model, str(figure.image_size), figure.runtime, figure.precision, expected]
    tail = [figure.source, figure.note or NOTHING]
    found = next((record for record in fits if record.top1 is not None), None)
    if found is None or found.accuracy is None or found.top1 is None or found.accuracy.top5 is None:
        reason = "not run yet"
        if fits:
            reason = (fits[0].accuracy.unavailable if fits[0].accuracy else None) or fits[0].reason or reason
        return [*head, NOTHING, NOTHING, f"{MISSING}: {reason}", NOTHING, NOTHING, NOTHING, *tail]
    training = found.weights.training if found.weights else None
    pairs = {"top-1": (figure.top1, found.top1), "top-5": (figure.top5, found.accuracy.top5)}
    short = [
        f"{100 * (expected_share - got):.2f} points of {name} less"
        for name, (expected_share, got) in pairs.items()
        if expected_share is not None and round(got, 4) < expected_share
    ]
    word, took, soon, where = f"{FAILED}: {', '.join(short)}" if short else PASSED, NOTHING, NOTHING, NOTHING
    if training is not None:
        took, machine = f"{duration(training['seconds'])}, {len(training['curves'])} epochs", training["machine"]
        soon = _until(training["curves"], figure.top1)
        where = machine.get("accelerator") or f"{machine['cpu_model']}, {machine['cores_allowed']} cores"
    return [*head, _percent(found.top1), _percent(found.accuracy.top5), word, soon, took, where, *tail]


def _until(curves: Sequence[dict[str, float]], top1: float) -> str:
    """After how much training the pictures that were held out were classified as well as that."""
    for number, point in enumerate(curves, start=1):
        if point.get("top1", 0.0) >= top1:
            return duration(sum(earlier["seconds"] for earlier in curves[:number]))
    return NOTHING


def _sweeps(records: Iterable[Record]) -> Iterable[list[str]]:
    """Yield the MLPs by the study's recipe, in the order of depth, width and pixels; the latency is that of batch 1."""
    by_net: dict[tuple[Any, ...], dict[int, Record]] = {}
    for record in records:
        size, model = record.cell.image_size, REGISTRY.find(record.cell.model)
        if model.name.startswith("mlp") and model.chosen.get("recipe") == "study" and record.outcome == OK:
            own = model.arguments(size)
            treatment = "none" if size == model.dataset(size).image_size else model.preparation.treatment
            key = (treatment != "none", treatment, own["depth"], own["width"], -size)
            by_net.setdefault(key, {})[record.cell.batch] = record
    for (_, treatment, depth, width, size), batches in sorted(by_net.items()):
        accurate = next((record for record in batches.values() if record.top1 is not None), None)
        one = batches.get(1)
        if accurate is None or accurate.top1 is None or one is None or one.counts is None or one.latency is None:
            continue
        training = accurate.weights.training if accurate.weights else None
        yield [
            str(depth),
            str(width),
            str(-size),
            treatment,
            f"{one.counts.parameters / 1e6:.3f}",
            f"{one.counts.macs / 1e6:.3f}",
            _percent(accurate.top1),
            f"{one.latency.model.median_s * 1e3:.3g}",
            duration(training["seconds"]) if training else NOTHING,
        ]


def _every_runtime(records: Sequence[Record], style: str) -> str:
    """Tabulate the nets of known accuracy, however executed: top-1, and the points that the dense fp32 parent has more."""
    measured = [one for one in records if one.cell.model in MODELS and one.cell.batch != 1]
    found = {(one.cell.runtime, one.cell.precision, one.cell.model): one for one in measured}
    pairs = sorted({key[:2] for key in found}, key=lambda pair: (list(runtimes.RUNTIMES).index(pair[0]), pair[1]))
    rows = [[*pair, *(_accuracy(found.get((*pair, model))) for model in MODELS)] for pair in pairs]
    reasons = {pair: one.reason for pair in pairs for model in MODELS if (one := found.get((*pair, model))) and one.reason}
    notes = [f"- {runtime} {precision}: {reason}" for (runtime, precision), reason in reasons.items()]
    return "\n".join([tabulated(rows, ["runtime", "precision", *MODELS], LEFT, style), *([""] if notes else []), *notes])


def _accuracy(record: Record | None) -> str:
    if record is None:
        return NOTHING
    if record.outcome != OK or record.top1 is None or record.accuracy is None:
        return record.outcome if record.outcome != OK else "unavailable"
    return _percent(record.top1) + ("" if record.accuracy.loss is None else f" ({100 * record.accuracy.loss:+.2f})")


def _place(record: Record) -> tuple[str, int, str, str]:
    return record.cell.model, record.cell.image_size, record.cell.runtime, record.cell.precision


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
