"""Models that no registry entry describes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline import models
from plumbline.harness import messages
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Counts
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.session.client import PROBE, CellProbe, Connection, NotDescribed, describe
from plumbline.harness.settings import Settings
from plumbline.models.counting.counts import count
from tests.conftest import HOUR_S, Run, announce, command, where

Bench = Callable[..., Run]

# Outside the registry, and each with something that one of the counters does not see the usual way.
ARCHITECTURES = {
    "efficientnet_b0": 224,
    "convnext_atto": 224,
    "mobilenetv4_conv_small": 224,
    "swin_tiny_patch4_window7_224": 224,
    "regnetx_002": 224,
    "ghostnet_100": 224,
    "mobilevit_xxs": 256,
    "levit_128s": 224,
    "xcit_nano_12_p16_224": 224,
    "poolformer_s12": 224,
    "tf_efficientnet_lite0": 224,
    "gmlp_s16_224": 224,
    "cait_xxs24_224": 224,  # hands a parameter over as an argument
    "coat_lite_tiny": 224,  # has modules in two places
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_timms_models_are_counted_by_two_routes_that_agree_or_say_why(architecture: str) -> None:
    model = models.find(f"timm:{architecture}")
    found = count(model, model.image_size)
    del found["layers"]
    counts = messages.convert(found, Counts)
    assert model.image_size == ARCHITECTURES[architecture]
    assert counts.formula is None
    assert counts.macs > 10**7
    assert counts.counters_agree, counts.explanation


@pytest.mark.parametrize(
    ("reference", "image_size", "parameters"),
    [
        ("torchvision:squeezenet1_1", 224, 1_235_496),
        ("torchvision:vit_b_16", 112, None),
        ("torchvision:fcn_resnet50", 64, None),
        ("timm:vit_tiny_patch16_224+data=cifar10", 96, None),
        ("timm:resnet10t+data=mnist", 28, None),
    ],
)
def test_other_sizes_data_and_kinds_of_model(reference: str, image_size: int, parameters: int | None) -> None:
    found = count(models.find(reference), image_size)
    assert parameters in (None, found["parameters"])
    assert not found["unexplained"]
    assert found["ptflops"]["macs"] - found["macs"] == sum(found["explained"].values())


def test_a_module_that_no_counter_understands_alike_is_named() -> None:
    """Red: ptflops counts gates in a recurrent cell that torch's counter does not; nobody has explained them."""
    found = count(models.find("tests.models.sources.test_outside:recurrent"), 8)
    assert list(found["unexplained"]) == ["cell"]


def recurrent(channels: int, image_size: int) -> object:
    from torch import nn

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(channels * image_size * image_size, 5)

        def forward(self, images: object) -> object:
            return self.cell(images.flatten(1))  # type: ignore[attr-defined]

    return Rows()


def test_a_net_that_needs_numbers_is_counted_with_some() -> None:
    """As many of the nets that people write: drop path rates are taken out of a tensor, which has none on `meta`."""
    found = count(models.find("tests.models.sources.test_outside:drawn"), 8)
    assert (found["parameters"], found["macs"]) == (1930, 1920)
    assert not found["unexplained"]


def test_products_with_vectors_are_counted() -> None:
    """torch's counter overlooks them, and ptflops sees modules only: both would give 0, and agree."""
    found = count(models.find("tests.models.sources.test_outside:by_hand"), 8)
    assert found["macs"] == 3 * 64 * 10
    assert found["explained"] == {"not seen in ByHand": -1920}
    assert (found["parameters"], found["ptflops"]["parameters"]) == (1920, 1920)  # frozen ones are parameters, too


def by_hand(channels: int, image_size: int) -> object:
    import torch
    from torch import nn

    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10, channels * image_size**2), requires_grad=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.weight @ image.flatten() for image in images])

    return ByHand()


def drawn(channels: int, image_size: int) -> object:
    import torch
    from torch import nn

    rates = [float(rate) for rate in torch.linspace(0, 0.1, 2)]
    return nn.Sequential(nn.Flatten(), nn.Dropout(rates[-1]), nn.Linear(channels * image_size**2, 10))


def test_what_the_probe_says_of_a_model_is_enough_to_plan_with(python: str) -> None:
    timm, own = describe(["timm:resnet10t", "tests.faulty:plain+data=cifar10"], [python, *PROBE[1:]])
    assert (timm.name, timm.image_size, timm.data) == ("timm:resnet10t", 176, ("imagenet",))
    assert (own.name, own.image_size, own.data) == ("tests.faulty:plain+data=cifar10", 32, ("cifar10",))
    assert own.formula(32) is None
    with pytest.raises(TypeError, match="only known by description here"):
        own.instantiate(32)


def test_a_model_that_is_not_there_is_said_so_by_the_probe(python: str) -> None:
    with pytest.raises(NotDescribed, match=r"timm has no model 'resnet10tt'.*no model 'no.such:thing'"):
        describe(["timm:resnet10tt", "timm:resnet10t", "no.such:thing"], [python, *PROBE[1:]])


def cell(model: str, image_size: int, precision: str = "fp32") -> Cell:
    return Cell(model, "dense", "eager", precision, 3, image_size, "cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_several_inputs_and_structured_outputs_fit(server: Connection, settings: Settings, precision: str) -> None:
    probe = CellProbe(server, cell("tests.faulty:PAIR", 8, precision), settings)
    assert probe.counts().counters_agree
    assert probe.agreement().same_function
    assert probe.agreement().top1 is None
    assert "does not name one class" in str(probe.accuracy().unavailable)
    assert probe.latency().model.samples_s
    probe.close()


def test_structured_outputs_that_nobody_explains_fail_with_advice(server: Connection, settings: Settings) -> None:
    with pytest.raises(CellEnded, match=r"expected one, or a models.Model that names `outputs`") as caught:
        CellProbe(server, cell("tests.faulty:UNNAMED_PAIR", 8), settings).prepared()
    assert caught.value.outcome == "failed"


def test_a_callable_that_returns_no_module(server: Connection, settings: Settings) -> None:
    with pytest.raises(CellEnded, match=r"no_module returned a dict, expected a torch.nn.Module"):
        CellProbe(server, cell("tests.faulty:no_module", 8), settings).counts()


@pytest.mark.slow
def test_a_net_that_multiplies_nothing_is_judged_and_shown(bench: Bench) -> None:
    """Its tolerance is that of the outputs' own rounding; one of 0 would make it red, and the table divide by it."""
    run = bench(
        "--tier",
        "smoke",
        "--model",
        "tests.models.sources.test_outside:shifted+data=digits",
        "--precision",
        "fp32",
        "--batch",
        "1",
    )
    assert run.code == 0, run.output
    (kept,) = run.records.values()
    assert (kept.counts.macs, kept.outcome) == (0, "ok")
    assert kept.accuracy.unavailable.startswith("no weights for tests.models.sources.test_outside:shifted")


def shifted() -> object:
    from torch import nn

    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.LayerNorm(16))


@pytest.mark.slow
def test_a_detector_is_checked_and_timed_like_any_other(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, Cell("ssdlite320_mobilenet_v3_large", "dense", "eager", "fp32", 1, 320, "cpu"), settings)
    assert probe.counts().as_published
    agreement = probe.agreement()
    assert agreement.same_function, agreement.explanation
    assert probe.latency().model.samples_s
    probe.close()


def test_an_operation_that_a_precision_lacks_is_unsupported_there(server: Connection, settings: Settings) -> None:
    """torchvision suppresses boxes in fp32 only."""
    probe = CellProbe(server, Cell("ssdlite320_mobilenet_v3_large", "dense", "eager", "bf16", 1, 320, "cpu"), settings)
    with pytest.raises(CellEnded, match=r"nms_kernel.* not implemented for 'BFloat16'") as caught:
        probe.agreement()
    assert (caught.value.outcome, caught.value.axis) == ("unsupported", "precision")


@pytest.mark.slow
def test_an_onnx_file_of_tensorflows_layout_and_one_batch(bench: Bench, tmp_path: Path) -> None:
    """From the command line to its record; channels last, and a batch that its maker has fixed."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3), np.float32), "kernel")
    head = numpy_helper.from_array(rng.standard_normal((4, 10), np.float32), "head")
    nodes = [
        helper.make_node("Transpose", ["pictures"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("ReduceMean", ["relu"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
    ]
    pictures = helper.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, [2, 16, 16, 3])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [2, 10])
    graph = helper.make_graph(nodes, "net", [pictures], [logits], [kernel, head])
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), file)

    run = bench("--tier", "smoke", "--model", f"{file}+data=cifar10", "-rs")
    assert run.code == 0, run.output
    assert "1 passed" in run.output
    (kept,) = (record for record in run.records.values() if record.outcome == "ok")
    assert (kept.cell.runtime, kept.cell.batch, kept.cell.image_size) == ("onnxruntime", 2, 16)
    assert kept.counts.parameters == 4 * 27 + 40
    assert kept.counts.macs == 4 * 27 * 16 * 16 + 40
    assert kept.counts.graph == kept.counts.executed
    assert kept.agreement.top1 == 1
    assert "no data root" in kept.accuracy.unavailable
    assert (kept.memory["inference"].value, bool(kept.memory["inference"].unavailable)) == (None, True)
    name = f"net.onnx+data=cifar10+sha256={hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    assert (kept.cell.id, kept.cell.model) == (f"{name}-dense-onnxruntime-fp32-b2-16px-cpu", name)
    assert {"onnx", "onnxruntime"} <= set(kept.machine.libraries)
    no_weights = bench("--tier", "smoke", "--model", f"{file}+data=cifar10", "--weights", str(tmp_path), folder="weights")
    assert no_weights.code == pytest.ExitCode.USAGE_ERROR
    assert "fits no model of these cells; expected any of none, as ONNX files have their own" in no_weights.output
    named = bench("--tier", "smoke", "--model", f"{file}+data=cifar10", "--batch", "3", folder="named")
    assert named.code == 1
    assert "takes a batch of 2 and no other, got 3" in named.output


@pytest.mark.slow
def test_a_strangers_model_from_a_repository_with_our_names(tmp_path: Path, cache: Path) -> None:
    """One command and no file, where `models` and `harness` are the stranger's; `harness` must not even be imported."""
    stranger = tmp_path / "repository"
    (stranger / "models").mkdir(parents=True)
    (stranger / "harness").mkdir()
    (stranger / "harness" / "__init__.py").write_text("raise RuntimeError('somebody else was imported')")
    (stranger / "models" / "blocks.py").write_text("from torch import nn\n\ndef last(n):\n    return nn.Linear(12, n)\n")
    (stranger / "late.py").write_text("def same(x):\n    return x\n")
    (stranger / "models" / "net.py").write_text(
        "from torch import nn\nfrom models.blocks import last\n\nclass Late(nn.Module):\n"
        "    def forward(self, x):\n        import late\n        return late.same(x)\n\n"
        "def make(num_classes):\n    from models import blocks\n    assert blocks.last is last\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), last(num_classes), Late())\n"
    )
    options = ("--tier", "smoke", "--model", "models.net:make+data=cifar10,models.net:nothing")
    place = {**where(tmp_path, cache), "cwd": stranger}
    missing = subprocess.run(command(tmp_path / "none", *options), capture_output=True, text=True, timeout=HOUR_S, **place)
    assert missing.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no model 'models.net:nothing'" in missing.stdout + missing.stderr
    process = subprocess.run(command(tmp_path / "run", *options[:-1], options[-1].partition(",")[0]), timeout=HOUR_S, **place)
    (record,) = Run(subprocess.CompletedProcess([], process.returncode, "", ""), tmp_path / "run").records.values()
    assert (record.outcome, record.cell.model) == ("ok", "models.net:make+data=cifar10")
    assert record.counts.parameters == 130
    assert record.counts.formula is None
    assert record.latency.model.samples_s


def test_an_entry_point_is_a_name_like_any_other(tmp_path: Path) -> None:
    """What an installed package announces in the group plumbline.models is found and listed."""
    (tmp_path / "theirs.py").write_text("from torch import nn\n\ndef net():\n    return nn.Flatten()\n")
    announce(tmp_path, "[plumbline.models]\ntheir_net = theirs:net\nmlp = theirs:net\n")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from plumbline import models; "
        "print(models.find('their_net').source, models.kind_of('their_net'), models.kind_of('mlp')); "
        "from plumbline.harness.cli import main; "
        "sys.argv = ['harness', 'list']; main()"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("theirs:net, from outside this project outside registered")
    assert "their_net  theirs:net" in told
    assert "shadowed by the registered one of that name" in told
