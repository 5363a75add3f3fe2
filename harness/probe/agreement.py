"""Whether what executes a model computes the same function as the reference, and by how much it misses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from plumbline.harness.facts import Agreement
from plumbline.harness.outcomes import FAILED, CellEnded
from plumbline.harness.precisions import PRECISIONS, Precision

if TYPE_CHECKING:
    from torch import Tensor

    from plumbline.harness.probe.reference import Reference
    from plumbline.models import Layer

# The largest of 10,000 normally distributed errors lies at 4 times their RMS; twice that leaves room for heavier tails.
OUTLIER = 8
# Of 1,000 outputs the worst has twice the RMS error of all, over 8 pictures; a swapped one 1.4 spreads, and never less than 1.
COLUMN = 4
# An error inside that is this many times as large as what is computed there must show.
BLUNT = 10


def judge(
    infer: Callable[[Tensor], Tensor], reference: Reference, batch: int, precision: Precision, layers: Sequence[Layer]
) -> Agreement:
    """Compare what `infer` returns for the reference's inputs, `batch` of them at a time, with the reference's outputs.

    `infer` takes float32 pictures of shape (batch, channels, height, width). Raises CellEnded where nothing can be compared.
    """
    import torch

    inputs, expected, spread = reference.inputs, reference.outputs, reference.spread
    if not isfinite(spread):
        raise CellEnded(FAILED, "the reference outputs, in float64, hold NaN or infinity: look at the weights")
    if not spread > 0:
        raise CellEnded(FAILED, "the model gives the same outputs for every input; nothing can be compared on them")
    magnitude = float(expected.square().mean().sqrt()) / spread
    numbers = torch.finfo(getattr(torch, precision.dtype))
    grain = numbers.tiny * numbers.eps / spread  # the smallest difference between two numbers of this format
    tolerance, rounding = precision.tolerance(layers, magnitude, grain), PRECISIONS["fp32"].tolerance(layers, magnitude)
    if reference.response < tolerance / BLUNT:
        raise CellEnded(
            FAILED,
            "an error could hardly show in these outputs, so that agreement on them says nothing: a small change of the pictures "
            f"changes them by {reference.response:.2g} of what it would in a linear one, expected {tolerance / BLUNT:.2g}; "
            "measure the model without its last softmax, sigmoid or threshold",
        )
    rows = [index % len(inputs) for index in range(-(-len(inputs) // batch) * batch)]
    batches = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        outputs = infer(inputs[part])
        _check_outputs(outputs, (len(part), *expected.shape[1:]))
        batches.append(outputs)
    first = batches[0]
    again = infer(inputs[rows[:batch]])
    _check_outputs(again, tuple(first.shape))
    outputs, eager = torch.cat(batches), reference.eager
    against = _compared(outputs, expected[rows], spread)
    eagerly = (None, None, None, None) if eager is None else _compared(outputs, eager[rows], spread)
    return Agreement(
        reference=reference.made_by,
        inputs=len(inputs),
        pictures=reference.pictures,
        spread=spread,
        error=against[0],
        max_error=against[1],
        repeat_error=float((again - first).double().abs().max()) / spread,
        tolerance=tolerance,
        max_tolerance=OUTLIER * tolerance,
        # between two calls only the order of fp32 sums may change, and with it how the last digit is rounded
        repeat_tolerance=max(precision.unit_roundoff, rounding),
        top1=against[2],
        column_error=against[3],
        column_tolerance=min(1.0, COLUMN * tolerance),
        eager_error=eagerly[0],
        eager_max_error=eagerly[1],
        eager_top1=eagerly[2],
        eager_tolerance=tolerance + rounding,  # that of the cell, and of eager fp32 itself
    )


def _compared(outputs: Tensor, expected: Tensor, spread: float) -> tuple[float, float, float, float]:
    """Return RMS error, largest error, share of rows with the same largest output, and RMS error of the worst output.

    Errors are shares of the spread. The worst output is looked for over all rows but the worst one.

    Errors of a row that is further than the spread from the mean are shares of that: integers clip what lies beyond their
    calibration, in proportion (a picture at 2.2 spreads, in ResNet-50: largest error 7.1). Single errors, and those of one
    output, are shares of that output's own spread, where it is wider than all: of 1,000 probabilities a few are 20 times the
    others, and so are their rounding errors.
    """
    apart = (expected - expected.mean(0)).double().flatten(1).square()
    errors = (outputs.double() - expected.double()).flatten(1) / apart.mean(1).sqrt().clamp_min(spread).unsqueeze(1)
    single = errors / (apart.mean(0).sqrt() / spread).clamp_min(1)
    same = outputs.flatten(1).argmax(dim=1) == expected.flatten(1).argmax(dim=1)
    squares = errors.square()
    sizes = squares.mean(1)
    typical = single[sizes < sizes.max()] if bool((sizes < sizes.max()).any()) else single
    worst = float(typical.square().mean(0).sqrt().max())
    return float(squares.mean().sqrt()), float(single.abs().max()), float(same.double().mean()), worst


def _check_outputs(outputs: Any, shape: tuple[int, ...]) -> None:
    if tuple(outputs.shape) != shape:
        raise CellEnded(FAILED, f"expected outputs of shape {shape}, got {tuple(outputs.shape)}")
    if not bool(outputs.isfinite().all()):
        raise CellEnded(FAILED, "the outputs hold NaN or infinity")
