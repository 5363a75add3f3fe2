"""ONNX files: read, counted twice, executed in float64 and by ONNX Runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from plumbline import models
from plumbline.harness.outcomes import NotAsAsked, Unsupported
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import RunConfig
from plumbline.harness.runtimes.onnxruntime import OnnxRuntime
from plumbline.models import layers as formulas
from plumbline.models.onnx import layers as counting
from plumbline.models.onnx.graph import read
from plumbline.models.onnx.layers import layers, numbers
from plumbline.models.onnx.reference import executed, reference

OPSET, IR_VERSION = 17, 8  # what the oldest ONNX Runtime of pyproject.toml knows
Save = Callable[[onnx.ModelProto], Path]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    folder = tmp_path_factory.mktemp("onnx")

    def to_file(model: onnx.ModelProto) -> Path:
        path = folder / "net.onnx"
        onnx.save(model, path)
        return path

    return to_file


def random(name: str, *shape: int) -> Any:
    """The same numbers for the same name and shape, in whatever order the tests run."""
    return np.random.default_rng(zlib.crc32(repr((name, shape)).encode())).standard_normal(shape)


def numbered(name: str, *shape: int, dtype: str = "float32") -> TensorProto:
    """A tensor of random numbers."""
    values = random(name, *shape)
    return constant(name, values.astype(dtype) if "float" in dtype else (50 + 20 * values).round().clip(0, 255).astype(dtype))


def constant(name: str, values: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    named = {"name": f"{op.lower()}_{outputs.split()[-1]}", **attributes}
    reads, writes = ([name.strip("-") for name in names.split()] for names in (inputs, outputs))  # - is an absent one
    return helper.make_node(op, reads, writes, **named)


def net(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[TensorProto] = (),
    shape: Sequence[int | str | None] = ("n", 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    outputs: str = "y",
    opset: int = OPSET,
    **more: Any,
) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("x", kind, shape)
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()]
    graph = helper.make_graph(list(nodes), "net", [images], results, list(constants))
    more = {"ir_version": IR_VERSION, "opset_imports": [helper.make_opsetid("", opset)], **more}
    model = helper.make_model(graph, **more)
    known = {value.name: value.type for value in onnx.shape_inference.infer_shapes(model).graph.output}
    for result in model.graph.output:  # a file must say how many dimensions its outputs have
        result.type.tensor_type.shape.SetInParent()
        inferred = known[result.name].tensor_type
        for _ in range(len(inferred.shape.dim) if inferred.HasField("shape") else 4):
            result.type.tensor_type.shape.dim.add()
    return model


def agree(path: Path, image_size: int) -> tuple[int, int]:
    """Parameters and MACs, after both counters gave the same for each node."""
    graph = layers(path, image_size)
    assert {layer.name: layer.macs for layer in graph if layer.macs} == executed(path, image_size)
    assert formulas.parameters(graph) == numbers(path)["parameters"]
    return formulas.parameters(graph), formulas.macs(graph)


def session(path: Path, target: str = "cpu", **options: str) -> OnnxRuntime:
    return OnnxRuntime(
        path, RunConfig(PRECISIONS["fp32"], target, 1, torch.get_num_threads(), {**OnnxRuntime.usual(), **options})
    )


def run(path: Path, images: torch.Tensor) -> torch.Tensor:
    runtime = session(path)
    outputs: torch.Tensor = runtime.fetch(runtime.run(runtime.place((images,))))
    return outputs


def pixels(*shape: int) -> torch.Tensor:
    return torch.from_numpy(random("pixels", *shape).astype(np.float32))


def same(path: Path, images: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """The reference gives what torch gives in float64, and ONNX Runtime what the reference gives."""
    exact = torch.from_numpy(reference(path, images.numpy()))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, expected, rtol=tolerance, atol=tolerance * float(expected.std()))
    torch.testing.assert_close(run(path, images).double(), exact, rtol=1e-4, atol=1e-4 * float(expected.std()))


# -- nets that torch exports --------------------------------------------------------------------------------------


def built(name: str, image_size: int) -> nn.Module:
    """A model whose numbers are all different: exporters store equal tensors once."""
    torch.manual_seed(0)
    net = models.find(name).instantiate(image_size) if name == "mlp" else _torchvision(name)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return net.eval()


def _torchvision(name: str) -> nn.Module:
    from torchvision import models as zoo

    return zoo.get_model(name, weights=None)


def exported(net: nn.Module, images: torch.Tensor, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (images,), str(path), input_names=["x"], output_names=["y"], **options)
    return path


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize(("name", "channels", "image_size"), [("mlp", 1, 8), ("squeezenet1_1", 3, 64), ("mobilenet_v2", 3, 64)])
def test_an_exported_net_is_what_it_was_in_torch(
    name: str, channels: int, image_size: int, batch: int | None, tmp_path: Path
) -> None:
    """MACs as torch counts them; parameters too, but that a batch norm folded into a convolution leaves only its shift."""
    torch_net, images = built(name, image_size), pixels(2, channels, image_size, image_size)
    axes = {} if batch else {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    path = exported(torch_net, images, tmp_path / "net.onnx", dynamo=False, opset_version=OPSET, **axes)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch_net(images[:1])
    folded = sum(module.num_features for module in torch_net.modules() if isinstance(module, nn.BatchNorm2d))
    wanted = sum(parameter.numel() for parameter in torch_net.parameters()) - folded
    assert agree(path, image_size) == (wanted, counter.get_total_flops() // 2)
    assert (read(path).batch, read(path).layout, read(path).channels) == (batch, "NCHW", channels)
    with torch.no_grad():
        same(path, images, torch_net.double()(images.double()))


def test_the_other_exporter_and_weights_beside_the_file(tmp_path: Path) -> None:
    """torch.export's graph; its weights lie in a second file, which is missed when it is missing or cut short."""
    torch_net, images = built("mlp", 8), pixels(2, 1, 8, 8)
    path = exported(torch_net, images, tmp_path / "net.onnx", dynamo=True)
    if not list(tmp_path.glob("*.data")):  # older ones ask for it
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    assert agree(path, 8) == (2_176_010, 2_172_928)  # docs/counting.md
    assert read(path).weights_bytes >= 4 * 2_176_010
    with torch.no_grad():
        same(path, images, torch_net.double()(images.double()))
    beside = next(tmp_path.glob("*.data"))
    beside.write_bytes(beside.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"net\.onnx\.data ends before the values of"):
        read(path)
    beside.unlink()
    with pytest.raises(ValueError, match=r"expected a whole ONNX file, with the files it names beside it"):
        read(path)


def test_importing_imports_nothing_heavy() -> None:
    rooms = ("models.onnx.graph", "models.onnx.layers", "models.onnx.reference", "models.onnx.operators", "harness.runtimes")
    names = ", ".join(f"plumbline.{room}" for room in rooms)
    code = f"import sys, {names}; sys.exit(bool({{'torch', 'onnx', 'onnxruntime'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- the nodes that multiply ---------------------------------------------------------------------------------------

convolutions = st.fixed_dictionaries(
    {
        "groups": st.sampled_from([1, 3]),
        "outputs": st.integers(1, 3),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "automatic": st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
        "bias": st.booleans(),
        "size": st.integers(8, 13),
    }
)


def padding(c: dict[str, Any]) -> list[tuple[int, int]]:
    """Before and after each side, as TensorFlow's `SAME` is documented (tf.nn, "Notes on padding")."""
    found = []
    for axis in (0, 1):
        step, span = c["strides"][axis], c["dilations"][axis] * (c["kernel"][axis] - 1) + 1
        total = max(span - (c["size"] % step or step), 0)
        half = total // 2
        automatic = {"SAME_UPPER": (half, total - half), "SAME_LOWER": (total - half, half), "VALID": (0, 0)}
        found.append(automatic.get(c["automatic"], (c["pads"][axis], c["pads"][axis + 2])))
    return found


def attributes(c: dict[str, Any]) -> dict[str, Any]:
    given = {"pads": c["pads"]} if c["automatic"] == "NOTSET" else {"auto_pad": c["automatic"]}
    return {"kernel_shape": c["kernel"], "strides": c["strides"], **given}


@settings(deadline=None, max_examples=60)
@given(convolutions)
def test_any_convolution(save: Save, c: dict[str, Any]) -> None:
    """Also padded as TensorFlow does, more on one side than on the other."""
    if c["automatic"].startswith("SAME"):
        c = {**c, "dilations": (1, 1)}  # ONNX Runtime has no others
    outputs = c["outputs"] * c["groups"]
    constants = [numbered("w", outputs, 3 // c["groups"], *c["kernel"]), *([numbered("b", outputs)] if c["bias"] else [])]
    convolution = node("Conv", "x w b" if c["bias"] else "x w", group=c["groups"], dilations=c["dilations"], **attributes(c))
    path = save(net([convolution], constants, ("n", 3, "height", "width")))
    images = pixels(1, 3, c["size"], c["size"])
    (top, bottom), (left, right) = padding(c)
    w, b = (torch.tensor(numpy_helper.to_array(tensor)).double() for tensor in (constants * 2)[:2])
    padded = functional.pad(images.double(), (left, right, top, bottom))
    with FlopCounterMode(display=False) as counter:
        expected = functional.conv2d(padded, w, b if c["bias"] else None, c["strides"], 0, c["dilations"], c["groups"])
    assert agree(path, c["size"]) == (w.numel() + outputs * c["bias"], counter.get_total_flops() // 2)
    assert layers(path, c["size"])[0].fan_in == w[0].numel()
    same(path, images, expected)


@settings(deadline=None, max_examples=40)
@given(convolutions, st.integers(0, 1))
def test_any_transposed_convolution(save: Save, c: dict[str, Any], extra: int) -> None:
    step = c["strides"][0]
    pad, extra = min(c["pads"][0], 1), extra if step > 1 else 0
    assume(c["dilations"][0] * (min(c["kernel"]) - 1) >= 2 * pad)
    weight, bias = numbered("w", 3, c["outputs"], *c["kernel"]), numbered("b", c["outputs"] * c["groups"])
    shared = {"strides": [step] * 2, "dilations": [c["dilations"][0]] * 2, "output_padding": [extra] * 2, "group": c["groups"]}
    path = save(net([node("ConvTranspose", "x w b", pads=[pad] * 4, **shared)], [weight, bias], ("n", 3, "height", "width")))
    images = pixels(2, 3, c["size"], c["size"])
    w, b = (torch.tensor(numpy_helper.to_array(tensor)).double() for tensor in (weight, bias))
    with FlopCounterMode(display=False) as counter:
        expected = functional.conv_transpose2d(images.double(), w, b, step, pad, extra, c["groups"], c["dilations"][0])
    assert agree(path, c["size"]) == (w.numel() + b.numel(), counter.get_total_flops() // 2 // len(images))
    same(path, images, expected)


@settings(deadline=None, max_examples=60)
@given(convolutions, st.booleans(), st.booleans(), st.sampled_from(["MaxPool", "AveragePool"]))
def test_any_pooling(save: Save, c: dict[str, Any], ceil: bool, border: bool, op: str) -> None:
    """The reference's own pooling, against torch's and ONNX Runtime's; it multiplies nothing."""
    c = {**c, "dilations": (1, 1), "pads": c["pads"][:2] * 2}
    assume(all(2 * pad <= length for pad, length in zip(c["pads"], c["kernel"])))  # torch has no others
    more: dict[str, Any] = {"count_include_pad": int(border)} if op == "AveragePool" else {}
    path = save(net([node(op, "x", ceil_mode=int(ceil), **more, **attributes(c))], shape=("n", 3, "height", "width")))
    images = pixels(2, 3, c["size"], c["size"])
    assert agree(path, c["size"]) == (0, 0)
    exact = torch.from_numpy(reference(path, images.numpy()))
    if c["automatic"] == "NOTSET":
        shared = {"kernel_size": c["kernel"], "stride": c["strides"], "padding": c["pads"][:2], "ceil_mode": ceil}
        if op == "AveragePool":
            expected = functional.avg_pool2d(images.double(), **shared, count_include_pad=border)
        else:
            expected = functional.max_pool2d(images.double(), **shared)
        torch.testing.assert_close(exact, expected)
    # before 1.24 ONNX Runtime is wrong with ceil_mode; it has no negative padding, which a stride beyond the kernel asks for
    if not ceil and (c["automatic"] == "NOTSET" or all(span >= step for span, step in zip(c["kernel"], c["strides"]))):
        torch.testing.assert_close(run(path, images).double(), exact, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 7), st.integers(1, 6), st.sampled_from(["right", "left", "stack", "vector", "images"]))
def test_any_matrix_product(save: Save, size: int, width: int, side: str) -> None:
    """Broadcast, from either side, with a vector, and of images with images."""
    shapes = {"right": (size, width), "left": (width, size), "stack": (4, 1, 3, size, width), "vector": (size,)}
    inputs = {"left": "w x", "images": "x x"}.get(side, "x w")
    path = save(net([node("MatMul", inputs)], [] if side == "images" else [numbered("w", *shapes[side])], (2, 3, size, size)))
    a, b = ((2, 3, size, size) if name == "x" else shapes[side] for name in inputs.split())
    found = np.matmul(np.ones(a), np.ones(b))
    assert agree(path, size) == (0 if side == "images" else np.prod(shapes[side]), found.size * size / 2)
    assert layers(path, size)[0].fan_in == size


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 7), st.integers(1, 5), st.booleans(), st.booleans(), st.sampled_from([None, "row", "full"]))
def test_any_gemm(save: Save, size: int, width: int, left: bool, right: bool, bias: str | None) -> None:
    a = (3 * size, size) if left else (size, 3 * size)
    constants = [constant("shape", a), numbered("w", *((width, 3 * size) if right else (3 * size, width)))]
    if bias:
        constants.append(numbered("b", *((width,) if bias == "row" else (size, width))))
    gemm = node("Gemm", "rows w b" if bias else "rows w", transA=int(left), transB=int(right), alpha=0.5, beta=2.0)
    path = save(net([node("Reshape", "x shape", "rows"), gemm], constants, (1, 3, size, size)))
    held = 3 * size * width + {None: 0, "row": width, "full": size * width}[bias]
    assert agree(path, size) == (held, size * 3 * size * width)
    assert layers(path, size)[0].fan_in == 3 * size
    image = pixels(1, 3, size, size)
    rows = image.double().reshape(a)
    w = torch.tensor(numpy_helper.to_array(constants[1])).double()
    expected = 0.5 * (rows.T if left else rows) @ (w.T if right else w)
    if bias:
        expected += 2 * torch.tensor(numpy_helper.to_array(constants[2]))
    torch.testing.assert_close(run(path, image).double(), expected, rtol=1e-4, atol=1e-4)


def test_einsum_and_attention(save: Save) -> None:
    path = save(net([node("Einsum", "x w", equation="nchw, ck -> nkhw")], [numbered("w", 3, 5)]))
    assert agree(path, 8) == (15, 15 * 64)
    assert layers(path, 8)[0].fan_in == 3
    side_by_side: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": 2}
    for shape, heads in (((0, 3, 8, 8), {}), ((0, 24, 8), side_by_side)):
        nodes = [node("Reshape", "x shape", "q"), node("Attention", "q q q", **heads)]
        path = save(net(nodes, [constant("shape", shape)], opset=23, ir_version=10))
        with FlopCounterMode(display=False) as counter:
            q = torch.empty(1, *((2, 24, 4) if heads else (3, 8, 8)), device="meta")
            functional.scaled_dot_product_attention(q, q, q)
        assert agree(path, 8) == (0, counter.get_total_flops() // 2)


# -- what TensorFlow writes ----------------------------------------------------------------------------------------


def test_a_net_from_tensorflow(save: Save) -> None:
    """As tf2onnx writes it: NHWC outside, transposed at once, padded unevenly, scale and shift in nodes of their own."""
    constants = [
        numbered("w1", 4, 3, 3, 3), numbered("w2", 4, 1, 3, 3), numbered("scale", 1, 4, 1, 1), numbered("shift", 1, 4, 1, 1),
        numbered("w3", 4, 10), numbered("b3", 10), constant("axes", np.array([2, 3])), constant("six", np.float32(6)),
        constant("zero", np.float32(0)),
    ]  # fmt: skip
    nodes = [
        node("Transpose", "x", "nchw", perm=[0, 3, 1, 2]),
        node("Conv", "nchw w1", "c1", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Mul", "c1 scale", "m1"), node("Add", "m1 shift", "a1"), node("Clip", "a1 zero six", "r1"),
        node("Conv", "r1 w2", "c2", pads=[0, 0, 1, 1], strides=[2, 2], group=4),
        node("ReduceMean", "c2", "mean", axes=[2, 3], keepdims=0), node("MatMul", "mean w3", "product"),
        node("Add", "product b3"),
    ]  # fmt: skip
    path = save(net(nodes, constants, (None, 9, 9, 3)))
    graph = read(path)
    assert (graph.layout, graph.channels, graph.image_size, graph.batch) == ("NHWC", 3, 9, None)
    assert agree(path, 9) == (108 + 36 + 8 + 50, 108 * 25 + 36 * 4 + 40)
    assert numbers(path) == {"parameters": 202, "scalars": 2, "unused": 2}
    assert [layer.name for layer in layers(path, 9)] == ["conv_c1", "mul_m1", "add_a1", "conv_c2", "matmul_product", "add_y"]

    images = pixels(3, 3, 9, 9)
    w1, w2, scale, shift, w3, b3 = (torch.tensor(numpy_helper.to_array(tensor)).double() for tensor in constants[:6])
    first = functional.conv2d(functional.pad(images.double(), (1, 1, 1, 1)), w1, stride=2)
    second = functional.conv2d(functional.pad((first * scale + shift).clip(0, 6), (0, 1, 0, 1)), w2, stride=2, groups=4)
    same(path, images, second.mean((2, 3)) @ w3 + b3)


# -- parameters ----------------------------------------------------------------------------------------------------


def test_every_stored_number_is_something(save: Save) -> None:
    """Batch norm's statistics, scalars, shapes and what nothing reads are no parameters; tied weights are counted once."""
    constants = [
        numbered("w", 3, 3, 1, 1), numbered("g", 3), numbered("b", 3), numbered("mean", 3), numbered("half", 1),
        constant("var", np.ones(3, np.float32)), constant("to", np.array([0, 3, 8, 8])), numbered("position", 1, 3, 8, 8),
        numbered("nobody", 7), numbered("slope", 1, 1, 1),
    ]  # fmt: skip
    nodes = [
        node("Conv", "x w", "c1"), node("Identity", "w", "tied"), node("Conv", "c1 tied", "c2"),
        node("Identity", "mean", "same_mean"), node("BatchNormalization", "c2 g b same_mean var", "n"),
        node("Mul", "n half", "h"), node("Add", "h position", "p"), node("Reshape", "p to", "r"), node("PRelu", "r slope", "s"),
        node("Constant", "", "shift", value=numbered("", 3, 1, 1)), node("Add", "s shift", "t"),
        node("Constant", "", "two", value_float=2.0), node("Constant", "", "many", value_floats=[1.0] * 8),
        node("Mul", "t two", "u"), node("Add", "u many"),
    ]  # fmt: skip
    path = save(net(nodes, constants))
    assert agree(path, 8) == (9 + 6 + 192 + 1 + 3 + 8, 2 * 9 * 64)
    assert numbers(path) == {
        "parameters": 219, "running statistics": 6, "scalars": 2, "shapes and indices": 4, "unused": 7,
    }  # fmt: skip
    assert {layer.name: layer.parameters for layer in layers(path, 8)} == {
        "conv_c1": 9, "conv_c2": 0, "batchnormalization_n": 6, "add_p": 192, "prelu_s": 1, "add_t": 3, "add_y": 8,
    }  # fmt: skip
    assert read(path).weights_bytes == 4 * (219 + 6 + 2 + 7) + 8 * 4


@pytest.mark.parametrize("maker", ["ConstantOfShape", "Expand", "through a cast"])
def test_weights_that_nodes_make_are_parameters(maker: str, save: Save) -> None:
    """As of nets whose initialiser is zeros or ones: the file stores a shape, and what is read is four kernels of 3 x 3."""
    shape = constant("shape", np.array([4, 3, 3, 3], np.int64))
    makers = {
        "ConstantOfShape": [node("ConstantOfShape", "shape", "kernel", value=constant("v", np.full(1, 0.5, np.float32)))],
        "Expand": [node("Expand", "one shape", "kernel")],
        "through a cast": [
            node("ConstantOfShape", "shape", "whole", value=constant("v", np.ones(1, np.int64))),
            node("Cast", "whole", "kernel", to=TensorProto.FLOAT),
        ],
    }
    one = constant("one", np.ones(1, np.float32))
    nodes = [*makers[maker], node("Conv", "x kernel", "z"), node("Conv", "x kernel", "w"), node("Add", "z w", "y")]
    assert agree(save(net(nodes, [shape, one])), 8) == (4 * 27, 2 * 4 * 27 * 36)


def test_constants_that_nothing_multiplies_are_no_parameters(save: Save) -> None:
    nodes = [
        node("ConstantOfShape", "shape", "mask", value=constant("v", np.full(1, 0.5, np.float32))),
        node("Conv", "x kernel", "z"),
        node("Add", "z mask", "y"),
    ]
    shape = constant("shape", np.array([1, 4, 6, 6], np.int64))
    assert agree(save(net(nodes, [shape, numbered("kernel", 4, 3, 3, 3)])), 8)[0] == 4 * 27


def test_weights_that_follow_from_the_pictures_shape_are_refused_by_name(save: Save) -> None:
    nodes = [
        node("Shape", "x", "sizes", start=1),
        node("ConstantOfShape", "sizes", "ones", value=constant("v", np.ones(1, np.float32))),
        node("Unsqueeze", "ones axis", "kernel"),
        node("Conv", "x kernel"),
    ]
    path = save(net(nodes, [constant("axis", np.array([0], np.int64))]))
    with pytest.raises(ValueError, match=r"node 'unsqueeze_kernel', Unsqueeze: .*follows from the images'"):
        numbers(path)


def test_the_same_numbers_under_any_name_and_in_functions_and_branches(save: Save) -> None:
    """Nodes without names get some; a function's nodes count as if they stood in the graph; a branch may hold a shift."""
    domain = helper.make_opsetid("here", 1)
    twice = [helper.make_node("Conv", ["a", "w"], ["b"]), helper.make_node("Conv", ["b", "w"], ["c"])]
    function = helper.make_function("here", "Twice", ["a", "w"], ["c"], twice, [helper.make_opsetid("", OPSET)])
    branch = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    yes = helper.make_graph([node("Add", "f inner", "branch")], "yes", [], [branch], [numbered("inner", 1, 3, 1, 1)])
    no = helper.make_graph([node("Add", "f outer", "branch")], "no", [], [branch])
    nodes = [
        helper.make_node("Twice", ["x", "w"], ["f"], domain="here"),
        helper.make_node("If", ["always"], ["y"], then_branch=yes, else_branch=no),
    ]
    constants = [numbered("w", 3, 3, 1, 1), numbered("outer", 1, 3, 1, 1), constant("always", np.array(True))]
    model = net(nodes, constants, opset_imports=[helper.make_opsetid("", OPSET), domain], functions=[function])
    path = save(model)
    assert agree(path, 8) == (9 + 3 + 3, 2 * 9 * 64)
    assert len({layer.name for layer in layers(path, 8)}) == 3
    assert sum(numbers(path).values()) == 16


def quantised(c: str) -> tuple[list[onnx.NodeProto], list[TensorProto], int]:
    """A convolution by 36 numbers and a bias of 4 in the ways in which ONNX writes quantised ones, and their bytes."""
    scale, zero = constant("s", np.float32(0.05)), constant("z", np.uint8(128))
    weight = numbered("w", 4, 3, 1, 1, dtype="uint8"), numbered("m", 4, 6, dtype="uint8"), numbered("b", 4, dtype="int32")
    scales = [constant("ws", np.full(4, 0.02, np.float32)), constant("wz", np.full(4, 50, np.uint8))]
    whole = [scale, zero, *weight, *scales, constant("bs", np.float32(0.001)), constant("rows", np.array([-1, 4]))]
    if c == "QDQ":
        nodes = [
            node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
            node("DequantizeLinear", "w ws wz", "dw", axis=0), node("DequantizeLinear", "b bs", "db"),
            node("Conv", "d dw db", "c"), node("ReduceMean", "c", "r", axes=[2, 3], keepdims=0),
            node("DequantizeLinear", "m s z", "dm"), node("MatMul", "r dm"),
        ]  # fmt: skip
    elif c == "QOperator":
        nodes = [
            node("QuantizeLinear", "x s z", "q"), node("QLinearConv", "q s z w ws wz s z b", "c"),
            node("DequantizeLinear", "c s z", "d"), node("ReduceMean", "d", "r", axes=[2, 3], keepdims=0),
            node("QuantizeLinear", "r s z", "rq"), node("QLinearMatMul", "rq s z m s z s z", "p"),
            node("DequantizeLinear", "p s z"),
        ]  # fmt: skip
    else:
        nodes = [
            node("DynamicQuantizeLinear", "x", "q qs qz"), node("ConvInteger", "q w qz z", "c"), node("Cast", "c", "f", to=1),
            node("Cast", "b", "fb", to=1), node("Mul", "qs ss", "scale"), node("Mul", "f scale", "v"),
            node("ReduceMean", "v", "r", axes=[2, 3], keepdims=0), node("Add", "r fb", "a"),
            node("DynamicQuantizeLinear", "a", "aq as az"), node("MatMulInteger", "aq m az z", "p"), node("Cast", "p", "y", to=1),
        ]  # fmt: skip
        whole[-2] = constant("ss", np.full((1, 4, 1, 1), 0.02, np.float32))
    used = {name for each in nodes for name in each.input}
    held = [tensor for tensor in whole if tensor.name in used]
    return nodes, held, sum(numpy_helper.to_array(tensor).nbytes for tensor in held)


@pytest.mark.parametrize("way", ["QDQ", "QOperator", "dynamic"])
def test_quantised_weights_are_parameters_and_scales_are_not(way: str, save: Save) -> None:
    nodes, constants, size = quantised(way)
    path = save(net(nodes, constants))
    biases = 0 if way == "dynamic" else 4  # an integer that is added after a cast is not known to be trained
    assert agree(path, 8) == (12 + 24 + biases, 12 * 64 + 24)
    assert set(numbers(path)) - {"parameters", "quantisation", "shapes and indices"} == set()
    assert read(path).weights_bytes == size
    images = pixels(1, 3, 8, 8)
    exact = torch.from_numpy(reference(path, images.numpy()))
    # one quantum of the output; of the dynamic one, whose integers are given as they are, one in each of its four inputs
    quantum = {"QDQ": 1e-4, "QOperator": 0.05, "dynamic": 4 * 128}[way]
    assert float(exact.abs().max()) > 10 * quantum
    assert float((run(path, images) - exact).abs().max()) <= quantum * 1.001


def test_onnx_runtimes_own_quantisation(tmp_path: Path) -> None:
    """Dynamic and static quantisation change what numbers are stored, not how many are trained nor what is multiplied."""
    from onnxruntime import quantization

    path = exported(built("mlp", 8), pixels(1, 1, 8, 8), tmp_path / "net.onnx", dynamo=False, opset_version=OPSET)
    counted = agree(path, 8)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        batches = iter([{"x": pixels(1, 1, 8, 8).numpy()} for _ in range(4)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    quantization.quantize_static(path, tmp_path / "static.onnx", Reader(), quant_format=quantization.QuantFormat.QDQ)
    quantization.quantize_dynamic(path, tmp_path / "dynamic.onnx", per_channel=True)
    for name in ("static", "dynamic"):
        assert agree(tmp_path / f"{name}.onnx", 8) == counted
        assert read(tmp_path / f"{name}.onnx").weights_bytes < 0.3 * read(path).weights_bytes


# -- batches and sizes ---------------------------------------------------------------------------------------------


def pooled(batch: int | str, size: int | str = 8) -> onnx.ModelProto:
    """A convolution and a head; the constants are made by a product that no image takes part in."""
    constants = [numbered("w", 5, 3, 3, 3), numbered("left", 5, 2), numbered("right", 2, 4)]
    nodes = [
        node("Conv", "x w", "c"), node("MatMul", "left right", "head"),
        node("ReduceMean", "c", "r", axes=[2, 3], keepdims=0), node("MatMul", "r head"),
    ]  # fmt: skip
    return net(nodes, constants, (batch, 3, size, size))


def test_figures_are_for_one_image_whatever_the_batch(tmp_path: Path) -> None:
    for batch in (1, 4, "n"):
        onnx.save(pooled(batch), tmp_path / f"{batch}.onnx")
    counted = {batch: agree(tmp_path / f"{batch}.onnx", 8) for batch in (1, 4, "n")}
    assert counted[1] == counted[4] == counted["n"] == (135 + 10 + 8, 135 * 36 + 40 + 20)
    images = pixels(6, 3, 8, 8)
    whole = reference(tmp_path / "n.onnx", images.numpy())
    np.testing.assert_allclose(whole, reference(tmp_path / "4.onnx", images.numpy()), rtol=1e-12)
    torch.testing.assert_close(run(tmp_path / "4.onnx", images[:4]).double(), torch.from_numpy(whole[:4]), rtol=1e-4, atol=1e-4)
    with pytest.raises(Unsupported, match=r"\(4, 3, 8, 8\).*got \(6, 3, 8, 8\).*takes a batch of 4 and no other"):
        run(tmp_path / "4.onnx", images)


def test_work_that_is_no_multiple_of_the_batch_is_not_divided(save: Save) -> None:
    nodes = [node("ReduceSum", "x axes", "sum"), node("Conv", "sum w")]
    path = save(net(nodes, [constant("axes", np.array([0])), numbered("w", 1, 3, 3, 3)], (5, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"node 'conv_y', Conv: its 972 MACs are not 5 times those of one image"):
        layers(path, 8)
    with pytest.raises(ValueError, match=r"node 'conv_y', Conv: its 972 MACs are not 5 times those of one image"):
        executed(path, 8)


def test_an_open_size_is_set_and_a_fixed_one_kept(save: Save) -> None:
    path = save(pooled("n", "side"))
    assert read(path).image_size is None
    assert [agree(path, size)[1] for size in (8, 20)] == [135 * 36 + 60, 135 * 18 * 18 + 60]
    assert run(path, pixels(2, 3, 12, 12)).shape == (2, 4)
    path = save(pooled("n"))
    for call in (layers, executed):
        with pytest.raises(ValueError, match="expected images of 20 pixels, it takes 8"):
            call(path, 20)
    with pytest.raises(Unsupported, match="the file takes other images"):
        run(path, pixels(2, 3, 12, 12))


def test_shapes_that_the_graph_computes(save: Save) -> None:
    """Windows of half the image, their number computed by division: ONNX's own inference stops there."""
    constants = [
        constant("two", np.array(2)),
        constant("third", np.array(2)),
        constant("rest", np.array([-1])),
        numbered("w", 4, 6),
    ]
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape third", "side"), node("Div", "side two", "half"),
        node("Cast", "half", "float", to=1), node("Ceil", "float", "whole"), node("Cast", "whole", "int", to=7),
        node("Constant", "", "axis", value_ints=[0]), node("Unsqueeze", "int axis", "last"),
        node("Concat", "rest last", "to", axis=0), node("Reshape", "x to", "windows"), node("MatMul", "windows w"),
    ]  # fmt: skip
    path = save(net(nodes, constants, ("n", 3, "side", "side")))
    assert agree(path, 8) == (24, 48 * 24)
    constants[3] = numbered("w", 5, 6)
    with pytest.raises(ValueError, match="its shapes do not fit images of 8 pixels"):
        layers(save(net(nodes, constants, ("n", 3, "side", "side"))), 8)


def test_a_shape_that_depends_on_the_pixels_is_named(save: Save) -> None:
    nodes = [node("NonZero", "x", "places"), node("Cast", "places", "f", to=1), node("MatMul", "w f")]
    path = save(net(nodes, [numbered("w", 5, 4)]))
    with pytest.raises(ValueError, match=r"node 'matmul_y', MatMul: the shape of '\w+' cannot be told without executing it"):
        layers(path, 8)


# -- what cannot be counted or read --------------------------------------------------------------------------------


def test_a_counter_that_is_wrong_is_seen(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the two share no shape and no formula, so that a mistake in one shows by node."""
    path = save(pooled(1))
    right = counting.product
    monkeypatch.setattr(counting, "product", lambda node, shape: (right(node, shape)[0] + (node.op_type == "Conv"), 1))
    found = {layer.name: layer.macs for layer in layers(path, 8) if layer.macs}
    assert {name for name, macs in executed(path, 8).items() if macs != found[name]} == {"conv_c"}


@pytest.mark.parametrize(
    ("nodes", "domain", "says"),
    [
        ([node("LSTM", "rows w r", "- y", hidden_size=2)], "", "node 'lstm_y', LSTM: LSTM is not counted here"),
        ([node("Det", "x")], "", "node 'det_y', Det: Det is not counted"),
        ([node("FusedConv", "x w", domain="com.microsoft")], "com.microsoft", "com.microsoft:FusedConv is not counted here"),
        ([node("Einsum", "x", equation="nchw->nhwc")], "", "'nchw->nhwc' is not counted here"),
        ([node("Einsum", "x x", equation="nchw,nchw->nchw")], "", "'nchw,nchw->nchw' is not counted here"),
    ],
)  # fmt: skip
def test_what_is_not_counted_is_an_error_and_never_nothing(
    nodes: list[onnx.NodeProto], domain: str, says: str, save: Save
) -> None:
    constants = [numbered("w", 3, 3, 1, 1), numbered("r", 1, 8, 2), constant("to", np.array([24, 8, 1]))]
    imports = [helper.make_opsetid("", OPSET), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path = save(net([node("Reshape", "x to", "rows"), *nodes], constants, opset_imports=imports))
    with pytest.raises(ValueError, match=says):
        layers(path, 8)


def test_products_in_branches_are_an_error(save: Save) -> None:
    branch = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    graphs = {name: helper.make_graph([node("Conv", "x w", "branch")], name, [], [branch]) for name in ("yes", "no")}
    choice = node("If", "always", then_branch=graphs["yes"], else_branch=graphs["no"])
    path = save(net([choice], [constant("always", np.array(True)), numbered("w", 3, 3, 1, 1)]))
    for call in (layers, executed):
        with pytest.raises(ValueError, match="node 'if_y', If: Conv, node 'conv_branch' of its subgraph, is not counted here"):
            call(path, 8)


def sparse() -> onnx.ModelProto:
    model = net([node("Add", "x s")])
    values = numbered("s", 2)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, constant("at", np.array([0, 3])), [8]))
    return model


def with_inputs(*shapes: Sequence[int]) -> onnx.ModelProto:
    model = net([node("Identity", "x")])
    del model.graph.input[:]
    for index, shape in enumerate(shapes):
        model.graph.input.append(helper.make_tensor_value_info("x" if index == 0 else f"x{index}", TensorProto.FLOAT, shape))
    return model


RELU = [node("Relu", "x")]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (with_inputs((1, 3, 8, 8), (1, 4)), "expected one input, the images, got 2: x, x1"),
        (net(RELU, shape=(1, 3, 8)), r"expected one input of images, 4-D and .*; got x, FLOAT of shape \[1, 3, 8\]"),
        (net([node("Cast", "x", to=1)], kind=TensorProto.UINT8), r"got x, UINT8 of shape \[None, 3, 8, 8\]"),
        (net(RELU, shape=(1, 3, 8, 9)), r"expected square images .*got \[1, 3, 8, 9\]\. Export"),
        (net(RELU, shape=("n", 8, 9, 3)), r"expected square images .*got \[None, 8, 9, 3\]\. Export"),
        (net(RELU, shape=(1, 4, 8, 8)), "expected square images of 1 or 3 channels"),
        (net(RELU, shape=("n", "c", "h", "w")), "expected square images of 1 or 3 channels"),
        (net(RELU, shape=(1, 3, 3, 3)), "which can be read as either"),
        (sparse(), "got sparse ones"),
        (net(RELU, ir_version=99), "expected a whole ONNX file.*ir_version.*Export it again, or update onnx"),
        (net([node("Rellu", "x")]), "expected a whole ONNX file.*Rellu"),
    ],
)
def test_a_file_that_takes_no_images_says_what_was_wanted(model: onnx.ModelProto, says: str, save: Save) -> None:
    with pytest.raises(ValueError, match=f"net.onnx: .*{says}"):
        read(save(model))


def test_an_input_of_unknown_shape(save: Save) -> None:
    model = net(RELU)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ValueError, match=r"expected a whole ONNX file.*shape"):
        read(save(model))


def test_a_broken_file(save: Save, tmp_path: Path) -> None:
    whole = save(pooled(1)).read_bytes()
    path = tmp_path / "net.onnx"
    for broken in (b"", b"no ONNX file at all", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"net\.onnx: expected a whole ONNX file"):
            read(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"net\.onnx: expected an ONNX file, there is none"):
        read(path)


def test_reading_a_file_holds_its_numbers_no_more_than_twice(tmp_path: Path) -> None:
    """As bytes and as a message: a runtime that gets the file has the same process, and perhaps a limit on its memory."""
    weights = numpy_helper.from_array(np.ones((1, 1, 4096, 4096), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4096, 4096]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "sum", ends[:1], ends[1:], [weights])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), path)
    code = (
        "import sys, onnx; from pathlib import Path; from plumbline.harness.probe.memory import growth; "
        "from plumbline.models.onnx.graph import read; print(growth(lambda: read(Path(sys.argv[1])))[0])"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 2.2 * path.stat().st_size


# -- execution -----------------------------------------------------------------------------------------------------


def test_types_and_several_outputs(save: Save) -> None:
    """Half precision in, a tuple out; the reference widens all of it, whatever type a node asks for."""
    nodes = [
        node("Conv", "x w", "c"), node("Cast", "c", "wide", to=1), node("Shape", "wide", "shape"),
        node("ConstantOfShape", "shape", "zeros"), node("Add", "wide zeros", "y"), node("GlobalAveragePool", "wide", "z"),
    ]  # fmt: skip
    path = save(net(nodes, [numbered("w", 4, 3, 1, 1, dtype="float16")], kind=TensorProto.FLOAT16, outputs="y z"))
    assert read(path).element_type == "float16"
    assert read(path).weights_bytes == 24
    runtime, images = session(path), pixels(2, 3, 8, 8)
    placed = runtime.place((images,))
    assert placed.dtype == np.float16
    fetched, exact = runtime.fetch(runtime.run(placed)), reference(path, images.numpy())
    assert [output.shape for output in exact] == [(2, 4, 8, 8), (2, 4, 1, 1)]
    for ours, theirs in zip(fetched, exact):
        assert ours.dtype == torch.float32
        assert theirs.dtype == np.float64
        torch.testing.assert_close(ours.double(), torch.from_numpy(theirs), rtol=0.01, atol=0.01)


def test_a_reference_that_is_no_float64_is_refused(save: Save) -> None:
    path = save(net([node("RandomUniform", "", "noise", shape=[2]), *RELU], outputs="y"))
    with pytest.raises(ValueError, match=r"'noise' is float32; onnx's reference is no float64 there"):
        reference(path, pixels(1, 3, 8, 8).numpy())


def held(path: Path, images: Any) -> int:
    """Bytes that the reference holds at once."""
    reference(path, images)  # what is imported or cached the first time stays
    tracemalloc.start()
    try:
        reference(path, images)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_reference_holds_what_is_still_read_and_no_more(save: Save) -> None:
    images = pixels(1, 3, 64, 64).numpy()
    one = 8 * images.size
    chain = [node("Relu" if index % 2 else "Neg", f"t{index}" if index else "x", f"t{index + 1}") for index in range(24)]
    assert held(save(net(chain, shape=(1, 3, 64, 64), outputs="t24")), images) < 8 * one + 100_000
    kernel, last = numbered("w", 3, 3, 5, 5), node("GlobalAveragePool", "c")
    assert held(save(net([node("Conv", "x w", "c"), last], [kernel], (1, 3, 64, 64))), images) < 8 * one + 100_000


def test_what_only_a_subgraph_reads_is_there_for_it(save: Save) -> None:
    result = helper.make_tensor_value_info("branch", TensorProto.FLOAT, [1, 3, 8, 8])
    inside = helper.make_graph([node("Add", "early x", "branch")], "yes", [], [result])
    outer = helper.make_graph([node("Identity", "early", "branch")], "no", [], [result])
    images = pixels(1, 3, 8, 8)
    exact = images.double()
    for always, expected in ((True, 3 * exact), (False, 2 * exact)):
        nodes = [node("Add", "x x", "early"), node("Neg", "x", "n"), node("Neg", "n", "m")]
        choice = helper.make_node("If", ["always"], ["chosen"], then_branch=inside, else_branch=outer)
        model = net([*nodes, choice, node("Add", "chosen m"), node("Relu", "m", "z")], [constant("always", np.array(always))])
        np.testing.assert_array_equal(reference(save(model), images.numpy()), (expected + exact).numpy())


def test_a_convolution_of_what_lies_behind_the_picture(save: Save) -> None:
    """Padded by more than its kernel."""
    path = save(net([node("Conv", "x w b", pads=[0, 4, 5, 1])], [numbered("w", 2, 3, 3, 3), numbered("b", 2)]))
    images = pixels(2, 3, 8, 8)
    weight, bias = (torch.from_numpy(random(*given)).float().double() for given in (("w", 2, 3, 3, 3), ("b", 2)))
    same(path, images, functional.conv2d(functional.pad(images.double(), (4, 1, 0, 5)), weight, bias))


def test_an_output_without_rows_is_refused(save: Save) -> None:
    path = save(net([node("ReduceSum", "x axes", keepdims=0)], [constant("axes", np.array([0]))]))
    with pytest.raises(ValueError, match=r"expected outputs with one row an image, got 'y' of shape \(3, 8, 8\)"):
        reference(path, pixels(2, 3, 8, 8).numpy())


def test_a_session_is_what_was_asked_for(save: Save, recwarn: pytest.WarningsRecorder) -> None:
    path, before = save(pooled("n")), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert session(path).read_back()["threads"] == threads
    finally:
        torch.set_num_threads(before)
    assert session(path).weights_bytes() == 4 * (135 + 10 + 8)
    asked = {"graph": "basic", "arena": "off", "spinning": "off"}
    came = session(path, **asked).read_back()
    assert {name: came[name] for name in asked} == asked
    assert (session(path).keeps_memory is None, session(path, **asked).keeps_memory) == (False, None)
    with pytest.raises(NotAsAsked, match=r"expected a session with .*CUDAExecutionProvider.*got \('CPUExecutionProvider'"):
        session(path, target="cuda")


def test_a_file_that_onnx_runtime_does_not_know(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    shutil.copy(save(net([node("Foo", "x", domain="far")], opset_imports=[helper.make_opsetid("far", 1)])), path)
    with pytest.raises(Unsupported, match=r"net\.onnx: ONNX Runtime .* cannot load it: .*Foo.*export for older ones"):
        session(path)
