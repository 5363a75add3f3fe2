"""`plumbline data`: fetch data sets into a data root."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", nargs="+", help="mnist, fashion_mnist, cifar10, cifar100")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline import UnknownName
    from plumbline.models.data.datasets import DATASETS, NoData

    known = [data.name for data in DATASETS.values() if data.fetch is not None]
    for name in arguments.name:
        if name not in known:
            raise UnknownName(f"no data set {name!r} that can be fetched; known: {', '.join(known)}")
    for name in arguments.name:
        fetch = DATASETS[name].fetch
        assert fetch is not None
        try:
            fetch(arguments.data)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            reason = f"{name} could not be fetched: {error}"
            raise NoData(f"{reason}. Offline: ROOT/{name} holds {DATASETS[name].contents}; copy them there") from error
        print(f"{name} is in {arguments.data / name}")
    return 0
