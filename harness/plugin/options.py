"""What can be said on the command line, and what it means."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.files import NoCache, cache_folder
from plumbline.harness.cell import AXES
from plumbline.harness.session import matrix
from plumbline.harness.settings import NoFolder, Settings, folders
from plumbline.models.model import split
from plumbline.texts import BYTES, not_negative, positive

NUMBERS = ("batch", "image_size")
CALM = "PLUMBLINE_CALM_S"  # another default of --calm


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("plumbline", "what to measure (benchmarks/matrix.toml names the tiers)")
    group.addoption("--tier", default="default", metavar="NAME", help="the tier of the matrix (default: default)")
    for axis in AXES:
        option = "--" + axis.replace("_", "-")
        words = f"only this {axis.replace('_', ' ')}; several with commas, or the option again"
        group.addoption(option, action="append", default=[], metavar="VALUE", dest=f"axis_{axis}", help=words)
    group.addoption("--matrix", type=Path, metavar="FILE", help="another matrix file")
    group.addoption("--targets", type=Path, metavar="FILE", help="another file of places (default: benchmarks/targets.toml)")
    group.addoption("--plan", action="store_true", help="run nothing; say how many cells, how long, and what is impossible")
    group.addoption(
        "--run-dir", type=Path, metavar="DIR", help="keep the records here (default: runs/TIME, or $PLUMBLINE_RUNS/TIME)"
    )
    words = "hold each cell against these limits of the file of budgets, as well: red where one is missed, or cannot be decided"
    group.addoption("--budget", metavar="NAME", help=words)
    group.addoption("--budgets", type=Path, metavar="FILE", help="another file of budgets (default: benchmarks/budgets.toml)")
    words = "write a report of the run there when it has ended: .html, .md, .csv or .parquet"
    group.addoption("--report", type=Path, metavar="FILE", help=words)
    group.addoption("--open-report", action="store_true", help="and show it in the browser: --report FILE.html")
    group.addoption("--resume", type=Path, metavar="RUN", help="run what this run is missing, or what did not end ok")
    group.addoption("--data", type=Path, metavar="ROOT", help="real images: ROOT/mnist, cifar10, imagenet (or $PLUMBLINE_DATA)")
    group.addoption("--weights", metavar="DIR", help="safetensors files (default: ROOT/weights, if any), or: pretrained")
    words = "train what has no weights if that takes no longer on two cores, instead of the tier's (default: 1)"
    group.addoption("--train-minutes", type=positive, metavar="MINUTES", help=words)
    group.addoption("--layers", action="store_true", help="find out where the time goes: plumbline layers RUN shows it")
    words = "time what should make no difference: other inputs, zeros, outputs that are used; red where it does"
    group.addoption("--audit", action="store_true", help=words)
    group.addoption("--seed", type=int, default=0, help="of weights, inputs and subsets (default: 0)")
    words = "of the pictures on which outputs are compared (default: another one each time; it is printed)"
    group.addoption("--inputs-seed", type=int, metavar="N", help=words)
    group.addoption("--time-limit", type=positive, metavar="SECONDS", help="for one cell, instead of the tier's")
    group.addoption("--memory-limit", type=_bytes, metavar="BYTES", help="for one cell's process, as 2GiB; torch included")
    words = "a cell that was disturbed is repeated once, if the machine becomes calm within that time; 0: it is not (default: 5)"
    group.addoption("--calm", type=not_negative, default=os.environ.get(CALM, "5"), metavar="SECONDS", help=words)
    words = "before a cell wait so long at most until the machine is as cool as at the start (default: 60)"
    group.addoption("--cool", type=not_negative, default=60.0, metavar="SECONDS", help=words)
    words = "run no cell on a machine that stays hotter; its cells are unavailable"
    group.addoption("--max-temperature", type=positive, metavar="CELSIUS", help=words)
    group.addoption(
        "--wait", type=float, default=0, metavar="SECONDS", help="wait for another session, or for a board out of a lab"
    )


def values(axis: str, given: list[str]) -> list[Any]:
    texts = [text for part in given for text in _listed(part) if text]
    if axis not in NUMBERS:
        return texts
    for text in texts:
        if not text.isdigit():
            raise matrix.MatrixError(f"--{axis.replace('_', '-')}: expected a whole number, got {text!r}")
    return [int(text) for text in texts]


def _listed(text: str) -> Iterator[str]:
    """Return what stands between commas; those in the path of a file that is there separate nothing."""
    parts = text.split(",")
    while parts:
        files = (split(",".join(parts[:end]))[0] for end in range(1, len(parts) + 1))
        ends = (end for end, file in enumerate(files, 1) if file.lower().endswith(".onnx") and Path(file).is_file())
        end = next(ends, 1)
        yield ",".join(parts[:end])
        del parts[:end]


def settings(config: pytest.Config) -> Settings:
    """Return what the options say; the tier has its say afterwards."""
    given = config.getoption("weights")
    pretrained = given == "pretrained"  # a folder of that name is ./pretrained
    weights = Path(given) if given is not None and not pretrained else None
    try:
        paths: dict[str, Any] = {**folders(config.getoption("data"), weights), "cache": cache_folder()}
    except (NoFolder, NoCache) as error:
        raise matrix.MatrixError(str(error)) from error
    said = {"layers": "layers", "audit": "audit", "calm_s": "calm", "cool_s": "cool", "max_temperature": "max_temperature"}
    fields: dict[str, Any] = {field: config.getoption(option) for field, option in said.items()}
    fields["pretrained"] = pretrained
    chosen = config.getoption("inputs_seed")
    fields["inputs_seed"] = secrets.randbelow(2**31) if chosen is None else chosen
    return Settings(seed=config.getoption("seed"), **fields, **paths)


def _bytes(text: str) -> int:
    units = {"": 1.0, **{unit.lower(): size for unit, size in BYTES.items()}}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number) :].strip().lower()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"expected bytes, as 2GiB or 500MB, got {text!r}") from None
