"""What a runtime builds before it runs: checked like any other model, kept, and never believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from plumbline.files import sha256
from plumbline.harness import runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.probe import artefacts
from plumbline.harness.probe.artefacts import _sound
from plumbline.harness.session.client import PROBE, CellProbe, Connection
from plumbline.harness.settings import Settings
from tests.conftest import HOUR_S

Ask = Callable[..., CellProbe]


@pytest.fixture
def ask(tmp_path: Path, python: str) -> Iterator[Ask]:
    """Probes of cells run by ONNX Runtime, `again` by a new server; all with one cache."""
    servers: list[Connection] = []
    log = (tmp_path / "probe.log").open("wb")

    def ask(model: str, precision: str = "fp32", image_size: int = 32, batch: int = 2, again: bool = False) -> CellProbe:
        if again or not servers:  # a server keeps what it has built
            servers.append(Connection(log, command=[python, *PROBE[1:]]))
        settings = Settings(cache=tmp_path / "cache", sampling_s=0.05, warmup_s=0.02, accuracy_images=100, time_limit_s=HOUR_S)
        return CellProbe(servers[-1], Cell(model, "dense", "onnxruntime", precision, batch, image_size, "cpu"), settings)

    yield ask
    for server in servers:
        server.close()
    log.close()


def test_a_choice_by_time_outlives_code_that_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "code_digest", lambda folder: folder.name)
    assert artefacts._code(runtimes.RUNTIMES["onnxruntime"]) == ["harness", "models"]
    assert artefacts._code(runtimes.RUNTIMES["eager"])[1:] == ["compression"]


@pytest.mark.slow
def test_what_was_built_is_kept_and_rebuilt_where_it_is_not_sound(ask: Ask, tmp_path: Path) -> None:
    first = ask("resnet8")
    built = first.prepared().artefact
    assert built is not None
    assert first.agreement().same_function
    assert first.latency().model.samples_s
    first.close()
    assert (built["cached"], built["parameters"]) == (False, 78_186)
    assert "path" not in built
    assert (ask("resnet8", batch=3, again=True).prepared().artefact or {})["cached"]  # one serves all batches

    (place,) = (tmp_path / "cache" / "artefacts").iterdir()
    (place / "model.onnx").write_bytes((place / "model.onnx").read_bytes()[:-1])
    again = ask("resnet8", again=True).prepared().artefact
    assert again is not None
    assert not again["cached"]
    assert _sound(place, "model.onnx") is not None


@pytest.mark.slow
def test_a_wrong_artefact_is_red(ask: Ask, tmp_path: Path) -> None:
    """One layer larger by a hundredth, under a digest that says that all is well."""
    ask("resnet8").prepared()
    (place,) = (tmp_path / "cache" / "artefacts").iterdir()
    model = onnx.load(place / "model.onnx")
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    kernel.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, place / "model.onnx")
    told = json.loads((place / "artefact.json").read_text())
    told["files"]["model.onnx"] = sha256(place / "model.onnx")
    (place / "artefact.json").write_text(json.dumps(told))
    probe = ask("resnet8", again=True)
    assert (probe.prepared().artefact or {})["cached"]
    assert not probe.agreement().same_function


@pytest.mark.slow
def test_integers_are_read_back_from_what_the_runtime_made_of_the_file(ask: Ask) -> None:
    static = ask("small_cnn", "int8-static", image_size=8)
    prepared = static.prepared()
    assert (prepared.options["in_precision"], (prepared.artefact or {})["calibration"]) == (1, "64 of digits")
    assert static.agreement().same_function
    accuracy = static.accuracy()
    assert (accuracy.images, accuracy.keeps_to_parent) == (100, True)
    static.close()
    dynamic = ask("mlp", "int8-dynamic", image_size=8)
    assert dynamic.prepared().options["in_precision"] > 0.9
    assert dynamic.agreement().same_function
    dynamic.close()
    with pytest.raises(CellEnded, match=r"asked for int8-dynamic, onnxruntime executes 9\.9% of its MACs in that") as caught:
        ask("small_cnn", "int8-dynamic", image_size=8).prepared()
    assert (caught.value.outcome, caught.value.axis) == ("unsupported", "runtime")


@pytest.mark.parametrize("name", ["tests.harness.probe.test_artefacts:moody+data=cifar10", "ssdlite320_mobilenet_v3_large"])
def test_what_cannot_be_exported_is_unsupported_with_the_reason(ask: Ask, name: str) -> None:
    with pytest.raises(CellEnded, match=r"cannot export it to ONNX: .*|takes one tensor of pictures") as caught:
        ask(name, image_size=320 if "ssd" in name else 32).prepared()
    assert (caught.value.outcome, caught.value.axis) == ("unsupported", "runtime")


def moody() -> torch.nn.Module:
    class Moody(torch.nn.Module):
        """Its way depends on what it sees."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3 * 32 * 32, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.linear(images.flatten(1))
            return logits if bool(images.mean() > 5) else 2 * logits

    return Moody()


def test_the_server_imports_no_strangers_code(ask: Ask) -> None:
    """It would die of it; the cell's own processes may."""
    with pytest.raises(CellEnded, match=r"no model 'no.such.module:NET'") as caught:
        ask("no.such.module:NET").prepared()
    assert caught.value.outcome == "failed"


def test_a_damaged_entry_is_no_artefact(tmp_path: Path) -> None:
    for text in ("", "{}", "[]", '{"files": {"model.onnx": "0"}, "facts": {}}'):
        (tmp_path / "artefact.json").write_text(text)
        (tmp_path / "model.onnx").write_text("not what was written")
        assert _sound(tmp_path, "model.onnx") is None


def test_a_net_is_exported_once_for_all_precisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Builds in the session of one net find what another has exported; an unfinished export is none."""
    from plumbline.harness.runtimes import export

    calls = []

    def fails(*_: object) -> None:
        calls.append("failed")
        raise ValueError("so")

    def writes(net: object, images: object, file: Path, opset: object) -> None:
        calls.append("wrote")
        file.write_text("whole")

    net, images = torch.nn.Flatten(), torch.zeros(2, 1, 8, 8)
    monkeypatch.setattr(export, "export", fails)
    with pytest.raises(ValueError, match="so"):
        export.export_once(net, images, tmp_path / "exported")
    monkeypatch.setattr(export, "export", writes)
    for _ in range(2):
        assert export.export_once(net, images, tmp_path / "exported").read_text() == "whole"
    assert calls == ["failed", "wrote"]
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
