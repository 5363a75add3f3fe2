"""What a model is here: plain data, a lazy builder and a closed formula. No torch in sight."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import UnknownName
from plumbline.models.data.datasets import AS_USUAL, DATASETS, TREATMENTS, DataSet, Preparation
from plumbline.models.layers import Layer, macs
from plumbline.models.training.recipes import USUAL, Recipe
from plumbline.texts import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn


ANY_MODEL = ("data", "treatment", "recipe")  # options that are not the architecture's own


@dataclass(frozen=True)
class Floor:
    """The least accuracy that a model with real weights must show on the whole of a data set, that many images."""

    top1: float
    images: int
    source: str
    top5: float | None = None


@dataclass(frozen=True)
class Model:
    """An architecture.

    `build` and `layers` take `image_size` (pixels, square), `channels` and `classes`, and then the
    model's own `options`; `build` returns the `nn.Module`, `layers` the formula (None: it has none, and the counters
    must agree among themselves). `data` are the data sets it is meant for, the first one being its usual one; `sizes`
    the image sizes it accepts; `home` its usual image size, where that is not its data set's.

    `preparation` is how its weights want pictures. `recipes` are the ways to train it, by data set; one of them is called
    `usual`.
    `pretrained` names who publishes weights for it: `torchvision:NAME` or `timm:NAME`.
    A net with several inputs or structured outputs also names `inputs`, which makes its positional arguments from
    pictures, float32 of shape (batch, channels, height, width), and `outputs`, which makes of what it returns the tensor
    that is compared, shape (batch, ...). `file` is an ONNX file that takes the place of `build`; `batch` the only batch that
    it takes, where that is fixed.
    """

    name: str
    build: Callable[..., nn.Module] | None
    layers: Callable[..., Iterable[Layer]] | None
    data: tuple[str, ...]
    sizes: Sequence[int]
    source: str
    floors: Mapping[str, Floor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    home: int | None = None
    preparation: Preparation = AS_USUAL
    recipes: Mapping[str, Sequence[Recipe]] = field(default_factory=dict)
    pretrained: str | None = None
    inputs: Callable[[Tensor], tuple[Any, ...]] | None = None
    outputs: Callable[[Any], Tensor] | None = None
    file: Path | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.data if name not in DATASETS]
        if unknown or not self.data or not len(self.sizes):
            wrong = f"no data {', '.join(unknown)}; known: {', '.join(DATASETS)}" if unknown else "it names no data or no sizes"
            raise ValueError(f"model {self.name!r}: {wrong}")

    def dataset(self, image_size: int) -> DataSet:
        """Return the data set for an image size: the one asked for, else the one at home in that size, else the first."""
        if "data" in self.chosen:
            return DATASETS[self.chosen["data"]]
        if self.home is not None:
            return DATASETS[self.data[0]]
        at_home = [name for name in self.data if DATASETS[name].image_size == image_size]
        return DATASETS[(at_home or self.data)[0]]

    @property
    def image_size(self) -> int:
        """The usual image size, in pixels."""
        return self.home or DATASETS[self.chosen.get("data", self.data[0])].image_size

    @property
    def format(self) -> str:
        """What a runtime is given: a torch module or an ONNX file."""
        return "torch" if self.file is None else "onnx"

    def arguments(self, image_size: int) -> dict[str, Any]:
        """Return what `build` and `layers` are called with."""
        data = self.dataset(image_size)
        own = {**self.options, **{key: value for key, value in self.chosen.items() if key not in ANY_MODEL}}
        return {"image_size": image_size, "channels": data.channels, "classes": data.classes, **own}

    def positional(self, images: Tensor) -> tuple[Any, ...]:
        """Return the net's positional arguments for pictures, float, shape (batch, channels, height, width)."""
        return (images,) if self.inputs is None else self.inputs(images)

    def run(self, net: nn.Module, images: Tensor) -> Tensor:
        """Run a net on pictures, shape (batch, channels, height, width), and return what is compared, shape (batch, ...).

        The net gets a copy of the pictures, as it may write into its input.
        """
        return self.comparable(net(*self.positional(images.clone())), len(images))

    def comparable(self, outputs: Any, batch: int) -> Tensor:
        """Return what is compared of a net's outputs for `batch` pictures, shape (batch, ...).

        Several tensors become one, if each has a row for every picture. Raises TypeError where there is more to it, and
        the model names no `outputs`; and where they are no real scores: class 3 is no nearer to 4 than to 9.
        """
        import torch

        if self.outputs is not None:
            tensor = self.outputs(outputs)
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"`outputs` of {self.name} returned a {type(tensor).__name__}, expected a tensor")
            return self._scores(tensor)
        if isinstance(outputs, torch.Tensor):
            return self._scores(outputs)
        parts = list(outputs.values() if isinstance(outputs, Mapping) else outputs) if isinstance(outputs, Iterable) else []
        if not parts or not all(isinstance(part, torch.Tensor) and part.shape[:1] == (batch,) for part in parts):
            raise TypeError(
                f"{self.name} returned a {type(outputs).__name__} that is not made of tensors with {batch} rows each; "
                "expected one, or a models.Model that names `outputs`"
            )
        return torch.cat([self._scores(part).flatten(1) for part in parts], dim=1)

    def check_scores(self, outputs: Tensor) -> None:
        """Raise TypeError for outputs that differ and are all whole numbers: class numbers, in whatever type they come."""
        from plumbline.tensors import spread

        if spread(outputs) > 0 and bool((outputs == outputs.round()).all()):
            raise TypeError(no_scores(self.name, "whole numbers"))

    def _scores(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return tensor
        kind = "complex" if tensor.is_complex() else "truth values" if str(tensor.dtype) == "torch.bool" else "whole"
        raise TypeError(no_scores(self.name, kind if kind == "truth values" else f"{kind} numbers"))

    def floor(self, image_size: int) -> Floor | None:
        """Return what it must reach at an image size; None where it is not as it is usually used: for that a floor is known."""
        data = self.dataset(image_size)
        usual = not self.chosen and image_size == (self.home or data.image_size)
        return self.floors.get(data.name) if usual else None

    def name_without(self, *options: str) -> str:
        """Return the name without some of the options that were chosen."""
        return "+".join(part for part in self.name.split("+") if part.partition("=")[0] not in options)

    def recipe(self, image_size: int) -> Recipe:
        """Return how it is trained at an image size, by the usual recipe or the one that was chosen. Raises `UnknownName`.

        A recipe's minutes are those of the model as it is usually used; others' are in proportion to their MACs.
        """
        name = self.chosen.get("recipe", USUAL)
        data = self.dataset(image_size).name
        recipes = self.recipes.get(data, ())
        if not recipes:
            known = ", ".join(self.recipes) or "none"
            raise UnknownName(f"model {self.name!r} has no recipe for {data}; it has some for: {known}")
        found = next((recipe for recipe in recipes if name == recipe.name), None)
        if found is None:
            names = ", ".join(recipe.name for recipe in recipes)
            raise UnknownName(f"model {self.name!r} has no recipe {name!r} for {data}; known: {names}")
        usual = replace(self, chosen={"data": data}).formula(DATASETS[data].image_size)
        here = self.formula(image_size)
        if here is None or usual is None:
            return found
        return replace(found, minutes=float(f"{found.minutes * macs(here) / macs(usual):.2g}"))

    def formula(self, image_size: int) -> tuple[Layer, ...] | None:
        """Return the layers in the order in which they run; None for a model that has no formula.

        Raises ValueError where its options do not fit the image size.
        """
        return None if self.layers is None else tuple(self.layers(**self.arguments(image_size)))

    def description(self) -> dict[str, Any]:
        """Return what a process without torch needs to know of it; plain JSON, for `models.sources.outside.described`."""
        return {
            "name": self.name,
            "data": list(self.data),
            "sizes": [self.sizes.start, self.sizes.stop, self.sizes.step] if isinstance(self.sizes, range) else list(self.sizes),
            "a_range": isinstance(self.sizes, range),
            "home": self.image_size,
            "chosen": dict(self.chosen),
            "source": self.source,
            "batch": self.batch,
            "file": None if self.file is None else str(self.file),
        }

    # -- what a harness asks for, by way of the rooms that do it --------------------------------------------------

    def count(self, image_size: int) -> dict[str, Any]:
        """Count parameters and MACs of one image by every route (models/counting/counts.py), for JSON. Raises ValueError."""
        from plumbline.models.counting.counts import count

        return count(self, image_size)

    def pictures(self, count: int, image_size: int, seed: int) -> Tensor:
        """Return random pictures, float32, shape (count, channels, image_size, image_size)."""
        from plumbline.models.weights.seeding import pictures

        return pictures(count, self.dataset(image_size).channels, image_size, seed)

    def seeded(self, image_size: int, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
        """Build it with weights by torch's current seed, in eval mode; also the weights as they are to be stored.

        `seed` is that of the pictures. Raises ValueError where the outputs do not depend on the input at all.
        """
        from plumbline.models.weights.seeding import seeded

        return seeded(self, image_size, seed)

    def weighted(self, image_size: int, path: Path) -> nn.Module:
        """Build it with the weights of a file, in eval mode. Raises `WrongWeights`."""
        from plumbline.models.weights.weights import weighted

        return weighted(self, image_size, path)

    def in_float64(self, net: nn.Module, image_size: int, path: Path) -> nn.Module:
        """Return its net, with the weights of a file, in float64.

        One that folds weights in eval mode is built anew: what it folded is in the number format that its weights had then.
        """
        import torch

        from plumbline.models.weights.seeding import changes_in_eval
        from plumbline.models.weights.weights import weighted

        return (weighted(self, image_size, path, torch.float64) if changes_in_eval(net) else net).double()

    def compressed(self, image_size: int, path: Path) -> nn.Module:
        """Build the compressed net of a file, in eval mode, without its parent. Raises `BadCheckpoint`."""
        from plumbline.models.compression.stored import load

        return load(self, image_size, path)

    def file_name(self, image_size: int) -> str:
        """Return what a file of its weights is called."""
        from plumbline.models.weights.weights import file_name

        return file_name(self, image_size)

    def instantiate(self, image_size: int) -> nn.Module:
        """Return the torch model, initialised by torch's current seed, in training mode, on torch's default device."""
        if self.build is None:
            raise TypeError(f"{self.name} is an ONNX file, expected a torch model")
        import torch
        from torch import nn

        with torch.no_grad():  # what weight norm computes would have a history, and could not be copied
            net: Any = self.build(**self.arguments(image_size))
            if isinstance(net, nn.Module) and type(net).__name__ == "OptimizedModule":  # compiled: that is a runtime's to do
                net = net._orig_mod
            if isinstance(net, nn.DataParallel):
                net = net.module
            if (wrong := _no_module(net)) is not None:
                raise TypeError(f"{self.name} {wrong}")
            if any(map(nn.parameter.is_lazy, (*net.parameters(), *net.buffers()))):  # sizes are told by a first call
                picture = torch.zeros(1, self.dataset(image_size).channels, image_size, image_size)
                net.eval()(*self.positional(picture))
                net.train()
        assert isinstance(net, nn.Module)
        return net


def no_scores(name: str, kind: str) -> str:
    """Return what is said of a model whose outputs cannot be compared by their differences."""
    return (
        f"{name} returned {kind}, expected real scores, as how far two of them are from each other is what is compared; "
        "measure it without its last step (argmax, a threshold), or name a models.Model whose `outputs` makes scores of them"
    )


def _no_module(net: Any) -> str | None:
    """What is wrong with what a builder returned, if anything; as the end of a sentence."""
    import torch
    from torch import nn

    expected = "expected a torch.nn.Module"
    if isinstance(net, type):
        return f"returned the class {net.__name__}, {expected}: call it"
    if isinstance(net, Mapping):
        state = bool(net) and all(map(torch.is_tensor, net.values()))
        kind = " (a state dict, which holds weights only)" if state else ""
        inside = next((key for key, value in net.items() if isinstance(value, nn.Module)), None)
        hint = f": name a function that returns its {inside!r}" if inside is not None else ""
        return f"returned a {type(net).__name__}{kind}, {expected}{hint}"
    if isinstance(net, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in net)
        place = next((index for index, part in enumerate(net) if isinstance(part, nn.Module)), None)
        hint = f": name a function that returns only its part {place}" if place is not None else ""
        return f"returned a {type(net).__name__} of {kinds}, {expected}{hint}"
    if type(net).__name__ == "ExportedProgram" or (isinstance(net, torch.fx.GraphModule) and "eval" in vars(net)):
        made = "returned an exported program (torch.export)"
        return f"{made}, {expected} that it was exported from: it has no layers and no eval mode"
    if not isinstance(net, nn.Module):
        return f"returned a {type(net).__name__}, {expected}"
    scripted = next((name for name, module in net.named_modules() if isinstance(module, torch.jit.ScriptModule)), None)
    if scripted is not None:
        where = f"its module {scripted!r} is" if scripted else "it is"
        made = f"returned a {type(net).__name__}, and {where} TorchScript (scripted or traced)"
        return f"{made}, {expected} that was scripted: its layers are not seen"
    return None


class Registry:
    """Models by name. A reference is `name` or `name+option=value+...`.

    A file of a package has its models in `MODELS`, and is imported when one of them is asked for: so a cell depends on the file
    of its own net alone, and a gate times no other ones.
    """

    def __init__(self, package: str, files: Mapping[str, Sequence[str]]) -> None:
        """Register the names that each file has. Raises ValueError for one that is taken or has other than a-z, 0-9 and _."""
        self._package, self._files = package, files
        self._file: dict[str, str] = {}
        for file, names in files.items():
            for name in names:
                if name in self._file:
                    raise ValueError(f"a model called {name!r} is registered already; names must differ")
                if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                    raise ValueError(f"model name {name!r}: lower case letters, digits and _ only, as it stands in test ids")
                self._file[name] = file

    def names(self) -> list[str]:
        """Return the names of all models, in alphabetical order."""
        return sorted(self._file)

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def find(self, reference: str) -> Model:
        """Return the model of a reference, its options set.

        Raises `UnknownName` for a model, option or value that does not exist.
        """
        name, *settings = split(reference)
        if name not in self._file:
            raise UnknownName(
                f"no model {name!r}{nearest(name, self._file)}; known: {', '.join(self.names())}; "
                "others by timm:NAME, torchvision:NAME, package.module:CALLABLE, FILE.onnx or an entry point"
            )
        return choose(self._models(self._file[name])[name], settings)

    def _models(self, file: str) -> dict[str, Model]:
        """Return the models of a file by name. Raises ValueError where it has others than were registered."""
        found: dict[str, Model] = {model.name: model for model in import_module(f"{self._package}.{file}").MODELS}
        if set(found) != set(self._files[file]):
            raise ValueError(
                f"{file}.py: expected the models {', '.join(self._files[file])}, as registered, got {', '.join(found)}"
            )
        return found


def split(reference: str) -> list[str]:
    """Return the name in a reference, and its settings. The path of a file may hold a plus, too: `c++/net.onnx+data=cifar10`."""
    file = re.match(r"(?is).*\.onnx(?=\+|$)", reference)
    name, rest = (file[0], reference[file.end() + 1 :]) if file else (reference.partition("+")[0], reference.partition("+")[2])
    return [name, *(rest.split("+") if rest else [])]


def choose(model: Model, settings: Sequence[str]) -> Model:
    """Return the model with options set, each `option=value`; its name says those that are not as usual."""
    known = {"data": model.data[0], "treatment": TREATMENTS[0], "recipe": USUAL, **model.options}
    chosen: dict[str, Any] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            raise UnknownName(f"model {model.name!r} has no option {key!r}; known: {', '.join(sorted(known))}")
        chosen[key] = _like(known[key], text, f"model {model.name!r}, option {key!r}")
        if key == "data" and text not in model.data:
            raise UnknownName(f"model {model.name!r} is not meant for data {text!r}; known: {', '.join(model.data)}")
        if key == "treatment" and text not in TREATMENTS:
            raise UnknownName(f"model {model.name!r}, option 'treatment': expected {', '.join(TREATMENTS)}, got {text!r}")
    if "treatment" in chosen and chosen.get("data", model.data[0]) == "imagenet":
        raise UnknownName(f"model {model.name!r}: pictures of imagenet are resized, then cropped; no other treatment is known")
    names = [recipe.name for recipes in model.recipes.values() for recipe in recipes]
    if "recipe" in chosen and chosen["recipe"] not in names:
        raise UnknownName(
            f"model {model.name!r} has no recipe {chosen['recipe']!r}; known: {', '.join(dict.fromkeys(names)) or 'none'}"
        )
    chosen = {key: chosen[key] for key in sorted(chosen) if key == "data" or chosen[key] != known[key]}
    canonical = "+".join([model.name, *(f"{key}={value}" for key, value in chosen.items())])
    prepared = replace(model.preparation, treatment=chosen.get("treatment", TREATMENTS[0]))
    return replace(model, name=canonical, chosen=chosen, preparation=prepared)


def _like(example: Any, text: str, where: str) -> Any:
    try:
        value = type(example)(text)
    except ValueError:
        raise UnknownName(f"{where}: expected {type(example).__name__}, got {text!r}") from None
    if isinstance(value, int) and value < 1:
        raise UnknownName(f"{where}: expected a whole number from 1, got {text!r}")
    return value
