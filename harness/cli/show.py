"""`plumbline show`: a model: layers, parameters, MACs, shapes, data, floors, source. Or a cell of a run: latencies and bound."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.harness.views.terminal import Progress

if TYPE_CHECKING:
    from plumbline.models import Model


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "model", help="a name of the list, with +option=value; or timm:NAME, torchvision:NAME, ...; or a run directory"
    )
    parser.add_argument("cell", nargs="?", help="of a run directory: the cell's id, or words of it, if the run has several")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: its usual one")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline import UnknownName, models
    from plumbline.harness.journal import NAME
    from plumbline.harness.session.matrix import MatrixError

    if arguments.cell is not None or (Path(arguments.model) / NAME).exists():
        from plumbline.harness import journal
        from plumbline.harness.views import cells

        records = [record for record in journal.read(Path(arguments.model)) if record.latency is not None]
        print(cells.one(cells.select(records, arguments.cell)))
        return 0
    try:
        print(_shown(models.find(arguments.model), arguments.image_size))
    except (MatrixError, UnknownName, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        if models.kind_of(arguments.model) == "registered":
            raise
        raise UnknownName(f"{arguments.model}: {type(error).__name__}: {error}") from error
    return 0


def _shown(model: Model, image_size: int | None) -> str:
    from plumbline.harness.session import matrix
    from plumbline.harness.views import listing

    size = model.image_size if image_size is None else image_size
    if (unfit := matrix.unfit(model, size)) is not None:
        raise matrix.MatrixError(unfit.reason)
    layers = model.formula(size)
    if layers is None:  # only torch can tell
        from plumbline.models import Layer

        if sys.stderr.isatty():
            print(f"{model.name} has no formula: torch counts it, in some seconds", file=sys.stderr)
        counted = (Layer(**layer) for layer in model.count(size)["layers"])
        layers = tuple(layer for layer in counted if layer.macs or layer.parameters)
    return listing.one(model, size, layers)
