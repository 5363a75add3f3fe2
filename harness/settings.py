"""How a cell is to be measured: what a session decides and the probe obeys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from plumbline import PlumblineError
from plumbline.files import cache_folder

UNKNOWN = Path()  # the cache of whichever machine runs the cell


class NoFolder(PlumblineError, ValueError):
    """A folder of data or weights that is none."""


def _is_dir(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except PermissionError:  # of a folder above it
        return False


def folders(data: Path | None, weights: Path | None = None) -> dict[str, Path]:
    """Return the data root, given or $PLUMBLINE_DATA, and the weights, given or `weights` in it; those that there are.

    Raises `NoFolder`.
    """
    data = data or (Path(text) if (text := os.environ.get("PLUMBLINE_DATA")) else None)
    if weights is None and data is not None and _is_dir(data / "weights"):
        weights = data / "weights"
    for option, folder in (("--data", data), ("--weights", weights)):
        if folder is not None and not _is_dir(folder):
            raise NoFolder(f"{option}: expected a folder, got {str(folder)!r}")
    named = {"data": data, "weights": weights}
    return {key: folder.resolve() for key, folder in named.items() if folder is not None}


class Settings(Struct, frozen=True):
    """Times in seconds.

    `inputs_seed` chooses the pictures on which outputs are compared, `seed` everything else. `pretrained`: take the weights that
    torchvision or timm publish. `accuracy_images`: how many images a subset has, None for all of them, 0 for no accuracy.
    `layers`: find out where the time goes. `audit`: time what should make no difference. `train_minutes`: a model without weights
    is trained when its recipe takes no longer than that on two cores. `slowed`: the share by which each timed inference of a turn
    is made longer, by work of known length; it is for the gate, which shows so that it would find it.

    `data`, `weights` and `cache` are folders of the place where the cell runs; where `cache` is UNKNOWN, that place finds all
    three for itself (`located`).

    Before a cell the machine has `cool_s` to cool down to where it started; above `max_temperature` (°C) nothing is run.
    A measurement that was disturbed is repeated once, if the machine is calm again within `calm_s` (0: it is not).

    Sampling ends when the median's 95 % interval is within `median_within` of it and there are `min_samples`, or
    when `sampling_s` is spent; the second latency, with transfers, gets half of that. With a limit of p99, `p99_within_s`,
    sampling of the first goes on until there are as many as a bound of p99 takes, unless the median is beyond that limit.

    `energy_s` is the most that a meter of energy may take for each of its two windows, at rest and while inferences run; 0 asks
    none.
    """

    seed: int = 0
    inputs_seed: int = 0
    data: Path | None = None
    weights: Path | None = None
    pretrained: bool = False
    cache: Path = field(default_factory=lambda: UNKNOWN)
    warmup_s: float = 0.5
    sampling_s: float = 1.0
    calm_s: float = 0.0
    cool_s: float = 0.0
    max_temperature: float | None = None
    min_samples: int = 64
    max_samples: int = 10_000
    p99_within_s: float | None = None
    median_within: float = 0.01
    energy_s: float = 5.0
    emulated_samples: int = 6  # the fewest that have an interval
    accuracy_images: int | None = 500
    layers: bool = False
    audit: bool = False
    slowed: float = 0.0
    train_minutes: float = 1.0
    time_limit_s: float = 300.0
    memory_limit_bytes: int | None = None

    @classmethod
    def here(cls, data: Path | None, weights: Path | None = None, **others: Any) -> Settings:
        """With the folders that are given, or known of, and the cache of this machine. Raises `NoFolder`."""
        paths: dict[str, Any] = {**folders(data, weights)}
        return cls(**paths, cache=cache_folder(), **others)

    def located(self) -> Settings:
        """Fill in the folders of this machine, where the session has left that to it. Raises NoFolder."""
        return self if self.cache != UNKNOWN else replace(self, **folders(self.data, self.weights), cache=cache_folder())

    def without_paths(self) -> Settings:
        """Return what stands in the record, and must be the same for a run to be resumed."""
        return replace(self, data=None, weights=None, cache=UNKNOWN)
