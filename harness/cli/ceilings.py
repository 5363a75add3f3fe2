"""`plumbline ceilings`: the least time of a cell on a device, the memory that it needs, and the largest batch that fits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from plumbline.harness.cell import Cell
from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress
from plumbline.texts import positive

PARENTS = (shared.STYLE,)
AXES = ("variant", "runtime", "precision", "batch", "image_size")


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", nargs="*", help="as in plumbline show; none: all cells of a tier")
    parser.add_argument(
        "--device", action="append", default=[], metavar="NAME", help="of devices.toml; again: others (default: all)"
    )
    parser.add_argument("--tier", default="default", metavar="NAME", help="the tier of the matrix (default: default)")
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="another matrix file")
    for axis in AXES:
        words = f"of the models that are named: another {axis.replace('_', ' ')} than the usual one; several with commas"
        shared.add_axis(parser, axis, words)
    words = "find by trials the largest of these batches that fits: on TARGET, or in the memory of the device here (like:NAME)"
    parser.add_argument("--search", nargs="?", const="", metavar="TARGET", help=words)
    parser.add_argument("--time-limit", type=positive, default=600.0, metavar="S", help="of a trial (default: 600)")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="of --search: for another session there")
    words = "put the memory that is predicted beside what the cells of this run needed, and nothing else"
    parser.add_argument("--beside", type=Path, metavar="RUN", help=words)
    parser.add_argument("--no-memory", action="store_true", help="bounds on latency alone: no torch, and no time")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where a cell does not fit."""
    from plumbline.harness import devices
    from plumbline.harness.session import matrix, places
    from plumbline.harness.studies import ceilings

    places.load(places.FILE)
    if arguments.beside is not None:
        from plumbline.harness import journal

        print(ceilings.beside(journal.read(arguments.beside), arguments.style))
        return 0
    known = devices.known(devices.of_user())
    chosen = [devices.named(name, known) for name in arguments.device] or list(known.values())
    if arguments.model:
        cells = ceilings.cells(arguments.model, shared.axes(arguments, AXES))
    else:
        tiers = matrix.load(arguments.matrix or matrix.FILE)
        if arguments.tier not in tiers:
            raise matrix.MatrixError(f"no tier {arguments.tier!r}; known: {', '.join(tiers)}")
        cells = matrix.expand(tiers[arguments.tier], {"target": ["cpu"]})
    if arguments.search is not None:
        return _search(arguments, cells, chosen, progress)
    rows: list[ceilings.Ceiling] = []
    for cell in cells:
        progress(f"{cell.id}, {len(rows) // len(chosen) + 1} of {len(cells)}")
        rows += [ceilings.of(cell, device, not arguments.no_memory) for device in chosen]
    progress("")
    print(ceilings.table(rows, arguments.style))
    return 1 if any(row.fits is False for row in rows) else 0


def _search(arguments: argparse.Namespace, cells: list[Cell], chosen: list[Any], progress: Progress) -> int:
    """Return 1 where of a cell no batch fits, or one ended otherwise than by its size."""
    import sys

    from msgspec.structs import replace

    from plumbline.harness import needs
    from plumbline.harness.devices import UnknownDevice
    from plumbline.harness.studies import largest
    from plumbline.models import DENSE

    if len(arguments.device) != 1:
        raise UnknownDevice(f"--search: expected one --device, got {len(arguments.device)}")
    target, batches = arguments.search or f"like:{arguments.device[0]}", sorted({cell.batch for cell in cells})
    batches = [2**power for power in range(8)] if batches == [1] else batches

    def predicted(cell: Cell) -> int | None:
        try:
            return needs.largest_batch(cell, chosen[0].for_programs()) or 0
        except (needs.Unpredicted, UnknownDevice):
            return None

    def say(text: str) -> None:
        progress("")
        print(text, file=sys.stderr, flush=True)

    plain = {"variant": DENSE, "runtime": "eager", "precision": "fp32"}  # what is like it, and predicted
    asked = [
        largest.Sought(replace(cell, target=target), predicted(cell), predicted(replace(cell, **plain)))
        for cell in dict.fromkeys(replace(cell, batch=1) for cell in cells)
    ]
    found = largest.search(asked, batches, arguments.time_limit, arguments.wait, say, progress)
    progress("")
    print(f"{target}: of batches {', '.join(map(str, batches))}\n\n{largest.table(found, arguments.style)}")
    return 1 if any(each.largest is None or not each.known for each in found) else 0
