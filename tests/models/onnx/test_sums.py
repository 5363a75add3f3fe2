"""Sums without products: how long they are, and what rounding may make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import RunConfig
from plumbline.harness.runtimes.onnxruntime import OnnxRuntime
from plumbline.models.counting.counts import count
from plumbline.models.layers import Layer
from plumbline.models.onnx.reference import reference
from plumbline.models.onnx.sums import sums
from plumbline.models.sources.outside import find
from plumbline.models.weights.seeding import pictures
from plumbline.tensors import spread

SIZE = 256


def net(path: Path, nodes: list[onnx.NodeProto], size: int, opset: int = 17, **constants: Any) -> Path:
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0]
    model.graph.output[0].CopyFrom(inferred)
    onnx.save(model, path)
    return path


def plain(path: Path, factor: float = 1.0) -> Path:
    """A convolution, and the mean of a whole picture; `factor` perturbs one of its 16 kernels."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((16, 3, 3, 3)).astype(np.float32) * 0.3
    kernel[5] *= factor
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["conv"], pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"], name="pool"),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    return net(path, nodes, SIZE, kernel=kernel, head=rng.standard_normal((16, 10)).astype(np.float32))


def test_a_mean_over_a_whole_picture_is_within_its_bound_and_a_perturbed_layer_is_not(tmp_path: Path) -> None:
    """The pooling adds up 65,536 numbers, 40 times as many terms (square root) as the convolution.

    The bound follows them, and a kernel that is 0.1 % too large is still beyond it.
    """
    file = plain(tmp_path / "net.onnx")
    images = pictures(8, 3, SIZE, seed=1)
    exact = torch.from_numpy(np.asarray(reference(file, images.numpy())))
    layers = [Layer(**layer) for layer in count(find(f"{file}+data=cifar10"), SIZE)["layers"]]
    magnitude = float(exact.square().mean().sqrt()) / spread(exact)
    tolerance = PRECISIONS["fp32"].tolerance(layers, magnitude)

    def error(path: Path) -> float:
        runtime = OnnxRuntime(path, RunConfig(PRECISIONS["fp32"], "cpu", 8, torch.get_num_threads(), OnnxRuntime.usual()))
        outputs = runtime.fetch(runtime.run(runtime.place((images,)))).double()
        return float((outputs - exact).square().mean().sqrt()) / spread(exact)

    assert error(file) < tolerance < error(plain(tmp_path / "wrong.onnx", factor=1.001))
    # one after the other, as a runtime may: beyond what the products alone explain
    ones = np.random.default_rng(0).random(SIZE * SIZE, np.float32)
    one_by_one = np.add.accumulate(ones, dtype=np.float32)[-1]
    relative = abs(float(one_by_one) / float(ones.sum(dtype=np.float64)) - 1)
    products = PRECISIONS["fp32"].tolerance([layer for layer in layers if layer.macs])
    assert products < relative < PRECISIONS["fp32"].tolerance(layers)


@pytest.mark.parametrize(
    ("node", "terms"),
    [
        (helper.make_node("GlobalAveragePool", ["x"], ["y"]), 64),
        (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 3]), 6),
        (helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3]), 64),
        (helper.make_node("ReduceL2", ["x"], ["y"], axes=[1, 2, 3], keepdims=0), 192),
        (helper.make_node("Softmax", ["x"], ["y"], axis=1), 3),
        (helper.make_node("LayerNormalization", ["x", "w"], ["y"], axis=-1), 8),
        (helper.make_node("InstanceNormalization", ["x", "c", "c"], ["y"]), 64),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), None),
        (helper.make_node("Relu", ["x"], ["y"]), None),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_how_many_are_added_up(tmp_path: Path, node: onnx.NodeProto, terms: int | None) -> None:
    file = net(tmp_path / "net.onnx", [node], 8, w=np.ones(8, np.float32), c=np.ones(3, np.float32))
    assert [layer.fan_in for layer in sums(file, 8)] == ([] if terms is None else [terms])
    assert all(layer.macs == layer.parameters == 0 for layer in sums(file, 8))


def test_a_sum_rounds_nothing_but_itself() -> None:
    """In a narrow precision products round their inputs, and sums of what is there already do not."""
    product, total = Layer("a", 9, 9, 9), Layer("b", 0, 0, 10_000)
    bf16 = PRECISIONS["bf16"]
    assert bf16.tolerance([product, total]) - bf16.tolerance([product]) == pytest.approx(100 * 2.0**-24)
