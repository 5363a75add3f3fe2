"""The registry, weights and data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from plumbline import UnknownName
from plumbline.files import sha256
from plumbline.harness.probe.training import context_of
from plumbline.harness.settings import Settings
from plumbline.models import find
from plumbline.models.data.datasets import DATASETS, NoData
from plumbline.models.model import Registry
from plumbline.models.registry import REGISTRY
from plumbline.models.sources.pretrained import NoWeights, fetch
from plumbline.models.weights.seeding import pictures, seed_weights
from plumbline.models.weights.weights import AmbiguousWeights, WrongWeights, load_weights, locate
from plumbline.tensors import spread
from tests.records import replace


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
    registry = Registry()
    registry.add(find("mlp"))
    with pytest.raises(ValueError, match="registered already"):
        registry.add(find("mlp"))
    with pytest.raises(ValueError, match="lower case"):
        registry.add(replace(find("mlp"), name="My Net"))


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


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "resnet20", "resnet56", "resnet50", "squeezenet1_1", "mixer_s16"])
def test_seeded_weights_spread_the_outputs(name: str) -> None:
    """Different inputs give different outputs, and the same seed the same weights."""
    model = find(name)
    size = min(model.image_size, 64) if name != "mixer_s16" else 32
    channels = model.dataset(size).channels
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        net = model.instantiate(size)
        seed_weights(net, pictures(16, channels, size, seed=0))
        with torch.no_grad():
            outputs.append(net(pictures(8, channels, size, seed=1)))
    assert torch.equal(*outputs)
    assert 0.1 < spread(outputs[0]) < 5  # SqueezeNet's are means over what its head returns, after a ReLU


def test_a_plain_initialisation_would_not_do() -> None:
    """What the seeding is for: ResNet-50 as it comes answers one class to everything."""
    torch.manual_seed(0)
    net = find("resnet50").instantiate(64).eval()
    with torch.no_grad():
        answers = net(pictures(8, 3, 64, seed=1)).argmax(dim=1)
    assert len(set(answers.tolist())) == 1


def test_outputs_that_never_differ_cannot_be_spread() -> None:
    with pytest.raises(ValueError, match="the same for every input"):
        seed_weights(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.Threshold(1e9, 0)), torch.rand(4, 4))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(0, 99))
def test_pictures_differ_from_each_other(channels: int, size: int, seed: int) -> None:
    made = pictures(4, channels, size, seed)
    assert made.shape == (4, channels, size, size)
    assert torch.equal(made, pictures(4, channels, size, seed))
    assert spread(made.flatten(1)) > 0.1


def test_digits_need_no_download_and_split_without_overlap() -> None:
    data = DATASETS["digits"]
    test, training = data.load(None, 8), data.load(None, 8, split="train")
    assert (len(test), len(training)) == (500, 1297)
    images = {tuple(image.flatten().tolist()) for image in training.batch(range(len(training)))}
    assert sum(tuple(image.flatten().tolist()) in images for image in test.batch(range(500))) <= 1
    assert abs(float(training.batch(range(1297)).mean())) < 0.05
    assert abs(float(training.batch(range(1297)).std()) - 1) < 0.05


@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("cifar10", "cifar10"), ("imagenet", "imagenet")])
def test_data_that_is_not_there_is_said_to_be_missing(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(NoData, match="no data root was given; --data ROOT"):
        DATASETS[name].load(None, 32)
    with pytest.raises(NoData, match=f"has no folder '{folder}'"):
        DATASETS[name].load(tmp_path, 32)


def test_a_few_pictures_stand_for_a_training_split_that_is_not_there(tmp_path: Path) -> None:
    """Calibration wants pictures of the kind, and takes those of the test split where there are no others."""
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "a.png").touch()
    (tmp_path / "imagenet" / "labels.csv").write_text("file,class_index\na.png,3\n")
    images = context_of(find("squeezenet1_1"), 224, Settings(data=tmp_path), print).images("file", split="train")
    assert images is not None
    assert len(images) == 1
    nowhere = context_of(find("squeezenet1_1"), 224, Settings(data=tmp_path / "none"), print)
    assert nowhere.images("file", split="train") is None


def test_a_folder_of_pictures_with_labels(tmp_path: Path) -> None:
    """A picture of 300 x 400 is scaled and cropped as ImageNet's usually are, one of 227 only cropped."""
    from PIL import Image

    folder = tmp_path / "imagenet"
    (folder / "some").mkdir(parents=True)
    large, small = Image.new("RGB", (400, 300), (255, 0, 0)), Image.new("L", (227, 227), 128)
    large.save(folder / "some" / "a.png")
    small.save(folder / "some" / "b.png")
    (folder / "labels.csv").write_text("file,class_index,wnid\nsome/a.png,3,n1\nsome/b.png,999,n2\n")
    images = DATASETS["imagenet"].load(tmp_path, 224)
    assert images.labels == [3, 999]
    assert images.batch([0, 1]).shape == (2, 3, 224, 224)
    assert float(images.batch([0])[0, 0].mean()) == pytest.approx((1 - 0.485) / 0.229, abs=1e-4)


def test_weights_are_found_by_data_set_and_model(tmp_path: Path) -> None:
    model = find("resnet20")
    assert locate(model, 32, None, tmp_path).kind == "seeded"
    assert locate(model, 32, tmp_path, tmp_path).kind == "seeded"
    for name in ("cifar10_resnet20-12fca82f", "cifar10_resnet200", "imagenet_resnet20", "cifar10_resnet20"):
        (tmp_path / f"{name}.safetensors").touch()
        if name == "imagenet_resnet20":
            assert locate(model, 32, tmp_path, tmp_path).reason == "cifar10_resnet20-12fca82f.safetensors"
    with pytest.raises(AmbiguousWeights, match="2 files fit"):
        locate(model, 32, tmp_path, tmp_path)
    (tmp_path / "cifar10_mlperf-tiny-resnet8.safetensors").touch()
    assert locate(find("resnet8"), 32, tmp_path, tmp_path).reason == "cifar10_mlperf-tiny-resnet8.safetensors"


def test_weights_must_fit_to_the_last_tensor(tmp_path: Path) -> None:
    state = find("mlp").instantiate(8).state_dict()
    path = tmp_path / "w.safetensors"
    changes: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({"linear0.bias": None}, "1 missing: linear0.bias$"),
        ({"extra": torch.zeros(1)}, "1 unexpected: extra$"),
        (
            {"linear0.bias": torch.zeros(3), "linear1.bias": None},
            r"1 missing: linear1.bias; 1 of another shape: linear0.bias \(file \[3\], model \[1024\]\)",
        ),
    ]
    for change, says in changes:
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        save_file(changed, path)
        with pytest.raises(WrongWeights, match=says):
            load_weights(find("mlp").instantiate(8), path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_whatever_it_is_called(tmp_path: Path, zipped: bool) -> None:
    """Nothing in it is run: the file would leave a mark."""
    mark = tmp_path / "mark"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return mark.touch, ()

    model = find("resnet20")
    path = tmp_path / "cifar10_resnet20.safetensors"
    torch.save({"a": Trap()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WrongWeights, match="pickles can run any code"):
        load_weights(model.instantiate(32), path)
    path.rename(tmp_path / "cifar10_resnet20.pth")
    with pytest.raises(WrongWeights, match=r"cifar10_resnet20.pth is no safetensors file; pickles.*Wanted safetensors"):
        locate(model, 32, tmp_path, tmp_path)
    assert not mark.exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(find("mlp").instantiate(8).state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WrongWeights, match="no whole safetensors file"):
        load_weights(find("mlp").instantiate(8), path)


def test_published_weights_are_asked_for_where_somebody_publishes_them(tmp_path: Path) -> None:
    resnet, mixer = find("resnet50"), find("mixer_b16")
    assert locate(resnet, 224, None, tmp_path).kind == "seeded"
    assert locate(resnet, 224, None, tmp_path, published=True).kind == "published"
    assert locate(mixer, 32, None, tmp_path, published=True).kind == "seeded"  # they know ImageNet's classes
    assert "neither torchvision nor timm" in locate(find("resnet20"), 32, None, tmp_path, published=True).reason
    (tmp_path / "imagenet_resnet50.safetensors").touch()
    assert locate(resnet, 224, tmp_path, tmp_path, published=True).kind == "file"


def test_published_weights_that_cannot_be_had_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the cache nor to be downloaded; a damaged file in the cache is not taken."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(NoWeights, match=r"not in torch.hub's cache, and could not be had: .*no network here"):
        fetch(find("resnet18"), 224)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    torch.save(find("resnet18").instantiate(224).state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    with pytest.raises(NoWeights, match=r"damaged: its SHA-256 begins with .*, not f37072fd"):
        fetch(find("resnet18"), 224)


def test_published_weights_come_with_source_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name fits its SHA-256, as torch.hub's do, is loaded strictly."""
    state = find("resnet18").instantiate(224).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "w")
    digest = sha256(tmp_path / "w")
    name = f"resnet18-{digest[:8]}.pth"
    (tmp_path / "w").rename(tmp_path / "checkpoints" / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    entry = torchvision.models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(type(entry), "url", f"https://somewhere/{name}")
    found, source, theirs = fetch(find("resnet18"), 224)
    assert theirs == digest
    assert name in source
    assert "IMAGENET1K_V1" in source
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_every_model_says_where_it_comes_from() -> None:
    for name in REGISTRY.names():
        model = find(name)
        assert model.source
        assert model.image_size in model.sizes
        assert all(floor.source for floor in model.floors.values())
