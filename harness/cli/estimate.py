"""`plumbline estimate`: a guess of latencies on a device, from published ones of other nets, with an interval or none at all."""

from __future__ import annotations

import argparse

from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress
from plumbline.texts import whole_number

PARENTS = (shared.STYLE,)


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", nargs="*", help="as in plumbline show; none: the published latencies beside what the others say")
    parser.add_argument("--device", default="jetson-nano", metavar="NAME", help="of devices.toml (default: jetson-nano)")
    parser.add_argument("--runtime", default="eager", metavar="NAME", help="eager or tensorrt (default: eager)")
    parser.add_argument("--precision", default="fp16", metavar="NAME", help="(default: fp16)")
    parser.add_argument("--batch", type=whole_number, default=1, metavar="N")
    parser.add_argument("--image-size", type=whole_number, metavar="PIXELS", help="default: the model's usual one")
    words = "what you measured of one of the models on the device; again: of others. All estimates are scaled by it"
    parser.add_argument("--measured", type=_measured, action="append", default=[], metavar="MODEL=MS", help=words)


def _measured(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        seconds = float(value) / 1e3
    except ValueError:
        seconds = 0.0
    if not name or seconds <= 0:
        raise argparse.ArgumentTypeError(f"expected MODEL=MILLISECONDS, as resnet18=35, got {text!r}")
    return name, seconds


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where of one of the models nothing is estimated."""
    from plumbline.harness.studies import estimate

    progress("following the nets that were published")
    asked = estimate.Asked(
        arguments.model,
        arguments.device,
        arguments.runtime,
        arguments.precision,
        arguments.image_size,
        arguments.batch,
        dict(arguments.measured),
    )
    text, complete = estimate.report(asked, arguments.style)
    progress("")
    print(text)
    return 0 if complete else 1
