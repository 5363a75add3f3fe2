"""`plumbline compress`: write a compressed model, as small as it is, to a file that runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.DATA, shared.PLACE)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", help="a name of the list, with +option=value")
    parser.add_argument("variant", help="a chain of techniques, as prune90+tune+share+bits=4+huffman")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: its usual one")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="of the dense model (default: ROOT/weights, or its recipe)")
    parser.add_argument("--train-minutes", type=float, default=15, metavar="MIN", help="train no longer than that (default: 15)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command."""
    from plumbline import models
    from plumbline.harness.cell import Cell
    from plumbline.harness.messages import Compress
    from plumbline.harness.session import matrix
    from plumbline.harness.settings import Settings
    from plumbline.harness.studies import compress

    settings = Settings.here(arguments.data, arguments.weights, train_minutes=arguments.train_minutes)
    model, variant = matrix.find(arguments.model), models.variant(arguments.variant).name
    cell = Cell(model.name, variant, "eager", "fp32", 1, arguments.image_size or model.image_size, arguments.target or "cpu")
    return compress.command(Compress(cell, settings, str(arguments.out)), progress)
