"""What a model is here: plain data, a lazy builder and a closed formula. No torch in sight."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from models.datasets import DATASETS, DataSet
from models.layers import Layer

if TYPE_CHECKING:
    from torch import nn


class UnknownName(LookupError):
    """A name that no registry has; the message lists those it has."""


@dataclass(frozen=True)
class Floor:
    """The least accuracy that a model with real weights must show on the whole of a data set, that many images."""

    top1: float
    images: int
    source: str


@dataclass(frozen=True)
class Model:
    """An architecture.

    `build` and `layers` take `image_size` (pixels, square), `channels` and `classes`, and then the
    model's own `options`; `build` returns the `nn.Module`, `layers` the formula. `data` are the
    data sets it is meant for, the first one being its usual one; `sizes` the image sizes it accepts.
    """

    name: str
    build: Callable[..., nn.Module]
    layers: Callable[..., Iterable[Layer]]
    data: tuple[str, ...]
    sizes: Container[int]
    source: str
    floors: Mapping[str, Floor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def dataset(self, image_size: int) -> DataSet:
        """The data set for an image size: the one asked for, else the one at home in that size, else the first."""
        if "data" in self.chosen:
            return DATASETS[self.chosen["data"]]
        at_home = [name for name in self.data if DATASETS[name].image_size == image_size]
        return DATASETS[(at_home or self.data)[0]]

    @property
    def image_size(self) -> int:
        """The usual image size, in pixels."""
        return DATASETS[self.chosen.get("data", self.data[0])].image_size

    def arguments(self, image_size: int) -> dict[str, Any]:
        """What `build` and `layers` are called with."""
        data = self.dataset(image_size)
        own = {**self.options, **{key: value for key, value in self.chosen.items() if key != "data"}}
        return {"image_size": image_size, "channels": data.channels, "classes": data.classes, **own}

    def formula(self, image_size: int) -> tuple[Layer, ...]:
        """The layers in the order in which they run."""
        return tuple(self.layers(**self.arguments(image_size)))

    def instantiate(self, image_size: int) -> nn.Module:
        """The torch model, initialised by torch's current seed, in training mode, on torch's default device."""
        return self.build(**self.arguments(image_size))


class Registry:
    """Models by name. A reference is `name`, `name+option=value+...`, or `package.module:ATTRIBUTE`."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}

    def add(self, model: Model) -> Model:
        if model.name in self._models:
            raise ValueError(f"a model called {model.name!r} is registered already; names must differ")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", model.name):
            raise ValueError(f"model name {model.name!r}: lower case letters, digits and _ only, as it stands in test ids")
        self._models[model.name] = model
        return model

    def names(self) -> list[str]:
        return sorted(self._models)

    def find(self, reference: str) -> Model:
        """The model of a reference, its options set.

        Raises `UnknownName` for a model, option or value that does not exist.
        """
        name, *settings = reference.split("+")
        model = self._imported(name) if ":" in name else self._models.get(name)
        if model is None:
            raise UnknownName(f"no model {name!r}; known: {', '.join(self.names())} (register one in models/__init__.py)")
        known = {"data": model.data[0], **model.options}
        chosen: dict[str, Any] = {}
        for setting in settings:
            key, _, text = setting.partition("=")
            if key not in known:
                raise UnknownName(f"model {name!r} has no option {key!r}; known: {', '.join(sorted(known))}")
            chosen[key] = _like(known[key], text, f"model {name!r}, option {key!r}")
            if key == "data" and text not in model.data:
                raise UnknownName(f"model {name!r} is not meant for data {text!r}; known: {', '.join(model.data)}")
        chosen = {key: chosen[key] for key in sorted(chosen) if key == "data" or chosen[key] != known[key]}
        canonical = "+".join([name, *(f"{key}={value}" for key, value in chosen.items())])
        return replace(model, name=canonical, chosen=chosen)

    @staticmethod
    def _imported(name: str) -> Model:
        module, _, attribute = name.partition(":")
        try:
            model = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UnknownName(f"no model {name!r}: {error}") from error
        if not isinstance(model, Model):
            raise UnknownName(f"{name!r} is a {type(model).__name__}, wanted a models.Model")
        return replace(model, name=name)


def _like(example: Any, text: str, where: str) -> Any:
    try:
        return type(example)(text)
    except ValueError:
        raise UnknownName(f"{where}: wanted {type(example).__name__}, came {text!r}") from None
