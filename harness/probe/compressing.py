"""A compressed net written to a file, which is built again from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plumbline import NotHere, Unfit, models
from plumbline.harness import messages
from plumbline.harness.facts import Promise
from plumbline.harness.messages import Compress
from plumbline.harness.outcomes import FAILED, UNAVAILABLE, CellEnded
from plumbline.harness.probe.training import context_of


def serve(request: Compress, progress: Callable[[str], None]) -> Promise:
    """Compress a trained model, write it, and say how large it is. Raises CellEnded where that cannot be."""
    cell, settings = request.cell, request.settings
    model, variant = models.find(cell.model), models.variant(cell.variant)
    context = context_of(model, cell.image_size, settings, progress)
    progress(f"{model.name} at {cell.image_size} pixels, {variant.name}: making it")
    try:
        net = model.weighted(cell.image_size, context.parent_weights())
        made = context.compress(net, variant, Path(request.out))
    except NotHere as reason:
        raise CellEnded(UNAVAILABLE, str(reason), axis="variant") from reason
    except Unfit as reason:
        raise CellEnded(FAILED, f"{variant.name}: {reason}", axis="variant") from reason
    if made.file is None:
        raise CellEnded(FAILED, f"{variant.name}: expected a technique that says how it is stored, got none", axis="variant")
    return messages.convert({key: value for key, value in made.promise.items() if key != "layers"}, Promise)
