"""Runtimes: found by name and option, tried before they count, and proved to compute the same function."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from plumbline import UnknownName
from plumbline.harness import runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Agreement
from plumbline.harness.outcomes import CellEnded, Unsupported
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import torch_net
from plumbline.harness.runtimes.export import export, quantise
from plumbline.harness.runtimes.kernels import Kernel, of_layers, share
from plumbline.harness.session.client import PROBE, CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.models.layers import linear
from tests.conftest import announce
from tests.records import replace

Ask = Callable[..., CellProbe]

THEIRS = '''
"""Runtimes that go wrong, each in one way."""

import os
import signal

from plumbline.harness.runtimes import Runtime, Unsupported
from plumbline.harness.runtimes.eager import Eager
from tests.records import replace


class Perturbed(Eager):
    """One weight in a hundred is larger by a hundredth."""

    def __init__(self, net, way):
        for tensor in net.parameters():
            tensor.data.flatten()[::100] *= 1.01
        super().__init__(net, way)


class Swapped(Eager):
    def fetch(self, outputs):
        found = super().fetch(outputs)
        return found[:, [1, 0, *range(2, found.shape[1])]]


class Constant(Eager):
    """The mean of all answers, whatever it is asked."""

    def fetch(self, outputs):
        found = super().fetch(outputs)
        return 0 * found + found.mean(0)


class Turned(Eager):
    """Takes rows for columns."""

    def place(self, arguments):
        return tuple(part.transpose(2, 3) for part in super().place(arguments))


class Disguised(Eager):
    """Multiplies in bfloat16, and says so when it is asked."""

    def __init__(self, net, way):
        import torch

        super().__init__(net, way)
        self._net.to(torch.bfloat16)
        self._dtype = torch.bfloat16


class Crashing(Eager):
    @classmethod
    def trial(cls, way):
        os.kill(os.getpid(), signal.SIGSEGV)


class Refusing(Eager):
    @classmethod
    def trial(cls, way):
        raise RuntimeError("the driver is older than the library")


class FailingLater(Eager):
    """Works in a trial, and not with this model."""

    def ready(self, placed):
        raise Unsupported("no kernel for Conv on this device")


class Buggy(Eager):
    """Its author's mistake, and nothing that a library said."""

    def ready(self, placed):
        raise ValueError("expected two values, got three")


class OneThread(Eager):
    """Works with one thread, and says so when it is asked."""

    def read_back(self):
        return {**super().read_back(), "threads": 77}


NOT_A_RUNTIME = 3
'''
NAMES = (
    "Perturbed", "Swapped", "Constant", "Turned", "Disguised", "Crashing", "Refusing", "FailingLater", "Buggy", "OneThread",
    "NOT_A_RUNTIME", "Missing",
)  # fmt: skip


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, python: str) -> Iterator[Connection]:
    """A server that also finds the runtimes above, as another package's; so does this process."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "theirs.py").write_text(THEIRS)
    entries = "\n".join(f"{name.lower()} = theirs:{name}" for name in NAMES)
    announce(folder, f"[plumbline.runtimes]\n{entries}\n")
    with pytest.MonkeyPatch.context() as patch, (folder / "probe.log").open("wb") as log:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        server = Connection(log, command=[python, *PROBE[1:]])
        yield server
        server.close()


@pytest.fixture
def ask(theirs: Connection, settings: Settings) -> Ask:
    def ask(runtime: str, precision: str = "fp32", model: str = "small_cnn", batch: int = 2, image_size: int = 8) -> CellProbe:
        cell = Cell(model, "dense", runtimes.find(runtime).name, precision, batch, image_size, "cpu")
        return CellProbe(theirs, cell, settings)

    return ask


def agrees(probe: CellProbe) -> Agreement:
    agreement = probe.agreement()
    probe.close()
    return agreement


@pytest.mark.parametrize("runtime", ["perturbed", "swapped", "turned"])
def test_a_runtime_that_computes_something_else_is_red(ask: Ask, runtime: str) -> None:
    agreement = agrees(ask(runtime))
    assert not agreement.same_function
    assert agreement.eager_error is not None
    assert agreement.eager_error > agreement.tolerance


@pytest.mark.parametrize("precision", ["bf16", "w8"])
@pytest.mark.parametrize("runtime", ["swapped", "constant"])
def test_coarse_precisions_hide_no_wrong_answers(ask: Ask, runtime: str, precision: str) -> None:
    """Two of a thousand classes swapped, or the same answer to everything, in a deep net."""
    agreement = agrees(ask(runtime, precision, model="mobilenet_v3_large", batch=8, image_size=224))
    assert not agreement.same_function
    assert agrees(ask("eager", precision, model="mobilenet_v3_large", batch=8, image_size=224)).same_function


def test_a_runtime_in_another_precision_is_not_reported(ask: Ask) -> None:
    with pytest.raises(CellEnded, match=r"asked for fp32, disguised executes 0\.0% of its MACs in that") as caught:
        ask("disguised").prepared()
    assert (caught.value.outcome, caught.value.axis) == ("failed", None)


def test_integers_that_a_library_has_no_kernels_for_are_unsupported(ask: Ask) -> None:
    with pytest.raises(CellEnded, match=r"asked for int8-dynamic, onnxruntime executes \d+\.\d% of its MACs in that") as caught:
        ask("onnxruntime", "int8-dynamic").prepared()
    assert (caught.value.outcome, caught.value.axis) == ("unsupported", "runtime")


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [("onethread", r"asked for threads=\d+, onethread says that it has 77"), ("buggy", "expected two values, got three")],
)
def test_what_ran_otherwise_and_what_is_a_mistake_is_red(ask: Ask, runtime: str, reason: str) -> None:
    with pytest.raises(CellEnded, match=reason) as caught:
        ask(runtime).prepared()
    assert (caught.value.outcome, caught.value.axis) == ("failed", None)


@pytest.mark.parametrize(
    ("runtime", "outcome", "reason"),
    [
        ("crashing", "unavailable", r"crashing does not work on cpu here; a trial of it says: it died of SIGSEGV"),
        ("refusing", "unavailable", r"RuntimeError: the driver is older than the library"),
        ("failinglater", "unsupported", r"no kernel for Conv on this device"),
    ],
)
def test_one_that_does_not_work_here_says_why_and_the_next_cell_runs(ask: Ask, runtime: str, outcome: str, reason: str) -> None:
    for _ in range(2):  # the second time it is known
        with pytest.raises(CellEnded, match=reason) as caught:
            ask(runtime).prepared()
        assert (caught.value.outcome, caught.value.axis) == (outcome, "runtime")
    assert agrees(ask("eager")).same_function


def test_a_runtime_is_found_with_its_options(ask: Ask) -> None:
    found = runtimes.find("onnxruntime+arena=off+graph=all")
    assert found.name == "onnxruntime+arena=off"  # as one name for one thing
    assert dict(found.options) | {"arena": "off"} == dict(found.options)
    for reference, words in {
        "onnxrutime": r"no runtime 'onnxrutime' \(did you mean onnxruntime.*\?\); known: eager",
        "onnxruntime+graf=all": r"no option 'graf' \(did you mean graph\?\); known: arena, graph",
        "onnxruntime+graph=best": r"option 'graph': expected all, extended, basic, off, got 'best'",
        "not_a_runtime": r"'theirs:NOT_A_RUNTIME' is 3, expected a subclass of plumbline.harness.runtimes.Runtime",
        "missing": r"entry point 'theirs:Missing' cannot be loaded",
    }.items():
        with pytest.raises(UnknownName, match=words):
            runtimes.find(reference)


@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        ("eager+layout=channels_last+mode=no_grad", {"layout": "channels_last", "mode": "no_grad", "tf32": False}),
        ("onnxruntime+graph=basic+arena=off+spinning=off", {"graph": "basic", "arena": "off", "spinning": "off"}),
        ("onnxruntime+opset=13", {"opset": 13, "ir_version": 7, "provider": "CPUExecutionProvider"}),
    ],
)
def test_options_are_read_back(ask: Ask, runtime: str, told: dict[str, object]) -> None:
    probe = ask(runtime)
    options = probe.prepared().options
    assert {key: options[key] for key in told} == told
    assert options["threads"] >= 1
    assert agrees(probe).same_function


@pytest.mark.parametrize("precision", ["w8", "w16", "bf16"])
def test_eager_weights_are_stored_as_asked(ask: Ask, precision: str) -> None:
    probe = ask("eager", precision)
    assert probe.prepared().options["in_precision"] == 1
    accuracy = probe.accuracy()
    assert accuracy.keeps_to_parent
    bytes_of_fp32 = 4 * probe.prepared().parameters
    assert (probe.memory()["weights"].value or 0) < (0.6 if precision != "w8" else 0.3) * bytes_of_fp32
    assert agrees(probe).same_function


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8-static", "w8", "w16"])
def test_openvino_multiplies_in_what_it_was_asked_for(ask: Ask, precision: str) -> None:
    """Unasked it would take bfloat16 where the processor has it, and integers for small weights."""
    pytest.importorskip("openvino")
    probe = ask("openvino", precision)
    try:
        options = probe.prepared().options
    except CellEnded as end:  # a processor without bfloat16
        assert (precision, end.outcome) == ("bf16", "unsupported")  # noqa: PT017
        return
    assert options["hint"] == ("bf16" if precision == "bf16" else "f32")
    assert options["in_precision"] > 0.9
    assert (options["quantised_together"] == "0") == (precision in ("w8", "w16"))
    agreement = agrees(probe)
    assert agreement.same_function
    assert (agreement.error > 1e-5) == (precision != "fp32")


@pytest.mark.slow
def test_openvino_quantises_matrix_products(ask: Ask) -> None:
    pytest.importorskip("openvino")
    probe = ask("openvino", "int8-dynamic", model="mlp")
    assert probe.prepared().options["group"] == "64"
    assert agrees(probe).same_function
    with pytest.raises(CellEnded, match=r"asked for int8-dynamic, openvino executes .*% of its MACs in that"):
        ask("openvino", "int8-dynamic").prepared()  # of convolutions it makes no integers


@pytest.mark.slow
def test_compiled_nets_compile_before_the_first_inference(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """A compiler that counts how often it is called is called while the cell is prepared, and not while it is timed.

    It is found by its usual name: for $CXX a probe would have to be an ordinary Python, which shares no translated headers.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"  # that inductor looks for
    counting, calls = tmp_path / "path" / usual, tmp_path / "calls"
    counting.parent.mkdir()
    counting.write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexec {shutil.which(os.environ.get("CXX", usual))} "$@"\n')
    counting.chmod(0o700)
    calls.touch()

    def files() -> int:
        """How many kernels it has compiled; it is also asked for its version, and for what a header includes."""
        return sum(".cpp " in line and " -o " in line for line in calls.read_text().splitlines())

    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(counting.parent), prepend=os.pathsep)
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log, command=[python, *PROBE[1:]])
        probe = CellProbe(server, Cell("small_cnn", "dense", "compiled", "fp32", 2, 8, "cpu"), settings)
        prepared = probe.prepared()
        before = files()
        assert before > 0
        assert (prepared.options["freezing"], prepared.options["graphs"]) == ("on", 1)
        assert prepared.artefact is not None
        assert probe.latency().first_s > 0
        assert agrees(probe).same_function
        again = CellProbe(server, Cell("small_cnn", "dense", "compiled", "fp32", 2, 8, "cpu"), settings)
        assert again.prepared().artefact is not None
        again.close()
        assert files() == before  # it was kept in the server's folder
        server.close()


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "precision"), [("exported", "int8-static"), ("exported+backend=eager", "bf16")])
def test_exported_programs_run(ask: Ask, runtime: str, precision: str) -> None:
    pytest.importorskip("torchao")
    probe = ask(runtime, precision)
    assert probe.prepared().options["in_precision"] > 0.5
    assert probe.accuracy().keeps_to_parent
    assert (probe.memory()["weights"].value or 0) > 0
    assert agrees(probe).same_function


@pytest.mark.slow
def test_torch_multiplies_integers_by_torchao(ask: Ask) -> None:
    pytest.importorskip("torchao")
    probe = ask("eager", "int8-dynamic", model="mlp")
    assert probe.prepared().options["in_precision"] > 0.9
    assert agrees(probe).same_function
    with pytest.raises(CellEnded, match=r"asked for int8-dynamic, onnxruntime executes .*% of its MACs in that"):
        ask("onnxruntime", "int8-dynamic").prepared()


def test_without_a_compiler_compiled_is_unavailable(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log, command=[python, *PROBE[1:]])
        with pytest.raises(CellEnded, match=r"compiled does not work .*no working C\+\+ compiler; install g\+\+") as caught:
            CellProbe(server, Cell("small_cnn", "dense", "compiled", "fp32", 1, 8, "cpu"), settings).prepared()
        server.close()
    assert caught.value.outcome == "unavailable"


def test_a_calibration_set_that_is_empty_or_of_another_shape(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    export(net, torch.randn(2, 3, 8, 8), tmp_path / "plain.onnx")
    with pytest.raises(ValueError, match="the calibration set is empty; expected images"):
        quantise(tmp_path / "plain.onnx", tmp_path / "small.onnx", torch.empty(0, 3, 8, 8))
    with pytest.raises(Unsupported, match=r"ONNX Runtime cannot quantise it: .*invalid dimensions for input: images"):
        quantise(tmp_path / "plain.onnx", tmp_path / "small.onnx", torch.randn(4, 3, 9, 9))


def test_kernels_find_their_layers() -> None:
    layers = [linear("a", 8, 16), linear("b", 16, 16), linear("c", 16, 4)]
    kernels = [
        Kernel("first", "MatMul", 1e-3, True, "float32", outputs=16, macs=128),
        Kernel("add", "Add", 1e-4),
        Kernel("second", "QGemm", 1e-3, True, "int8", outputs=16),  # packed: its MACs are not shown
        Kernel("attention", "MatMul", 1e-3, True, "float32", outputs=9, macs=81),
        Kernel("third", "QGemm", 1e-3, True, "int8", outputs=4),
    ]
    found = of_layers(kernels, layers)
    assert [kernel.layer for kernel in found] == ["a", None, "b", None, "c"]
    assert [kernel.macs for kernel in found] == [128, None, 256, 81, 64]
    assert share(found, ["int8"]) == 320 / 529
    assert share([replace(kernel, macs=None) for kernel in found], ["int8"]) == 2 / 4  # by kernels, where one has no MACs
    assert share([], ["int8"]) == 0


@pytest.mark.parametrize("precision", ["w8", "w16"])
def test_small_weights_keep_the_function(precision: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    net.requires_grad_(False)
    images = torch.randn(4, 3, 8, 8)
    before = net(images)
    torch_net.convert(net, PRECISIONS[precision])
    error = float((net(images) - before).square().mean().sqrt() / before.std())
    assert 0 < error < {"w8": 0.02, "w16": 5e-4}[precision]
    layers = [linear("0", 3 * 9, 8 * 36), linear("3", 8 * 36, 10)]
    assert torch_net.share_in(net, PRECISIONS[precision], layers) == 1
    assert torch_net.share_in(nn.Linear(3, 3), PRECISIONS[precision], layers) == 0


def test_batches_for_a_calibration_are_whole() -> None:
    images = torch.arange(5).reshape(5, 1)
    assert [part.flatten().tolist() for part in torch_net.batches(images, 2)] == [[0, 1], [2, 3]]
    assert [part.flatten().tolist() for part in torch_net.batches(images, 8)] == [[0, 1, 2, 3, 4, 0, 1, 2]]


def test_no_install_is_hinted_at_where_there_is_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_installed", lambda library: False)
    gone = "ai_edge_litert, litert_torch, litert_quantizer are not installed"
    for machine, litert in (
        ("aarch64", "litert-converter has no wheel for aarch64"),
        ("x86_64", f"{gone}: pip install -e '.[litert]' in the project's folder"),
    ):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert runtimes.missing(runtimes.find("litert").adapter) == litert
        assert "pip install" in (runtimes.missing(runtimes.find("openvino").adapter) or "")


def test_an_exported_file_does_not_say_from_which_lines_it_comes(tmp_path: Path) -> None:
    """Else it holds paths of this machine, and a comment above a net changes the bytes of its file."""
    import onnx

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    export(net.eval(), torch.rand(2, 1, 8, 8), tmp_path / "net.onnx")
    assert b"site-packages" not in (tmp_path / "net.onnx").read_bytes()
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert graph.node and not any(part.metadata_props for part in (*graph.node, *graph.value_info, *graph.initializer))
