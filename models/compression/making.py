"""From a net to a variant of it: compressed, stored, and with what it promises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.models.compression import stored
from plumbline.models.compression.sparse import densified
from plumbline.models.counting import promise
from plumbline.models.weights.seeding import calibration, normalise

if TYPE_CHECKING:
    from torch import nn

    from plumbline.models.compression.variants import Context, Variant
    from plumbline.models.model import Model


@dataclass(frozen=True)
class Compressed:
    """A variant of a net.

    `net` stores all zeros that its layers have, whatever runs; `file` holds what runs (None: no way is known to store it, so that
    it has to be made anew). `promise` has the fields of `harness.facts.Promise` but for the trainings, and `layers`, those of the
    compressed net in the form of a formula.
    """

    net: nn.Module
    file: Path | None
    promise: dict[str, Any]


def compress(
    net: nn.Module,
    variant: Variant,
    context: Context,
    model: Model,
    image_size: int,
    file: Path,
    seed: int | None = None,
) -> Compressed:
    """Make a variant of a net and store it in `file`; the net itself stays as it is.

    Of a net with seeded weights `seed` is the seed of the pictures from which its batch norms take their statistics anew: without
    half of its channels what goes through such a net would fade, until rounding errors are all that is left.
    Raises `Unfit`, `NotTrained` and `NoData`.
    """
    made = variant(net, context).eval()
    if seed is not None:
        normalise(made, calibration(model, image_size, seed), model.run)
    place: Path | None = file
    stages = None
    try:
        stages = stored.save(made, model, image_size, file, coded=variant.has("huffman"))
    except stored.CannotStore:
        place = None
    promised = promise.of(net, made, model.positional(context.example()), place, stages)
    return Compressed(densified(made), place, promised)
