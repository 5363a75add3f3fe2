"""Where a model's weights come from: a file, training on embedded data, or a seed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models import checkpoint
from models.model import Model, UnknownName
from models.outside import is_outside
from models.recipes import Recipe, Task, duration

if TYPE_CHECKING:
    import torch
    from torch import nn


WEIGHTS = "weights.safetensors"  # in the folder of a training
NO_WEIGHT = "num_batches_tracked"  # a counter of training steps; older files have none, and torch's strict loading allows it
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")


class AmbiguousWeights(LookupError):
    """Several files fit one model."""


class WrongWeights(ValueError):
    """A file that is no safetensors file, or whose tensors are not the model's."""


@dataclass(frozen=True)
class Weights:
    """`kind` is file, published, trained or seeded.

    `path` is None for seeded ones, for published ones, which are still to be fetched, and for trained ones that are not
    kept; `trained` ones may still have to be trained, as `task` says.
    """

    kind: str
    path: Path | None
    reason: str
    task: Task | None = None


def locate(
    model: Model,
    image_size: int,
    directory: Path | None,
    cache: Path,
    *,
    published: bool = False,
    root: Path | None = None,
    train_minutes: float = 1.0,
) -> Weights:
    """The best weights there are for a model.

    In `directory` a file is called `<data set>_<model>.safetensors`; before and after the model's name anything may
    stand, set off by a dot or a hyphen. With `published`, those of torchvision or timm are next; then those that were trained
    on this machine by the model's usual recipe, or can be, from the data in `root`, in `train_minutes`.
    Raises `AmbiguousWeights` where two fit, and `WrongWeights` where only a pickle does.
    """
    data = model.dataset(image_size)
    stem, wanted = _stem(model, image_size), f"a file {file_name(model, image_size)} is wanted"
    if directory is not None:
        fitting = candidates(model, image_size, directory)
        found = [path for path in fitting if path.suffix == ".safetensors"]
        if len(found) > 1:
            raise AmbiguousWeights(f"{stem}: {len(found)} files fit, wanted one: {', '.join(path.name for path in found)}")
        if found:
            return Weights("file", found[0], found[0].name)
        if fitting:
            raise WrongWeights(f"{fitting[0].name} {REFUSED}")
    if published and model.pretrained is not None and data.name == "imagenet":
        return Weights("published", None, model.pretrained)
    recipe = _recipe(model, image_size)
    if recipe is not None:
        task = Task(model, image_size, recipe)
        # a stranger's code may have changed in ways that nothing shows: trained in every session
        kept = None if is_outside(model.name) else folder(task, cache) / WEIGHTS
        quick = data.embedded or (data.missing(root) is None and recipe.minutes <= train_minutes)
        if quick or (kept is not None and kept.exists()):
            return Weights("trained", kept, f"trained here on {data.name}, recipe {recipe.name!r}, seed {recipe.seed}", task)
        wanted += (
            f", or python -m harness train {model.name} --image-size {image_size} ({duration(60 * recipe.minutes)} on 2 cores)"
        )
    place = "no --weights DIR was given" if directory is None else "the --weights folder has none"
    if published:
        place = "neither torchvision nor timm publishes any"
    elif model.pretrained is not None and data.name == "imagenet":
        wanted += f", or --weights pretrained for those of {model.pretrained.partition(':')[0]}"
    return Weights("seeded", None, f"no weights for {model.name} on {data.name}: {place}; {wanted}")


def folder(task: Task, cache: Path) -> Path:
    """Where a training is kept: its checkpoint, in the end its weights and its record."""
    return cache / "training" / task.name


def _recipe(model: Model, image_size: int) -> Recipe | None:
    """The model's own recipe; for one that has none, and takes embedded data, the plainest."""
    data = model.dataset(image_size)
    if data.name in model.recipes:
        with contextlib.suppress(UnknownName):  # a recipe of that name there is for other data
            return model.recipe(image_size)
        return None
    plain = data.embedded and model.layers is not None and model.inputs is None and model.outputs is None
    return Recipe() if plain else None


def candidates(model: Model, image_size: int, directory: Path) -> list[Path]:
    """The files of a folder whose names say that they hold weights of a model, pickles included."""
    data = model.dataset(image_size)
    name = re.escape(_stem(model, image_size).removeprefix(f"{data.name}_"))
    pattern = re.compile(rf"{data.name}_(.*[-.])?{name}([-.].*)?")
    kinds = (".safetensors", *PICKLES)
    return sorted(path for path in directory.iterdir() if path.suffix in kinds and pattern.fullmatch(path.stem))


def file_name(model: Model, image_size: int) -> str:
    """What a file of weights is called."""
    return f"{_stem(model, image_size)}.safetensors"


def _stem(model: Model, image_size: int) -> str:
    """Data set and model; what cannot stand in a file name (of `timm:NAME`, of a path) becomes a dot."""
    return re.sub(r"[^\w.+=-]", ".", f"{model.dataset(image_size).name}_{model.name}")


HEADER = 8  # bytes that say how long the JSON behind them is

REFUSED = (
    "is no safetensors file; pickles can run any code when they are loaded, and are refused. Wanted safetensors: "
    'safetensors.torch.save_file(torch.load(FILE, weights_only=True), "NAME.safetensors") makes it of a state dict'
)


def last_layer(net: nn.Module) -> tuple[str, ...]:
    """The names of the tensors of a net's last linear layer or convolution, which gives each class its score."""
    from torch import nn

    name = next(name for name, module in reversed([*net.named_modules()]) if isinstance(module, (nn.Linear, nn.Conv2d)))
    return tuple(key for key in net.state_dict() if key.rpartition(".")[0] == name)


def weighted(model: Model, image_size: int, path: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A model with the weights of a file, in eval mode; in another number format than its own where one is named.

    Eval mode comes last: there are nets that fold their weights in it. Raises `WrongWeights`.
    """
    import torch

    net = model.instantiate(image_size)
    load_weights(net, path)
    if dtype is not None:
        net.to(dtype)
    with torch.no_grad():
        return net.eval()


def load_weights(net: nn.Module, path: Path, but: Collection[str] = ()) -> None:
    """Load a safetensors file; every tensor must be wanted, and every wanted tensor there in its shape.

    Those named in `but` stay as they are in the net, whatever the file has.
    Raises `WrongWeights` with the names that do not fit.
    """
    if not _has_header(path) and path.stat().st_size > HEADER:
        raise WrongWeights(f"{path.name} {REFUSED}")
    try:
        state = checkpoint.tensors(path)
    except checkpoint.BadCheckpoint as error:
        raise WrongWeights(str(error)) from error
    wanted = net.state_dict()
    state = {**state, **{name: wanted[name] for name in but}}
    kinds = [
        f"{name} (file {state[name].dtype}, model {wanted[name].dtype})"
        for name in wanted
        if name in state and state[name].dtype.is_floating_point != wanted[name].dtype.is_floating_point
    ]
    reshaped = [
        f"{name} (file {list(state[name].shape)}, model {list(wanted[name].shape)})"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    wrong = {
        "missing": [name for name in wanted if name not in state and not name.endswith(NO_WEIGHT)],
        "unexpected": [name for name in state if name not in wanted],
        "of another shape": reshaped,
        "of another kind": kinds,
    }
    if any(wrong.values()):
        texts = (
            f"{len(names)} {kind}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            for kind, names in wrong.items()
            if names
        )
        raise WrongWeights(f"{path.name} does not fit the model: {'; '.join(texts)}")
    net.load_state_dict(state, strict=True)


def _has_header(path: Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes of length, and JSON."""
    with path.open("rb") as file:
        return file.read(HEADER + 1)[HEADER:] == b"{"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/plumbline`, in the home directory's .cache where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plumbline"


def sources(folder: Path = Path(__file__).parent) -> str:
    """A digest of a package's sources, of this one if none is named: what a runtime built, or a training begun, by other code is
    not taken from a cache. (Finished weights are: their record names the code, and a floor is what holds them to account.)"""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
