"""Integers on a processor without VNNI: known to saturate, built in ways that do not, the fastest right one kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from plumbline.harness import machine, runtimes, timing
from plumbline.harness.cell import Cell
from plumbline.harness.facts import Agreement
from plumbline.harness.probe import agreement, artefacts
from plumbline.harness.runtimes import saturation
from plumbline.harness.runtimes.export import export, quantise
from plumbline.models.onnx.graph import read
from tests.records import replace

CELL = Cell("small_cnn", "dense", "onnxruntime", "int8-static", 1, 8, "cpu")
AGREES = Agreement("", 8, "", 1.0, 0.1, 0.2, 0.0, 0.3, 2.4, 0.1, 1.0)


def _product(wide: str) -> int:
    """64 products of 255 and 127, added up by ONNX Runtime."""
    import onnxruntime

    matrix = onnx.numpy_helper.from_array(numpy.full((64, 16), 127, numpy.int8), "matrix")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64]),
        helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16]),
    ]
    zeros = [
        onnx.numpy_helper.from_array(numpy.array(0, kind), name) for name, kind in (("zx", numpy.uint8), ("zm", numpy.int8))
    ]  # without them ONNX Runtime 1.20 ends the process
    node = helper.make_node("MatMulInteger", ["x", "matrix", "zx", "zm"], ["y"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [matrix, *zeros])
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", wide)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return int(session.run(None, {"x": numpy.full((1, 64), 255, numpy.uint8)})[0][0, 0])


def test_where_products_saturate_it_is_known_and_wide_sums_are_right() -> None:
    assert _product("1") == 64 * 255 * 127
    assert saturation.saturate() or _product("0") == 64 * 255 * 127


@pytest.mark.parametrize(
    ("runtime", "saturates", "built"),
    [
        ("onnxruntime", True, ["7bit", "wide"]),
        ("onnxruntime", False, ["8bit"]),
        ("onnxruntime+products=wide", True, [None]),
        ("openvino", True, ["7bit", "8bit"]),
        ("exported", True, ["7bit", "8bit"]),
        ("exported", False, ["8bit"]),
    ],
)
def test_what_is_built_depends_on_the_processor(
    runtime: str, saturates: bool, built: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "saturate", lambda: saturates)
    cell = replace(CELL, runtime=runtime)
    adapter = runtimes.find(runtime).adapter
    assert [chosen.get("products") for chosen in adapter.alternatives(runtimes.config(cell))] == built
    assert list(adapter.alternatives(runtimes.config(replace(cell, precision="fp32")))) == [{}]


@pytest.mark.parametrize(
    ("errors", "agreeing", "medians", "kept"),
    [
        ([0.2, 0.1], [True, True], [1.0, 2.0], 0),  # the fastest
        ([0.2, 0.1], [True, True], [1.0, 1.04], 1),  # as fast, and nearer
        ([0.2, 0.1], [False, True], [1.0, 9.0], 1),  # right comes before fast
        ([0.2, 0.4], [False, False], [1.0, 1.0], 0),  # none is right: the cell will be red with the nearest
    ],
)
def test_the_fastest_that_agrees_is_kept(
    errors: list[float], agreeing: list[bool], medians: list[float], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(replace(AGREES, error=error, tolerance=1.0 if agrees else 0.0) for error, agrees in zip(errors, agreeing))
    monkeypatch.setattr(agreement, "judge", lambda *_: next(found))
    monkeypatch.setattr(artefacts, "layers", lambda folder: [])
    monkeypatch.setattr(timing, "interleave_calls", lambda calls, *_, **__: {number: [medians[number]] for number in calls})
    executable: Any = SimpleNamespace(place=lambda arguments: arguments, run=print, synchronize=print)
    model: Any = SimpleNamespace(positional=lambda images: (images,))
    reference: Any = SimpleNamespace(batch=lambda count: None)
    choices: list[Mapping[str, str]] = [{"products": "7bit"}, {"products": "wide"}]
    number, tried = artefacts._best([executable, executable], choices, model, CELL, reference, Path())
    assert number == kept
    assert [told["agrees"] for told in tried] == agreeing


def test_bits_are_seen_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    images = torch.rand(8, 3, 8, 8)
    export(net, images[:2], tmp_path / "plain.onnx")
    for name, seven_bits in (("seven", True), ("eight", False)):
        quantise(tmp_path / "plain.onnx", tmp_path / f"{name}.onnx", images, seven_bits=seven_bits)
        assert read(tmp_path / f"{name}.onnx").seven_bits is seven_bits
    assert read(tmp_path / "plain.onnx").seven_bits is None


def test_a_wrong_file_in_integers_is_told_the_cause_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "saturate", lambda: True)
    hint = saturation.hint("onnxruntime", runtimes.find("onnxruntime").adapter.options)
    wrong = replace(AGREES, error=0.9, hint=hint)
    assert "onnxruntime+products=wide" in str(wrong.wrong)
    assert "reduce_range" in str(wrong.wrong)
    assert "VNNI" not in replace(AGREES, hint=hint).explanation  # what is right needs no excuse
    monkeypatch.setattr(saturation, "saturate", lambda: False)
    assert saturation.hint("onnxruntime", {}) is None


@pytest.mark.parametrize(
    ("variable", "value", "left"),
    [
        (None, "", "avx avx2 avx512f avx512_vnni avx512_bf16 amx_int8"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "avx avx2"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "avx avx2 avx512f"),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE_VNNI", "avx avx2 avx512f avx512_vnni"),
        ("ATEN_CPU_CAPABILITY", "default", "avx avx2"),
    ],
)
def test_what_a_variable_keeps_from_the_process_is_no_flag_of_it(
    variable: str | None, value: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(machine, "_cpu_field", lambda *names: "avx avx2 avx512f avx512_vnni avx512_bf16 amx_int8")
    monkeypatch.setattr(machine, "_cpuid", dict)
    assert machine.cpu_flags.__wrapped__() == set(left.split())
    monkeypatch.setattr(machine, "_cpuid", lambda: {"avx512_vnni": False})  # an emulator shows its host's /proc/cpuinfo
    assert "avx512_vnni" not in machine.cpu_flags.__wrapped__()
