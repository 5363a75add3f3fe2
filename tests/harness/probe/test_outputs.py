"""Outputs on which an agreement means something: they differ, they are real scores, and a wrong net would have others."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plumbline.harness.cell import Cell
from plumbline.harness.facts import Agreement
from plumbline.harness.outcomes import FAILED, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe.agreement import judge
from plumbline.harness.probe.reference import Reference, prepare
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.models import find
from plumbline.models.layers import Layer, conv2d, linear
from plumbline.models.weights.seeding import pictures, seed_weights
from plumbline.tensors import spread

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, channels: int, classes: int, how: Forward) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(channels, 16, 4, 4), nn.BatchNorm2d(16), nn.Linear(16, classes)
        self.how = how

    def body(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.norm(self.first(images)).relu()
        return outputs

    def logits(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(images).mean((2, 3)))
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        return self.how(self, images)


def formula(classes: int) -> list[Layer]:
    return [conv2d("first", 3, 16, 4, 8), linear("head", 16, classes)]


def attends(net: Net, images: Tensor) -> Tensor:
    """softmax asked for float32, its result multiplied by values in the net's own type."""
    tokens = net.body(images).flatten(2).transpose(1, 2)
    weights = (tokens @ tokens.mT).softmax(-1, dtype=torch.float32)
    outputs: Tensor = net.head((weights @ tokens).mean(1))
    return outputs


def shifts_phase(net: Net, images: Tensor) -> Tensor:
    """Of complex outputs the imaginary part alone is wrong in single precision."""
    found = torch.fft.fft2(net.body(images))
    wrong = 0.0 if images.dtype == torch.float64 or images.is_meta else 3.0 * found.imag.abs().mean()
    return torch.complex(found.real, found.imag + wrong)


ENDS: dict[str, Forward] = {
    "logits": lambda net, x: net.logits(x),
    "softmax": lambda net, x: net.logits(x).softmax(1),
    "log_softmax": lambda net, x: net.logits(x).log_softmax(1),
    "sigmoid": lambda net, x: net.logits(x).sigmoid(),
    "mask": lambda net, x: net.head(net.body(x).permute(0, 2, 3, 1)).sigmoid(),
    "embedding": lambda net, x: functional.normalize(net.logits(x), dim=1),
    "tiny": lambda net, x: net.logits(x) * 1e-6,
    "tanh": lambda net, x: net.logits(x).tanh(),
    "confident": lambda net, x: (10 * net.logits(x)).softmax(1),
    "saturated": lambda net, x: (1e4 * net.logits(x)).softmax(1),
    "forced_float": lambda net, x: net.head(net.body(x).mean((2, 3)).float()),
    "through_half": lambda net, x: net.head(net.body(x).mean((2, 3)).half().to(x.dtype)),
    "own_ramp": lambda net, x: net.logits(x) + torch.linspace(0, 1, 16) @ net.head.weight.mT,
    "half_attention": attends,
    "class_numbers": lambda net, x: net.logits(x).argmax(1),
    "class_map": lambda net, x: net.head(net.body(x).permute(0, 2, 3, 1)).argmax(-1),
    "float_class_numbers": lambda net, x: net.head(net.body(x).permute(0, 2, 3, 1)).argmax(-1).float(),
    "decisions": lambda net, x: net.logits(x) > 0,
    "spectrum": lambda net, x: torch.fft.fft2(net.body(x)),
    "wrong_phase": shifts_phase,
}
SQUASHED = ("logits", "softmax", "log_softmax", "sigmoid", "mask", "embedding", "tiny", "tanh")


def __getattr__(name: str) -> Callable[[int, int], nn.Module]:
    """A builder for each end, named `tests.harness.probe.test_outputs:NAME`."""
    if name not in ENDS:
        raise AttributeError(name)
    return lambda channels, classes: Net(channels, classes, ENDS[name])


def prepared(name: str, folder: Path, data: str = "imagenet") -> tuple[nn.Module, Reference]:
    model = find(f"tests.harness.probe.test_outputs:{name}+data={data}")
    cell = Cell(model.name, "dense", "eager", "fp32", 1, 32, "cpu")
    folder.mkdir(exist_ok=True)
    prepare(cell, Settings(cache=folder), folder, print)
    reference = Reference.load(folder)
    return reference.net(model, cell, Settings(cache=folder)), reference


def judged(net: nn.Module, reference: Reference, precision: str) -> Agreement:
    dtype = getattr(torch, PRECISIONS[precision].dtype)
    net = deepcopy(net).to(dtype)
    with torch.no_grad():
        return judge(lambda images: net(images.to(dtype)).float(), reference, 8, PRECISIONS[precision], formula(1000))


@pytest.mark.parametrize("name", SQUASHED)
def test_whatever_a_net_ends_in_its_verdict_is_that_of_its_logits(name: str, tmp_path: Path) -> None:
    net, reference = prepared(name, tmp_path)
    for precision in ("fp32", "bf16", "fp16"):
        found = judged(net, reference, precision)
        assert found.wrong is None, (precision, found.explanation)
    for precision in ("fp32", "bf16", "fp16", "int8-static"):
        wrong = deepcopy(net)
        with torch.no_grad():  # an error of four times what rounding explains, or all there is
            share = min(1.0, 4 * judged(net, reference, precision).tolerance)
            weight = wrong.get_parameter("head.weight")
            weight.add_(share * weight.std() * torch.randn_like(weight))
        assert not judged(wrong, reference, precision).same_function, precision


def test_probabilities_are_not_all_zero_or_one(tmp_path: Path) -> None:
    """As they were while the head was scaled until they had unit spread."""
    _, reference = prepared("softmax", tmp_path)
    assert float(reference.outputs.amax(1).mean()) < 0.1


def test_a_confident_net_is_right_in_fp32(tmp_path: Path) -> None:
    net, reference = prepared("confident", tmp_path, "cifar10")
    assert float(reference.outputs.amax(1).median()) > 0.99
    found = judged(net, reference, "fp32")
    assert found.wrong is None, found.explanation


@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_an_agreement_that_could_not_have_failed_is_none(precision: str, tmp_path: Path) -> None:
    net, reference = prepared("saturated", tmp_path)
    with pytest.raises(CellEnded, match="an error could hardly show in these outputs") as caught:
        judged(net, reference, precision)
    assert caught.value.outcome == FAILED


def test_neither_is_one_with_a_file(tmp_path: Path) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    for gain in (1.0, 1e4):
        head = numpy_helper.from_array((gain * rng.standard_normal((64, 10)) / 8).astype(np.float32), "head")
        nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "head"], ["logits"])]
        nodes.append(helper.make_node("Softmax", ["logits"], ["y"], axis=1))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
        graph = helper.make_graph(nodes, "net", [x], [y], [head])
        file = tmp_path / f"gain{gain:g}.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
        folder = tmp_path / f"{gain:g}"
        folder.mkdir()
        prepare(Cell(f"{file}+data=digits", "dense", "onnxruntime", "fp32", 1, 8, "cpu"), Settings(), folder, print)
        reference = Reference.load(folder)
        assert (reference.response > 0.05) == (gain == 1), reference.response


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("class_numbers", "returned whole numbers"),
        ("class_map", "returned whole numbers"),
        ("float_class_numbers", "returned whole numbers"),
        ("decisions", "returned truth values"),
        ("spectrum", "returned complex numbers"),
        ("wrong_phase", "returned complex numbers"),
    ],
)
def test_outputs_that_are_no_scores_are_refused_by_name(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"tests.harness.probe.test_outputs:{name}.* {words}.*expected real scores"):
        prepared(name, tmp_path, "cifar10")


def test_so_are_they_in_a_structure() -> None:
    model = find("tests.harness.probe.test_outputs:logits+data=cifar10")
    with pytest.raises(TypeError, match="returned whole numbers"):
        model.comparable({"scores": torch.rand(2, 3), "best": torch.ones(2, 1, dtype=torch.int64)}, 2)


@pytest.mark.parametrize("name", ["forced_float", "half_attention", "own_ramp"])
def test_the_reference_is_in_float64_whatever_a_net_converts_to(name: str, tmp_path: Path) -> None:
    net, reference = prepared(name, tmp_path, "cifar10")
    assert judged(net, reference, "fp32").wrong is None
    assert (reference.outputs - reference.outputs.float().double()).abs().max() > 0  # not rounded to float32 on the way
    assert torch.get_default_dtype() == torch.float32


def test_what_a_net_rounds_to_half_stays_rounded(tmp_path: Path) -> None:
    """It is part of the function that it computes, in every precision."""
    net, reference = prepared("through_half", tmp_path, "cifar10")
    assert judged(net, reference, "fp32").error < 1e-4
    net.how = ENDS["logits"]  # type: ignore[assignment]
    with torch.no_grad():
        plain = net.double()(reference.inputs.double())
    assert (plain - reference.outputs).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("name", "where"), [("forced_float", "in module 'head', a Linear: "), ("half_attention", "in the net itself, a Net: ")]
)
def test_in_bf16_the_module_is_named_that_does_not_follow(server: Connection, settings: Settings, name: str, where: str) -> None:
    probe = CellProbe(
        server, Cell(f"tests.harness.probe.test_outputs:{name}+data=cifar10", "dense", "eager", "bf16", 1, 32, "cpu"), settings
    )
    with pytest.raises(CellEnded, match=rf"{where}") as caught:
        probe.agreement()
    assert caught.value.outcome == FAILED


def test_a_head_whose_outputs_nobody_sees_is_scaled_by_the_nets() -> None:
    """Its rows are no pictures, or it is never called as a module: the net's outputs are all there is to go by."""

    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            return functional.linear(images.flatten(1), self.head.weight, self.head.bias)

    images = pictures(16, 1, 8, seed=0)
    with torch.no_grad():
        assert spread(seed_weights(Aside(), images)(images)) == pytest.approx(1, rel=1e-3)
