"""`plumbline fastest`: the fastest correct way to run a model here, against eager fp32, in turns."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.views.terminal import Progress

HELP = "the fastest correct way to run a model here, against eager fp32, in turns"


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", nargs="*", help="default: every model of the default tier, at its usual size")
    for axis in ("runtime", "precision"):
        parser.add_argument(f"--{axis}", action="append", default=[], metavar="NAME", help="only this one, and others named so")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME", help="race this one, too, and others named so")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the model's usual one")
    parser.add_argument("--target", default="cpu", help="cpu, cuda, cuda:1, PLACE or PLACE@cuda (default: cpu)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each way (default: 4)")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="real images and weights (default: $PLUMBLINE_DATA)")
    parser.add_argument("--markdown", action="store_true")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.session import matrix
    from plumbline.harness.studies import fastest

    names = arguments.model or list(dict.fromkeys(cell.model for cell in matrix.expand(matrix.load(matrix.FILE)["default"], {})))
    asked = fastest.Question(
        variants=arguments.variant,
        runtimes=arguments.runtime,
        precisions=arguments.precision,
        batch=arguments.batch,
        image_size=arguments.image_size,
        target=arguments.target,
        seconds=arguments.seconds,
        data=arguments.data,
    )
    style = "github" if arguments.markdown else "simple"
    fastest.report(names, asked, style, progress)
    return 0
