"""`plumbline compress`: a compressed net as a file, which is built again from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plumbline import models
from plumbline.harness.facts import Promise
from plumbline.harness.probe.context import Context
from plumbline.harness.session import matrix
from plumbline.harness.session.session import lock_machine
from plumbline.harness.settings import Settings
from plumbline.models.compression import stored, variants
from plumbline.models.counting import promise
from plumbline.models.weights.weights import weighted


def command(
    model: models.Model, image_size: int | None, reference: str, settings: Settings, out: Path, progress: Callable[[str], None]
) -> int:
    """Compress a trained model, write it, and say how large it is. Returns the exit code.

    Raises MatrixError, `Unfit`, `NotTrained`, `NoData` and `NotKept`.
    """
    size, variant = image_size or model.image_size, variants.find(reference)
    if (unfit := matrix.unfit(model, size)) is not None:
        raise matrix.MatrixError(unfit.reason)
    if model.file is not None:
        raise matrix.MatrixError(f"{model.name} is an ONNX file, and cannot be compressed; wanted a torch model")
    context = Context(model, size, settings, progress)
    progress(f"{model.name} at {size} pixels, {variant.name}: making it")
    with lock_machine(0):  # it may train
        net = weighted(model, size, context.parent_weights(model))
        made = variant(net, context).eval()
    try:
        stages = stored.save(made, model, size, out, coded=variant.has("huffman"))
    except stored.CannotStore as reason:
        raise matrix.MatrixError(f"{variant.name}: {reason}") from reason
    progress("")
    told = promise.of(net, made, model.positional(context.example()), out, stages)
    of = Promise(**{key: value for key, value in told.items() if key != "layers"})
    assert of.bytes is not None
    print(f"{model.name} at {size} pixels, {variant.name}: {of.parameters_nonzero:,} of {of.parameters_dense:,} parameters left")
    for stage, count in (stages or {"dense": of.bytes_dense, "compressed": of.bytes}).items():
        print(f"{stage:>10}: {count:>13,} bytes ({of.bytes_dense / count:.1f}x smaller)")
    print(f"{out}: plumbline.models.compression.stored.load(plumbline.models.find({model.name!r}), {size}, Path({str(out)!r}))")
    return 0
