"""Where a model's weights come from: a file, training on embedded data, or a seed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plumbline import PlumblineError, UnknownName
from plumbline.models.model import Model
from plumbline.models.sources.outside import is_outside
from plumbline.models.training import checkpoint
from plumbline.models.training.recipes import Recipe, Task
from plumbline.texts import duration

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


WEIGHTS = "weights.safetensors"  # in the folder of a training
NO_WEIGHT = "num_batches_tracked"  # a counter of training steps; older files have none, and torch's strict loading allows it
WITHOUT = re.compile(r"[-.]without=(.+)$")  # in the name of a file: what is to be taken off the names of its tensors
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")


class AmbiguousWeights(PlumblineError, LookupError):
    """Several files fit one model."""


class WrongWeights(PlumblineError, ValueError):
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
    """Return the best weights there are for a model.

    In `directory` a file is called `<data set>_<model>.safetensors`; before and after the model's name anything may
    stand, set off by a dot or a hyphen. With `published`, those of torchvision or timm are next; then those that were trained
    on this machine by the model's usual recipe, or can be, from the data in `root`, in `train_minutes`.
    Raises `AmbiguousWeights` where two fit, and `WrongWeights` where only a pickle does.
    """
    data = model.dataset(image_size)
    stem, expected = _stem(model, image_size), f"a file {file_name(model, image_size)} is expected"
    if directory is not None:
        fitting = candidates(model, image_size, directory)
        found = [path for path in fitting if path.suffix == ".safetensors"]
        if len(found) > 1:
            raise AmbiguousWeights(f"{stem}: {len(found)} files fit, expected one: {', '.join(path.name for path in found)}")
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
        expected += f", or plumbline train {model.name} --image-size {image_size} ({duration(60 * recipe.minutes)} on 2 cores)"
    place = "no --weights DIR was given" if directory is None else "the --weights folder has none"
    if published:
        place = "neither torchvision nor timm publishes any"
    elif model.pretrained is not None and data.name == "imagenet":
        expected += f", or --weights pretrained for those of {model.pretrained.partition(':')[0]}"
    return Weights("seeded", None, f"no weights for {model.name} on {data.name}: {place}; {expected}")


class Sources(Protocol):
    """Where data and weights come from; `harness.settings.Settings` is one.

    `train_minutes` is how long a training that is needed may take; `pretrained` asks for published weights.
    """

    @property
    def seed(self) -> int: ...
    @property
    def data(self) -> Path | None: ...
    @property
    def weights(self) -> Path | None: ...
    @property
    def cache(self) -> Path: ...
    @property
    def pretrained(self) -> bool: ...
    @property
    def train_minutes(self) -> float: ...


def located(model: Model, image_size: int, sources: Sources) -> Weights:
    """Return the best weights there are for a model; raises as `locate` does."""
    return locate(
        model,
        image_size,
        sources.weights,
        sources.cache,
        published=sources.pretrained,
        root=sources.data,
        train_minutes=sources.train_minutes,
    )


def folder(task: Task, cache: Path) -> Path:
    """Return where a training is kept: its checkpoint, in the end its weights and its record."""
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
    """Return the files of a folder whose names say that they hold weights of a model, pickles included."""
    data = model.dataset(image_size)
    name = re.escape(_stem(model, image_size).removeprefix(f"{data.name}_"))
    pattern = re.compile(rf"{data.name}_(.*[-.])?{name}([-.].*)?")
    kinds = (".safetensors", *PICKLES)
    return sorted(path for path in directory.iterdir() if path.suffix in kinds and pattern.fullmatch(path.stem))


def file_name(model: Model, image_size: int) -> str:
    """Return what a file of weights is called."""
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
    """Return the names of the tensors of a net's last linear layer or convolution, which gives each class its score."""
    from torch import nn

    name = next(name for name, module in reversed([*net.named_modules()]) if isinstance(module, (nn.Linear, nn.Conv2d)))
    return tuple(key for key in net.state_dict() if key.rpartition(".")[0] == name)


def weighted(model: Model, image_size: int, path: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a model with the weights of a file, in eval mode; in another number format than its own where one is named.

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
    """Load a safetensors file; every tensor must be one of the net's, and each of the net's there in its shape.

    Those named in `but` stay as they are in the net, whatever the file has. A tensor that has several names in the net (tied
    weights) may stand in the file under one of them, as safetensors' `save_model` writes it, or under more with the same
    numbers. Of a file called `...-without=PREFIX.safetensors`, `PREFIX.` is taken off the names that begin with it.
    Raises `WrongWeights` with the names that do not fit.
    """
    if not _has_header(path) and path.stat().st_size > HEADER:
        raise WrongWeights(f"{path.name} {REFUSED}")
    try:
        state = checkpoint.tensors(path)
    except checkpoint.BadCheckpoint as error:
        raise WrongWeights(str(error)) from error
    expected = net.state_dict()
    if asked := WITHOUT.search(path.stem):
        state = {name.removeprefix(f"{asked[1]}."): tensor for name, tensor in state.items()}
    tied = _tied(expected)
    for names in tied:
        written = [name for name in names if name in state]
        for name in names if written and all(expected[name].shape == expected[written[0]].shape for name in names) else ():
            state.setdefault(name, state[written[0]])
    state = {**state, **{name: expected[name] for name in but}}
    kinds = [
        f"{name} (file {state[name].dtype}, model {expected[name].dtype})"
        for name in expected
        if name in state and state[name].dtype.is_floating_point != expected[name].dtype.is_floating_point
    ]
    reshaped = [
        f"{name} (file {list(state[name].shape)}, model {list(expected[name].shape)})"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    wrong = {
        "missing": [name for name in expected if name not in state and not name.endswith(NO_WEIGHT)],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": reshaped,
        "of another kind": kinds,
    }
    if any(wrong.values()):
        texts = (
            f"{len(names)} {kind}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            for kind, names in wrong.items()
            if names
        )
        advice = _prefixes(expected, state, path) if wrong["missing"] and wrong["unexpected"] else ""
        raise WrongWeights(f"{path.name} does not fit the model: {'; '.join(texts)}{advice}")
    net.load_state_dict(state, strict=True)
    loaded = net.state_dict()
    for names in tied:  # the last one that was written stands in all of them
        if lost := [name for name in names if not _equal(loaded[name], state[name])]:
            others = ", ".join(name for name in names if name != lost[0])
            raise WrongWeights(
                f"{path.name}: {lost[0]} shares its memory with {others} in the model (tied weights), and the file has other "
                "numbers for them; expected the same ones, or only one of them in the file"
            )


def _tied(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of tensors that share their memory, in groups."""
    places: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and not tensor.is_meta and not tensor.is_sparse:
            places.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return [names for names in places.values() if len(names) > 1]


def _equal(loaded: Tensor, written: Tensor) -> bool:
    """Whether a tensor has the numbers of a file, NaN among them, in its own number format."""
    import torch

    return torch.allclose(loaded, written.to(loaded), rtol=0, atol=0, equal_nan=True)


def _prefixes(expected: Collection[str], state: Collection[str], path: Path) -> str:
    """What to do where names differ by what stands before them, as wrappers leave it there (DataParallel, torch.compile)."""
    needed = {name for name in expected if not name.endswith(NO_WEIGHT)}
    for longer, shorter in ((set(state), needed), (needed, set(state))):
        short = max(shorter, key=len)
        for name in longer:
            prefix = name.removesuffix(short)
            if name != prefix and prefix.endswith(".") and shorter <= {each.removeprefix(prefix) for each in longer}:
                if longer is needed:
                    return f". The model's names begin with {prefix!r}, those in the file do not: save the net that was wrapped"
                return (
                    f". All that is expected is there behind {prefix!r}, which a wrapper has put before the names: call the file "
                    f"{path.stem}-without={prefix.removesuffix('.')}.safetensors, and it is taken off"
                )
    return ""


def _has_header(path: Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes of length, and JSON."""
    with path.open("rb") as file:
        return file.read(HEADER + 1)[HEADER:] == b"{"
