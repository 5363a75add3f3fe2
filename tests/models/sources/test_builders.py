"""What builders return that is not quite a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from plumbline import UnknownName
from plumbline.models import Model
from plumbline.models.counting.counts import count
from plumbline.models.sources.outside import find


def model(make: Callable[[], Any]) -> Model:
    return Model("net", lambda **_: make(), None, ("digits",), (8,), "tests")


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def exported() -> Any:
    return torch.export.export(net(), (torch.zeros(1, 1, 8, 8),))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Identity, "returned the class Identity, expected a torch.nn.Module: call it"),
        (
            lambda: net().state_dict(),
            r"returned a OrderedDict \(a state dict, which holds weights only\), expected a torch.nn.Module",
        ),
        (lambda: {"model": net(), "epoch": 3}, "a dict.*name a function that returns its 'model'"),
        (lambda: (net(), "transforms"), "returned a tuple of Sequential, str, expected .* only its part 0"),
        (lambda: torch.zeros(3), "returned a Tensor, expected a torch.nn.Module"),
        (
            lambda: torch.jit.script(net()),
            r"it is TorchScript \(scripted or traced\), expected a torch.nn.Module that was scripted",
        ),
        (lambda: torch.jit.trace(net(), torch.zeros(1, 1, 8, 8)), "it is TorchScript"),  # type: ignore[no-untyped-call]
        (Untraceable, "its module 'inner' is TorchScript"),
        (exported, "returned an exported program"),
        (lambda: exported().module(), "returned an exported program"),
    ],
)
def test_what_is_wanted_is_said(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        model(make).instantiate(8)


PROGRAM = None


def test_a_name_that_is_an_exported_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.models.sources.test_builders.PROGRAM", exported())
    with pytest.raises(UnknownName, match="is an exported program"):
        find("tests.models.sources.test_builders:PROGRAM")


def test_lazy_modules_get_their_sizes() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))

    made = model(lazy).instantiate(8)
    assert made.training
    assert sum(parameter.numel() for parameter in made.parameters()) == 40 + 8 + 1450
    found = count(model(lazy), 8)
    assert (found["parameters"], found["macs"], found["unexplained"]) == (1498, 36 * 36 + 1440, {})


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], Any]) -> None:
    assert type(model(lambda: wrap(net())).instantiate(8)) is nn.Sequential


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_normed_weights_can_be_copied_and_counted(norm: Callable[[nn.Module], nn.Module]) -> None:
    from copy import deepcopy

    def normed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 10)))

    deepcopy(model(normed).instantiate(8))
    found = count(model(normed), 8)
    assert not found["unexplained"], found["unexplained"]
