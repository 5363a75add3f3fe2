"""Compressed nets in cells: the same function, what was promised, and why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plumbline import models
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import UNAVAILABLE, UNSUPPORTED, CellEnded
from plumbline.harness.probe.reference import Reference, prepare
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.models.compression.variants import find


def cell(variant: str, name: str = "mlp", batch: int = 8, runtime: str = "eager", precision: str = "fp32") -> Cell:
    return Cell(name, variant, runtime, precision, batch, 8, "cpu")


QUICK = {"sampling_s": 0.05, "warmup_s": 0.05, "accuracy_images": 100}


@pytest.mark.parametrize(
    ("variant", "stored", "macs"),
    [
        ("prune90", 1.0, 1.0),
        ("prune90+sparse", 0.102, 1.0),
        ("svd50", 0.5, 0.5),
        ("filter50", 0.5, 0.5),
        ("share+huffman", 1.0, 1.0),
    ],
)
def test_a_variant_is_the_same_function_and_its_promise_is_counted(
    server: Connection, cache: Path, variant: str, stored: float, macs: float
) -> None:
    probe = CellProbe(server, cell(variant), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    counts, promise, agreement = probe.counts(), probe.promise(), probe.agreement()
    accuracy = probe.accuracy()
    probe.close()
    assert promise is not None
    assert promise.keeps_to(counts)
    assert probe.prepared().parameters == promise.parameters_stored
    assert promise.parameters_stored / promise.parameters_dense == pytest.approx(stored, abs=0.01)
    assert promise.macs / promise.macs_dense == pytest.approx(macs, abs=0.01)
    assert agreement.same_function, agreement.explanation
    assert accuracy.parent_top1 is not None and accuracy.floor is None


def test_a_sparse_cell_and_its_parent_take_turns(server: Connection, cache: Path) -> None:
    probe = CellProbe(server, cell("prune99+sparse", batch=32), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    probe.latency()
    delivery = probe.delivery()
    assert delivery is not None and delivery.unavailable is None
    assert delivery.speedup is not None and delivery.interval is not None
    assert delivery.interval[0] <= delivery.speedup <= delivery.interval[1]
    assert delivery.rounds >= 7
    assert delivery.reaches(delivery.interval[0]) and not delivery.reaches(delivery.interval[0] + 0.01)


def test_sparse_layers_of_a_net_with_several_inputs_are_chosen_too(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, Cell("tests.faulty:PAIR", "prune50+sparse", "eager", "fp32", 2, 8, "cpu"), settings)
    assert "sparse_layers" in probe.prepared().options
    assert probe.agreement().same_function
    probe.close()


@pytest.mark.parametrize("variant", ["filter50", "prune90+sparse", "filter25+prune50+by=random"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_net_of_a_class_that_its_builder_defines_is_compressed_too(
    variant: str, stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its file, or made anew where no file can hold it: the same net as the one that was made first."""
    if not stored:
        monkeypatch.setattr("plumbline.models.compression.stored._alike", lambda first, second: type(first) is type(second))
    settings = Settings(cache=tmp_path, seed=7)
    asked = Cell("tests.faulty:INNER", variant, "eager", "fp32", 2, 8, "cpu")
    prepare(asked, settings, tmp_path, lambda text: None)
    reference = Reference.load(tmp_path)
    assert reference.variant is not None and (reference.variant["path"] is not None) == stored
    torch.manual_seed(1)
    with torch.no_grad():
        again = reference.net(models.find(asked.model), asked, settings)(reference.inputs)
    torch.testing.assert_close(again, reference.eager, rtol=1e-4, atol=1e-5)


def test_the_dense_net_promises_nothing(server: Connection, cache: Path) -> None:
    probe = CellProbe(server, cell("dense"), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    assert probe.promise() is None
    assert probe.delivery() is None
    probe.close()


@pytest.mark.parametrize(
    ("variant", "outcome", "words"),
    [
        ("filter99", UNSUPPORTED, "groups of channels that can be pruned allow"),
        ("svd100", UNSUPPORTED, "expected 0 to less than 1, got 1"),
        ("share+bits=9", UNSUPPORTED, "expected 1 to 8, got 9"),
        ("distill", UNAVAILABLE, "expected a teacher"),
        (
            "distill+teacher=resnet20",
            UNSUPPORTED,
            "expected a teacher for digits, whose classes mlp has, got resnet20, for cifar10",
        ),
        ("prune60+pattern=2:4", UNSUPPORTED, "half of the weights go"),
        ("prune50+pattern=2:4+sparse+format=2:4", UNSUPPORTED, "expected an NVIDIA GPU"),
        ("prune90+tune+epochs=500", UNAVAILABLE, r"plumbline train mlp --image-size 8 --variant prune90\+tune\+epochs=500"),
    ],
)
def test_what_cannot_be_made_says_why(server: Connection, cache: Path, variant: str, outcome: str, words: str) -> None:
    probe = CellProbe(server, cell(variant), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    with pytest.raises(CellEnded, match=words) as ended:
        probe.prepared()
    assert ended.value.outcome == outcome


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "nonzero", "macs"),  # at most, as a share of the dense net's
    [
        ("prune90+tune", 0.102, 1.0), ("gradual90", 0.102, 1.0), ("l1", 0.9, 1.0), ("serene", 0.95, 1.0),
        ("distill+teacher=small_cnn", 1.0, 1.0), ("svd50+tune", 0.51, 0.5),
    ],
)  # fmt: skip
def test_a_variant_that_trains_does_so_on_demand_and_is_kept(
    server: Connection, cache: Path, variant: str, nonzero: float, macs: float
) -> None:
    settings = Settings(cache=cache, sampling_s=0.05, warmup_s=0.05, accuracy_images=None)
    probe = CellProbe(server, cell(variant, batch=64), settings)
    promise, accuracy = probe.promise(), probe.accuracy()
    probe.close()
    assert promise is not None and len(promise.trainings) == 1
    assert promise.parameters_nonzero <= nonzero * promise.parameters_dense
    assert promise.macs <= macs * promise.macs_dense
    assert accuracy.top1 is not None and accuracy.top1 > 0.9
    kept = list((cache / "training").glob(f"digits_mlp-8px-{find(variant).name}-*/weights.safetensors"))
    assert len(kept) == 1
