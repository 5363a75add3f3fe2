"""Models that no registry entry describes: by name from timm and torchvision, by import path, entry point or ONNX file.

To resolve one imports third-party code, and torch with it, so that only the probe does so; the session asks it (`describe`) and
goes on with that description.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import UnknownName, entry_points
from plumbline.models.data.datasets import AS_USUAL, DATASETS, Preparation
from plumbline.models.model import Model, choose, split
from plumbline.process_state import ProcessState
from plumbline.texts import nearest

if TYPE_CHECKING:
    from torch import nn

GROUP = "plumbline.models"
ANY_SIZE = range(1, 4097)
CONTENT = "sha256"  # the option that says what is in a file


def is_outside(reference: str) -> bool:
    """Return whether the form of a reference, or an entry point of that name, says that it is no registered model."""
    name = split(reference)[0]
    return _is_file(name) or ":" in name or (not _registered(name) and name in announced())


def is_file(reference: str) -> bool:
    """Return whether a reference is the path of an ONNX file."""
    return _is_file(split(reference)[0])


def _is_file(name: str) -> bool:
    return name.lower().endswith(".onnx")


def _registered(name: str) -> bool:
    from plumbline.models.registry import REGISTRY  # which imports this module

    return name in REGISTRY


def announced() -> dict[str, EntryPoint]:
    """Return the models that installed packages announce; those under a registered model's name can only be listed."""
    return entry_points.announced(GROUP)


def find(reference: str) -> Model:
    """Return the model of an outside reference. Raises `UnknownName` where there is none. Imports torch."""
    name, *settings = split(reference)
    data = next((setting.removeprefix("data=") for setting in settings if setting.startswith("data=")), None)
    if data is not None and data not in DATASETS:
        raise UnknownName(f"model {name!r}: no data {data!r}{nearest(data, DATASETS)}; known: {', '.join(DATASETS)}")
    if _is_file(name):
        model = _onnx(name, data)
        settings = _pinned(Path(name), settings)
    elif name.startswith("timm:"):
        model = _timm(name, data or "imagenet")
    elif name.startswith("torchvision:"):
        model = _torchvision(name, data or "imagenet")
    else:
        entry = announced().get(name)
        target = name if entry is None else entry.value
        model = _imported(name, target, data)
    return choose(model, settings)


def described(fields: dict[str, Any]) -> Model:
    """Return a model from its `description`. It can be listed and planned with, not built."""

    def build(**_: Any) -> nn.Module:
        raise TypeError(f"{fields['name']} is only known by description here; the probe builds it")

    sizes = range(*fields["sizes"]) if fields.pop("a_range") else tuple(fields["sizes"])
    file = None if fields["file"] is None else Path(fields["file"])
    return Model(build=build, layers=None, **{**fields, "data": tuple(fields["data"]), "sizes": sizes, "file": file})


# -- timm and torchvision ------------------------------------------------------------------------------------------


def _timm(name: str, data: str) -> Model:
    import timm

    architecture = name.removeprefix("timm:")
    if not timm.is_model(architecture):
        raise UnknownName(f"timm has no model {architecture!r}{nearest(architecture, timm.list_models())}")
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    home = config.input_size[-1] if config is not None and data == "imagenet" else DATASETS[data].image_size

    def build(image_size: int, channels: int, classes: int) -> nn.Module:
        net = timm.create_model(architecture, num_classes=classes, in_chans=channels, **timm_size(config, image_size))
        patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
        if isinstance(patch, tuple) and image_size % patch[0]:  # timm leaves out the pixels that do not fill a patch
            raise ValueError(f"{image_size} pixels are not divided by the patch of {patch[0]}")
        return net

    preparation = AS_USUAL
    if config is not None and data == "imagenet":
        bicubic = config.interpolation == "bicubic"
        preparation = Preparation(tuple(config.mean), tuple(config.std), config.crop_pct, bicubic)
    return _unregistered(name, build, data, f"timm {timm.__version__}", home=home, preparation=preparation, pretrained=name)


def timm_size(config: Any, image_size: int) -> dict[str, int]:
    """Return timm's keywords for an image size, in pixels; `config` is the architecture's, if it has one."""
    fixed = config is not None and config.fixed_input_size
    return {"img_size": image_size} if fixed and image_size != config.input_size[-1] else {}


def _torchvision(name: str, data: str) -> Model:
    from torchvision import __version__ as version
    from torchvision import models as zoo

    from plumbline.models.architectures import detection

    architecture = name.removeprefix("torchvision:")
    if architecture not in zoo.list_models():
        raise UnknownName(f"torchvision has no model {architecture!r}{nearest(architecture, zoo.list_models())}")
    kind = zoo.get_model_builder(architecture).__module__.split(".")[2]  # torchvision.models.KIND[.file]
    if kind in ("video", "optical_flow"):
        raise UnknownName(f"model {name!r} takes {kind.replace('_', ' ')} inputs, expected a model of single pictures")
    if DATASETS[data].channels != 3:
        raise UnknownName(f"model {name!r}: torchvision's models take 3 channels, {data} has {DATASETS[data].channels}")
    weights = zoo.get_model_weights(architecture)
    changes: dict[str, Any] = {"pretrained": name, "home": DATASETS[data].image_size}
    published: Any = weights.DEFAULT.transforms() if len(weights) and data == "imagenet" else None
    if hasattr(published, "crop_size"):  # a classifier of pictures
        crop, bicubic = published.crop_size[0] / published.resize_size[0], published.interpolation.value == "bicubic"
        changes.update(
            home=published.crop_size[0], preparation=Preparation(tuple(published.mean), tuple(published.std), crop, bicubic)
        )
    if kind == "detection":
        changes.update(home=320, inputs=detection.inputs, outputs=detection.outputs)
    return _unregistered(name, torchvision_builder(architecture, kind), data, f"torchvision {version}", **changes)


def torchvision_builder(architecture: str, kind: str = "classification") -> Callable[..., nn.Module]:
    """Return a builder of one of torchvision's models, without weights."""

    def build(image_size: int, channels: int, classes: int) -> nn.Module:
        from torchvision import models as zoo

        keywords: dict[str, Any] = {"weights": None}
        if kind in ("detection", "segmentation"):
            keywords["weights_backbone"] = None  # classes: its own, as its pictures are others
        else:
            keywords["num_classes"] = classes
        if architecture.startswith("vit_"):
            keywords["image_size"] = image_size
        if architecture.startswith("maxvit"):
            keywords["input_size"] = (image_size, image_size)
        return zoo.get_model(architecture, **keywords)

    return build


# -- import paths --------------------------------------------------------------------------------------------------


def _onnx(name: str, data: str | None) -> Model:
    from plumbline.models.onnx import graph

    try:
        found = graph.read(Path(name))
    except ValueError as error:
        raise UnknownName(f"no model {name!r}: {error}") from error
    if found.element_type != "float32":
        raise UnknownName(
            f"model {name!r} takes images in {found.element_type}; expected float32, the only one that is executed yet"
        )
    if data is None:
        data = "imagenet" if found.channels == 3 else "mnist"
    if DATASETS[data].channels != found.channels:
        raise UnknownName(f"model {name!r} takes {found.channels} channels, and {data} has {DATASETS[data].channels}")
    sizes = ANY_SIZE if found.image_size is None else (found.image_size,)
    home = found.image_size or DATASETS[data].image_size
    source = f"ONNX file, opset {found.opset}, IR version {found.ir_version}"
    options = {CONTENT: ""}
    return Model(name, None, None, (data,), sizes, source, options=options, home=home, file=Path(name), batch=found.batch)


def _pinned(file: Path, settings: Sequence[str]) -> list[str]:
    """The settings, with what is in the file: of its path only the last part is shown, and many are called model.onnx.

    Raises `UnknownName` where the file holds something else by now.
    """
    from plumbline.models.onnx.graph import digest

    found = f"{CONTENT}={digest(file)}"
    for setting in settings:
        if setting.startswith(f"{CONTENT}=") and setting != found:
            raise UnknownName(f"{file.name} has changed: expected {setting}, got {found}; start again, with the file as it is")
    return [*(setting for setting in settings if setting != found), found]


def _imported(name: str, target: str, data: str | None) -> Model:
    module, _, attribute = target.partition(":")
    with third_party_imports():
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise UnknownName(
                f"no model {name!r}: {error} (looked for package.module:CALLABLE from the current folder on)"
            ) from error
    if isinstance(found, Model):
        return replace(found, name=name)
    if type(found).__name__ == "ExportedProgram":
        raise UnknownName(
            f"{name!r} is an exported program (torch.export), expected the torch.nn.Module that it was exported from"
        )
    if not callable(found):
        raise UnknownName(
            f"{name!r} is a {type(found).__name__}, expected a callable that returns a torch.nn.Module, "
            "a module, or a models.Model"
        )
    return _unregistered(name, _builder(found), data or "imagenet", f"{target}, from outside this project")


def _builder(found: Any) -> Callable[..., nn.Module]:
    """Return a builder that calls a third-party callable with those of this project's arguments that it names."""
    from torch import nn

    def build(**arguments: Any) -> Any:
        if isinstance(found, nn.Module):
            return copy.deepcopy(found)
        synonyms = {"num_classes": arguments["classes"], "in_chans": arguments["channels"], "in_channels": arguments["channels"]}
        parameters = inspect.signature(found).parameters
        with third_party_imports():
            return found(**{key: value for key, value in {**arguments, **synonyms}.items() if key in parameters})

    return build


def _unregistered(name: str, build: Callable[..., nn.Module], data: str, source: str, **changes: Any) -> Model:
    return Model(name, build, None, data=(data,), sizes=ANY_SIZE, source=source, **changes)


@contextmanager
def third_party_imports() -> Iterator[None]:
    """Put the current folder first on the path, and last afterwards, as a net may import in its forward.

    What third-party code changes for the whole process (threads, default number type, working directory) is put back afterwards.
    """
    before, here = ProcessState(), str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        before.put_back()
        sys.path[:] = [*(place for place in sys.path if place != here), here]
