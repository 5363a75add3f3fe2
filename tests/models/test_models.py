"""The registry: names, options, and the data that a size means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from plumbline import UnknownName
from plumbline.models import find
from plumbline.models.model import Registry
from plumbline.models.registry import FILES, REGISTRY


def test_importing_the_models_and_the_plugin_imports_no_torch() -> None:
    """Collection stays fast, and a small device keeps its memory."""
    modules = ("models", "harness.plugin", "harness.session.session", "harness.views.table")
    imports = "; ".join(f"import plumbline.{module}" for module in modules)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("resnet5O", r"no model 'resnet5O' \(did you mean .*resnet50.*\); known: .*resnet50"),
        ("timm:resnet10tt", r"timm has no model 'resnet10tt' \(did you mean resnet10t"),
        ("torchvision:resnet81", r"torchvision has no model 'resnet81' \(did you mean .*resnet18"),
        ("timm:resnet10t+data=cifar", r"no data 'cifar' \(did you mean cifar10, cifar100\?\)"),
        ("nets/none.onnx", "none.onnx"),
        ("mlp+height=3", "no option 'height'; known: data, depth, recipe, treatment, width"),
        ("mlp+depth=-1", "option 'depth': expected a whole number from 1, got '-1'"),
        ("torchvision:r3d_18", "takes video inputs, expected a model of single pictures"),
        ("mlp+depth=deep", "option 'depth': expected int, got 'deep'"),
        ("mlp+data=imagenet", "not meant for data 'imagenet'; known: digits, mnist"),
        ("no.such.module:MODEL", "no model 'no.such.module:MODEL'"),
        ("tests.faulty:NOT_A_MODEL", "is a int, expected a callable that returns a torch.nn.Module"),
    ],
)
def test_an_unknown_name_names_the_known_ones(reference: str, says: str) -> None:
    with pytest.raises(UnknownName, match=says):
        find(reference)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        Registry("nets", {"one": ("mlp",), "two": ("cnn", "mlp")})
    with pytest.raises(ValueError, match="lower case"):
        Registry("nets", {"one": ("My Net",)})


def test_a_file_has_the_models_that_are_registered() -> None:
    for file, names in FILES.items():
        for name in names:
            assert REGISTRY.find(name).name == name, file
    short = Registry("plumbline.models.architectures", {"vgg": ("vgg16",), "resnet": ("resnet18",)})
    assert short.find("vgg16").name == "vgg16"
    with pytest.raises(ValueError, match=r"resnet\.py: expected the models resnet18, as registered, got resnet18, resnet50"):
        short.find("resnet18")


def test_options_have_one_spelling() -> None:
    assert find("mlp+width=8+depth=3").name == find("mlp+depth=3+width=8").name == "mlp+depth=3+width=8"
    assert find("mlp+depth=2").name == "mlp"


@pytest.mark.parametrize(
    ("reference", "image_size", "data", "classes"),
    [
        ("mlp", 8, "digits", 10),
        ("mlp", 28, "mnist", 10),
        ("mlp+data=mnist", 8, "mnist", 10),
        ("mixer_s16", 32, "cifar10", 10),
        ("mixer_s16", 224, "imagenet", 1000),
        ("mixer_s16+data=cifar10", 224, "cifar10", 10),
        ("mixer_s16+data=imagenet", 32, "imagenet", 1000),
    ],
)
def test_the_image_size_chooses_the_data_unless_told(reference: str, image_size: int, data: str, classes: int) -> None:
    model = find(reference)
    assert model.dataset(image_size).name == data
    assert model.arguments(image_size)["classes"] == classes


def test_every_model_says_where_it_comes_from() -> None:
    for name in REGISTRY.names():
        model = find(name)
        assert model.source
        assert model.image_size in model.sizes
        assert all(floor.source for floor in model.floors.values())
