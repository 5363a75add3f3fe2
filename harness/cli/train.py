"""`plumbline train`: train a model by its recipe, or go on with it; benchmarks find the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.DATA, shared.PLACE)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", help="a name of the list, with +option=value (data, treatment, recipe, its own)")
    parser.add_argument("--variant", default="dense", metavar="NAME")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: its usual one")
    parser.add_argument("--recipe", metavar="NAME", help="of those that plumbline show MODEL names (default: usual)")
    for number, kind in (("epochs", int), ("seed", int), ("batch", int), ("learning-rate", float)):
        parser.add_argument(f"--{number}", type=kind, metavar="N", help="instead of the recipe's")
    parser.add_argument("--from", dest="start", type=Path, metavar="FILE", help="begin with the weights of this safetensors file")
    parser.add_argument("--new-head", action="store_true", help="with --from: all but the last layer, for other classes")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: that of --target, else cuda where there is one")
    parser.add_argument(
        "--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="besides each epoch (default: 60)"
    )
    parser.add_argument("--anew", action="store_true", help="forget what an earlier training of this kind has left")
    parser.add_argument("--out", type=Path, metavar="DIR", help="put a copy of the weights there, to be given as --weights DIR")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for another session on this machine")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command."""
    from plumbline import models
    from plumbline.harness.cell import Cell
    from plumbline.harness.messages import Train
    from plumbline.harness.session import matrix
    from plumbline.harness.settings import Settings
    from plumbline.harness.studies import train
    from plumbline.harness.target import device_named

    model = matrix.find(arguments.model + (f"+recipe={arguments.recipe}" if arguments.recipe else ""))
    size, variant = arguments.image_size or model.image_size, models.variant(arguments.variant).name
    changed = {key: getattr(arguments, key) for key in ("epochs", "seed", "batch", "learning_rate")}
    request = Train(
        Cell(model.name, variant, "eager", "fp32", 1, size, arguments.target or "cpu"),
        Settings.here(arguments.data),
        arguments.device or (device_named(arguments.target) if arguments.target else None),
        {key: value for key, value in changed.items() if value is not None},
        None if arguments.start is None else str(arguments.start),
        arguments.new_head,
        arguments.anew,
        None if arguments.out is None else str(arguments.out),
        arguments.checkpoint_every,
    )
    return train.command(request, arguments.wait)
