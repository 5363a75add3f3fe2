"""A compressed net written to a file, which is built again from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plumbline import models
from plumbline.harness import messages
from plumbline.harness.facts import Promise
from plumbline.harness.messages import Compress
from plumbline.harness.outcomes import FAILED, UNAVAILABLE, CellEnded
from plumbline.harness.probe import promise
from plumbline.harness.probe.context import Context
from plumbline.models.compression import stored, variants
from plumbline.models.compression.variants import NotTrained, Unfit
from plumbline.models.data.datasets import NoData
from plumbline.models.weights.weights import weighted


def serve(request: Compress, progress: Callable[[str], None]) -> Promise:
    """Compress a trained model, write it, and say how large it is. Raises CellEnded where that cannot be."""
    cell, settings, out = request.cell, request.settings, Path(request.out)
    model, variant = models.find(cell.model), variants.find(cell.variant)
    context = Context(model, cell.image_size, settings, progress)
    progress(f"{model.name} at {cell.image_size} pixels, {variant.name}: making it")
    try:
        net = weighted(model, cell.image_size, context.parent_weights(model))
        made = variant(net, context).eval()
        stages = stored.save(made, model, cell.image_size, out, coded=variant.has("huffman"))
    except (NotTrained, NoData) as reason:
        raise CellEnded(UNAVAILABLE, str(reason), axis="variant") from reason
    except (Unfit, stored.CannotStore) as reason:
        raise CellEnded(FAILED, f"{variant.name}: {reason}", axis="variant") from reason
    told = promise.of(net, made, model.positional(context.example()), out, stages)
    return messages.convert({key: value for key, value in told.items() if key != "layers"}, Promise)
