"""Where a model's weights come from: a file, training on embedded data, or a seed."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from models.model import Model


class AmbiguousWeights(LookupError):
    """Several files fit one model."""


@dataclass(frozen=True)
class Weights:
    """`kind` is file, trained or seeded; `path` is None for seeded ones, and `trained` ones may still have to be."""

    kind: str
    path: Path | None
    reason: str


def locate(model: Model, image_size: int, directory: Path | None, cache: Path) -> Weights:
    """The best weights there are for a model.

    In `directory` a file is called `<data set>_<model>.safetensors`; anything may follow the model's
    name after a dot or a hyphen. Raises `AmbiguousWeights` where two fit.
    """
    data = model.dataset(image_size)
    stem = f"{data.name}_{model.name}"
    if directory is not None:
        wanted = re.compile(re.escape(stem) + r"([-.].*)?\.safetensors")
        found = sorted(path for path in directory.iterdir() if wanted.fullmatch(path.name))
        if len(found) > 1:
            raise AmbiguousWeights(f"{stem}: {len(found)} files fit, wanted one: {', '.join(path.name for path in found)}")
        if found:
            return Weights("file", found[0], found[0].name)
    if data.embedded:
        name = f"{stem}-{image_size}px-{_sources()}.safetensors".replace(":", ".")
        return Weights("trained", cache / "weights" / name, f"trained here on {data.name}, seed 0")
    place = "no --weights directory was given" if directory is None else "the weights directory has none"
    return Weights("seeded", None, f"no weights for {model.name} on {data.name}: {place} (a file {stem}.safetensors is wanted)")


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/plumbline`, in the home directory's .cache where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plumbline"


def _sources() -> str:
    """A digest of this package's sources: what a change of the code may have changed is never taken from a cache."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
