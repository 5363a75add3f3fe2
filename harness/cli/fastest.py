"""`plumbline fastest`: the fastest correct configuration of a model here, against eager fp32, timed in turns."""

from __future__ import annotations

import argparse

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress

PARENTS = (shared.DATA, shared.STYLE)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", nargs="*", help="default: every model of the default tier, at its usual size")
    for axis in ("runtime", "precision"):
        parser.add_argument(f"--{axis}", action="append", default=[], metavar="NAME", help="only this one, and others named so")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME", help="race this one, too, and others named so")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the model's usual one")
    parser.add_argument("--target", default="cpu", help="cpu, cuda, cuda:1, ssh:HOST, docker:IMAGE@cuda, ... (default: cpu)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each candidate (default: 4)")


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
    fastest.report(names, asked, arguments.style, progress)
    return 0
