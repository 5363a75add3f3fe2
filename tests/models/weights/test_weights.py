"""Weights: where they are found, what is refused, tied ones, and names that a wrapper has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from plumbline.models import find
from plumbline.models.weights.weights import AmbiguousWeights, WrongWeights, load_weights, locate
from tests.pictures import idx_files


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


class Views(nn.Module):
    """Two parameters in one piece of memory, of which one is half of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.zeros(4, 4))
        self.part = nn.Parameter(self.whole.data[:2])


def written(path: Path, **tensors: Tensor) -> Path:
    save_file({name.replace("__", "."): tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def test_a_tied_matrix_is_accepted_under_one_name_or_two_with_the_same_numbers(tmp_path: Path) -> None:
    saved, net = Tied(), Tied()
    save_model(saved, str(tmp_path / "once.safetensors"))
    load_weights(net, tmp_path / "once.safetensors")
    assert torch.equal(net.second.weight, saved.first.weight)
    assert net.second.weight is net.first.weight
    net = Tied()
    load_weights(net, written(tmp_path / "twice.safetensors", **saved.state_dict()))
    assert torch.equal(net.second.weight, saved.first.weight)


def test_a_tied_matrix_with_two_values_is_refused_by_name(tmp_path: Path) -> None:
    ones = torch.ones(4, 4)
    path = written(tmp_path / "w.safetensors", first__weight=ones, second__weight=2 * ones, first__bias=torch.zeros(4))
    with pytest.raises(WrongWeights, match=r"first.weight shares its memory with second.weight .*has other numbers"):
        load_weights(Tied(), path)
    with pytest.raises(WrongWeights, match="whole shares its memory with part"):
        load_weights(Views(), written(path, whole=ones, part=2 * ones[:2]))
    load_weights(Views(), written(path, whole=ones, part=ones[:2]))
    with pytest.raises(WrongWeights, match="1 missing: part"):
        load_weights(Views(), written(path, whole=ones))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_prefix_is_named_and_taken_off_when_asked(prefix: str, tmp_path: Path) -> None:
    model = find("mlp")
    state = model.instantiate(8).state_dict()
    file = tmp_path / "digits_mlp.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()} | {f"{prefix}more": torch.zeros(1)}, file)
    asked = f"digits_mlp-without={prefix[:-1]}.safetensors"
    with pytest.raises(WrongWeights, match=rf"behind '{prefix}'.*call the file {asked}, and"):
        load_weights(model.instantiate(8), file)
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / asked)
    file.unlink()
    found = locate(model, 8, tmp_path, tmp_path)
    assert found.path == tmp_path / asked
    net = model.instantiate(8)
    load_weights(net, found.path)
    assert torch.equal(net.state_dict()["linear0.weight"], state["linear0.weight"])


def test_a_prefix_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("inner", Tied())
    path = written(tmp_path / "w.safetensors", **Tied().state_dict())
    with pytest.raises(WrongWeights, match=r"The model's names begin with 'inner\.', those in the file do not"):
        load_weights(net, path)


def test_names_of_another_net_get_no_such_advice(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", module__other=torch.zeros(1))
    with pytest.raises(WrongWeights, match=r"1 unexpected: module.other$"):
        load_weights(Tied(), path)


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


def test_trained_weights_are_found_and_others_trained_only_if_that_is_quick(tmp_path: Path) -> None:
    root = tmp_path / "root"
    idx_files(root)
    find_weights = {"directory": None, "cache": tmp_path, "root": root}
    assert locate(find("mlp"), 28, **find_weights).kind == "trained"  # type: ignore[arg-type]
    slow = locate(find("mlp"), 28, **find_weights, train_minutes=0.01)  # type: ignore[arg-type]
    assert slow.kind == "seeded"
    assert "plumbline train mlp --image-size 28" in slow.reason
    path = locate(find("mlp"), 28, **find_weights).path  # type: ignore[arg-type]
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert locate(find("mlp"), 28, **find_weights, train_minutes=0.01).path == path  # type: ignore[arg-type]
    assert locate(find("mlp+recipe=study"), 28, **find_weights).path != path  # type: ignore[arg-type]
    assert locate(find("mlp"), 28, directory=None, cache=tmp_path).kind == "trained"  # needs no data any more
    assert locate(find("mlp+width=4096"), 8, directory=None, cache=tmp_path).kind == "trained"  # on digits, always
    assert locate(find("mlp+recipe=study"), 8, directory=None, cache=tmp_path).kind == "seeded"  # not of digits
