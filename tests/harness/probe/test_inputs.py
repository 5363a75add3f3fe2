"""One placed batch is run thousands of times: what a net does to its input."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from plumbline import models
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import FAILED, CellEnded
from plumbline.harness.probe import reference
from plumbline.harness.probe.training import context_of
from plumbline.harness.runtimes import find
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from tests.records import replace

WRITING = ("DECAYING", "NORMALISING", "FIRST_RELU", "BY_A_VIEW", "RESHAPING", "WRITING_LATER")


def measured(server: Connection, settings: Settings, name: str, runtime: str = "eager", precision: str = "fp32") -> CellProbe:
    untrained = replace(settings, train_minutes=1e-9, time_limit_s=300)
    probe = CellProbe(server, Cell(f"tests.faulty:{name}", "dense", find(runtime).name, precision, 2, 8, "cpu"), untrained)
    agreement = probe.agreement()
    assert agreement.wrong is None, agreement.explanation
    probe.latency()
    probe.close()
    return probe


@pytest.mark.parametrize("name", WRITING)
def test_a_net_that_writes_into_its_input_is_red_by_name(server: Connection, settings: Settings, name: str) -> None:
    with pytest.raises(CellEnded, match=f"tests.faulty:{name} writes into the pictures that it is given") as caught:
        measured(server, settings, name)
    assert caught.value.outcome == FAILED


def test_one_in_another_precision_is_red_too(server: Connection, settings: Settings) -> None:
    """There it is placed anew, and the host's pictures stay as they are."""
    with pytest.raises(CellEnded, match="writes into the pictures"):
        measured(server, settings, "DECAYING", precision="bf16")


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("DECAYING", "exported+backend=eager"),
        ("BY_A_VIEW", "exported+backend=eager"),
        pytest.param("BY_A_VIEW", "compiled", marks=pytest.mark.slow),
        pytest.param("BY_A_VIEW", "exported", marks=pytest.mark.slow),
    ],
)
def test_so_is_one_whose_graph_writes_back(server: Connection, settings: Settings, name: str, runtime: str) -> None:
    with pytest.raises(CellEnded, match="writes into the pictures"):
        measured(server, settings, name, runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["DECAYING", "NORMALISING"])
def test_an_onnx_graph_cannot_write_into_its_input(server: Connection, settings: Settings, name: str, runtime: str) -> None:
    """Exported, the same net is a function; it is right, and each inference takes as long as the first."""
    assert "latency" in measured(server, settings, name, runtime).facts


@pytest.mark.parametrize("runtime", ["eager", "exported+backend=eager", "onnxruntime"])
def test_one_that_works_on_a_copy_is_ok(server: Connection, settings: Settings, runtime: str) -> None:
    assert "latency" in measured(server, settings, "COPYING", runtime).facts


class Few:
    """A handful of pictures, each of one level."""

    name = "a few"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.tensor(indices).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_a_folder_of_few_pictures_will_do(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(models.Context, "images", lambda *_: Few(count))
    context = context_of(models.find("small_cnn"), 8, Settings(), print)
    name, pictures = reference._inputs(context, Settings(), "trained")
    assert (name, len(pictures)) == ("a few", reference.INPUTS)
    assert len(set(pictures[:, 0, 0, 0].tolist())) == min(count, reference.INPUTS)
