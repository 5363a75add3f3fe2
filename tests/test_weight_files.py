"""Tied weights, and names that a wrapper has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from plumbline.models import find
from plumbline.models.weights.weights import WrongWeights, load_weights, locate


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
