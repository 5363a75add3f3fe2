"""The closed formulas, against torch's own arithmetic: layer by layer and in total, for every model and for random shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenetv2, mobilenetv3
from torchvision.models import vgg as torchvision_vgg
from torchvision.models.resnet import BasicBlock, Bottleneck

from plumbline import models
from plumbline.fastpath import without_attention_fast_path
from plumbline.models import layers
from plumbline.models.architectures import alexnet, mixer, mlp, mobilenet, resnet, resnet_cifar, vgg, vit, vit_cifar
from plumbline.models.architectures.blocks import Attention
from plumbline.models.counting.counts import count, torch_layers
from plumbline.models.data.datasets import DATASETS
from plumbline.models.layers import Layer
from plumbline.models.registry import REGISTRY
from tests.records import replace

# Sizes that no round number hides behind, and options.
MODELS = [
    ("mlp+depth=7+width=33", 14), ("small_cnn+width=5", 29), ("alexnet_cifar", 57), ("alexnet_cifar_residual", 19),
    ("vgg16", 32), ("vgg16", 45), ("resnet8", 31), ("resnet18", 97), ("resnet50", 112), ("resnet50", 161),
    ("squeezenet1_1", 97), ("mobilenetv1_025", 161), ("mobilenet_v2", 99), ("mobilenet_v3_large", 33),
    ("mixer_s16+data=cifar10", 224), ("mixer_m16+data=cifar10", 224), ("mixer_b16+data=imagenet", 32),
    ("vit_cifar+patch=5+heads=3+key=7", 33), ("vit_b_16", 48), ("vit_tiny", 48),
]  # fmt: skip


def _usual(name: str) -> list[int]:
    model = models.find(name)
    return sorted({model.image_size, *(DATASETS[data].image_size for data in model.data)} & set(model.sizes))


WITHOUT = ["ssdlite320_mobilenet_v3_large"]  # no formula: which boxes a detector works on depends on its numbers
MODELS += [(name, size) for name in REGISTRY.names() if name not in WITHOUT for size in _usual(name)]

some = settings(deadline=None, max_examples=20)


@pytest.mark.parametrize(("reference", "image_size"), MODELS)
def test_three_routes_agree(reference: str, image_size: int) -> None:
    """Formula and torch's counter give the same integers, and what ptflops counts beyond is explained layer by layer."""
    found = count(models.find(reference), image_size)
    assert found["formula"] == found["flop_counter"]
    assert found["differing"] == {}
    assert found["unexplained"] == {}
    assert found["ptflops"]["macs"] - found["macs"] == sum(found["explained"].values())


@pytest.mark.parametrize(("reference", "image_size"), MODELS)
def test_every_layer_has_its_torch_twin(reference: str, image_size: int) -> None:
    """Names, parameters and MACs of each layer are those of the module of that name, and no module is left out."""
    model = models.find(reference)
    same_as_torch(model.build, model.layers, **model.arguments(image_size))


def same_as_torch(
    build: Callable[..., nn.Module] | None, formula: Callable[..., Iterable[Layer]] | None, **arguments: Any
) -> None:
    """A builder and a formula describe the same net."""
    assert build is not None
    assert formula is not None
    with torch.device("meta"):
        net = build(**arguments).eval()
        pictures = torch.empty(1, arguments["channels"], arguments["image_size"], arguments["image_size"])
    assert_twins(formula(**arguments), net, pictures)


def assert_twins(formula: Iterable[Layer], net: nn.Module, x: Tensor) -> None:
    """The formula's layers are the modules of `net` that hold parameters or multiply, with the same integers."""
    found, tensors, ours = torch_layers(net, (x,)), dict(net.named_parameters()), dict[str, list[int]]()
    formula = list(formula)
    assert len({layer.name for layer in formula}) == len(formula)
    for layer in formula:
        owner = layer.name
        if owner not in found:  # a parameter that the layer's module holds beside what it does itself
            assert [layer.parameters, layer.macs] == [tensors[layer.name].numel(), 0], layer.name
            owner = layer.name.rpartition(".")[0]
        elif layer.macs:
            assert layer.fan_in == layer.macs // found[owner].outputs, layer.name
        own = ours.setdefault(owner, [0, 0])
        own[0] += layer.parameters
        own[1] += layer.macs
    theirs = {name: [module.parameters, module.macs] for name, module in found.items() if module.parameters or module.macs}
    assert ours == theirs
    with without_attention_fast_path(), FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    assert 2 * layers.macs(formula) == counter.get_total_flops()
    assert layers.parameters(formula) == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("reference", "image_size", "parameters", "macs"),
    [
        ("mlp+data=mnist", 28, 2_913_290, 2_910_208),  # mnist-mlp 1.4, 1.5 (the report calls the MACs FLOPs)
        ("resnet50", 224, 25_557_032, 4_089_184_256),  # edge-limits table 6: 4.09e9
        ("resnet20", 32, 269_722, 40_551_040),  # He et al. 2015, table 6: 0.27 M
        ("resnet56", 32, 853_018, 125_485_696),  # He et al. 2015, table 6: 0.85 M
        ("squeezenet1_1", 224, 1_235_496, 349_151_936),  # torchvision's documentation: 1.2 M, 0.35 GMAC
        ("mixer_s16", 224, 18_528_264, 3_776_958_464),  # Tolstikhin et al., table 1: 18 M
        ("mixer_s16", 32, 17_232_426, 77_075_456),  # mixer-nano table 9: 17.2e6
    ],
)
def test_published_counts(reference: str, image_size: int, parameters: int, macs: int) -> None:
    formula = models.find(reference).formula(image_size)
    assert formula is not None
    assert (layers.parameters(formula), layers.macs(formula)) == (parameters, macs)


# -- single layers ---------------------------------------------------------------------------------------------------

convolutions = st.fixed_dictionaries(
    {
        "inputs": st.integers(1, 6),
        "outputs": st.integers(1, 6),
        "groups": st.integers(1, 4),
        "kernel": st.integers(1, 5),
        "stride": st.integers(1, 4),
        "padding": st.integers(0, 3),
        "dilation": st.integers(1, 3),
        "size": st.integers(1, 20),
        "bias": st.booleans(),
    }
)


@given(convolutions)
def test_convolution_is_torchs(c: dict[str, int]) -> None:
    inputs, outputs = c["inputs"] * c["groups"], c["outputs"] * c["groups"]
    if c["dilation"] * (c["kernel"] - 1) + 1 > c["size"] + 2 * c["padding"]:
        with pytest.raises(ValueError, match="does not fit"):
            layers.window(c["size"], c["kernel"], padding=c["padding"], dilation=c["dilation"])
        return
    size = layers.window(c["size"], c["kernel"], stride=c["stride"], padding=c["padding"], dilation=c["dilation"])
    ours = layers.conv2d("c", inputs, outputs, c["kernel"], size, groups=c["groups"], bias=bool(c["bias"]))
    with torch.device("meta"):
        theirs = nn.Conv2d(inputs, outputs, c["kernel"], c["stride"], c["padding"], c["dilation"], c["groups"], bool(c["bias"]))
    with FlopCounterMode(display=False) as counter:
        out = theirs(torch.empty(1, inputs, c["size"], c["size"], device="meta"))
    assert out.shape[-1] == size
    assert ours.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    assert 2 * ours.macs == counter.get_total_flops()


@given(st.integers(1, 64), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.booleans())
def test_pooling_window_is_torchs(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> None:
    padding = min(padding, kernel // 2)
    pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    try:
        out = layers.window(size, kernel, stride=stride, padding=padding, ceil=ceil)
    except ValueError:
        with pytest.raises(RuntimeError, match="too small"):
            pool(torch.zeros(1, 1, size, size))
    else:
        assert out == pool(torch.zeros(1, 1, size, size)).shape[-1]


@some
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_linear_is_torchs(inputs: int, outputs: int, rows: int, bias: bool) -> None:
    assert_alone(nn.Linear(inputs, outputs, bias), (rows, inputs), [layers.linear("it", inputs, outputs, rows=rows, bias=bias)])


@some
@given(tokens=st.integers(1, 20), heads=st.integers(1, 5), key=st.integers(1, 9), width=st.integers(1, 30))
def test_attention_is_ours(tokens: int, heads: int, key: int, width: int) -> None:
    projections = [layers.linear(f"it.{name}", width, heads * key, rows=tokens) for name in ("query", "key", "value")]
    out = layers.linear("it.out", heads * key, width, rows=tokens)
    formula = [*projections, layers.attention("it", tokens, heads, key, width), out]
    assert_alone(Attention(width, heads, key), (tokens, width), formula)


@some
@given(tokens=st.integers(1, 20), heads=st.integers(1, 5), key=st.integers(1, 9), bias=st.booleans())
def test_attention_is_timms(tokens: int, heads: int, key: int, bias: bool) -> None:
    width = heads * key
    formula = [
        layers.linear("it.qkv", width, 3 * width, rows=tokens, bias=bias),
        layers.attention("it", tokens, heads, key, width),
        layers.linear("it.proj", width, width, rows=tokens),
    ]
    assert_alone(TimmAttention(width, heads, qkv_bias=bias), (tokens, width), formula)


@some
@given(tokens=st.integers(1, 20), heads=st.integers(1, 5), key=st.integers(1, 9), weights=st.booleans())
def test_multihead_is_torchs(tokens: int, heads: int, key: int, weights: bool) -> None:
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=weights)

    attention = SelfAttention(heads * key, heads, batch_first=True)
    assert_alone(attention, (tokens, heads * key), layers.multihead("it", tokens, heads * key))


@some
@given(channels=st.integers(1, 30), squeezed=st.integers(1, 30), size=st.integers(1, 9))
def test_excitation_is_torchvisions(channels: int, squeezed: int, size: int) -> None:
    excite = torchvision.ops.SqueezeExcitation(channels, squeezed)
    assert_alone(excite, (channels, size, size), mobilenet.excitation("it", channels, squeezed))


eights = st.integers(1, 8).map(lambda number: 8 * number)  # torchvision's V3 rounds to these
rows = st.builds(
    mobilenet.Bottleneck,
    kernel=st.sampled_from((3, 5, 7)),
    expanded=eights,
    outputs=eights,
    excite=st.booleans(),
    stride=st.integers(1, 2),
)


@some
@given(inputs=st.integers(1, 20), factor=st.integers(1, 6), row=rows, size=st.integers(1, 20))
def test_inverted_residual_is_torchvisions_v2(inputs: int, factor: int, row: mobilenet.Bottleneck, size: int) -> None:
    row = row._replace(kernel=3, excite=False, expanded=inputs * factor, outputs=row.outputs // 8)
    with torch.device("meta"):
        theirs = mobilenetv2.InvertedResidual(inputs, row.outputs, row.stride, factor).eval()
    ours = mobilenet.inverted_residual("conv", inputs, row, size, v2=True)
    assert_twins(ours, theirs, torch.empty(1, inputs, size, size, device="meta"))


@some
@given(inputs=eights, row=rows, size=st.integers(1, 20))
def test_inverted_residual_is_torchvisions_v3(inputs: int, row: mobilenet.Bottleneck, size: int) -> None:
    with torch.device("meta"):
        theirs = mobilenetv3.InvertedResidual(_setting(inputs, row), nn.BatchNorm2d).eval()
    ours = mobilenet.inverted_residual("block", inputs, row, size, v2=False)
    assert_twins(ours, theirs, torch.empty(1, inputs, size, size, device="meta"))


def _setting(inputs: int, row: mobilenet.Bottleneck) -> Any:
    return mobilenetv3.InvertedResidualConfig(
        inputs, row.kernel, row.expanded, row.outputs, row.excite, "RE", row.stride, dilation=1, width_mult=1
    )


@given(st.integers(1, 2000))
def test_divisible_is_torchvisions(width: int) -> None:
    assert mobilenet.divisible(width) == torchvision.models._utils._make_divisible(width, 8)


def assert_alone(module: nn.Module, shape: tuple[int, ...], formula: Iterable[Layer]) -> None:
    """As `assert_twins`, for one module; the formula calls it `it`."""
    net = nn.Sequential(OrderedDict(it=module)).to("meta").eval()
    assert_twins(formula, net, torch.empty(1, *shape, device="meta"))


# -- whole nets ------------------------------------------------------------------------------------------------------

shapes = st.fixed_dictionaries({"channels": st.integers(1, 4), "classes": st.integers(1, 20)})
colours = st.fixed_dictionaries({"channels": st.just(3), "classes": st.integers(1, 20)})


@some
@given(shape=shapes, depth=st.integers(0, 6), width=st.integers(1, 50), size=st.integers(1, 30))
def test_any_mlp(shape: dict[str, int], depth: int, width: int, size: int) -> None:
    same_as_torch(mlp.build, mlp.layers, image_size=size, depth=depth, width=width, **shape)


@some
@given(shape=shapes, size=st.integers(19, 70), residual=st.booleans(), hidden=st.integers(1, 30), data=st.data())
def test_any_alexnet(shape: dict[str, int], size: int, residual: bool, hidden: int, data: st.DataObject) -> None:
    widths = data.draw(st.tuples(*[st.integers(1, 6)] * 5))
    arguments = {**shape, "image_size": size, "residual": residual, "widths": widths, "hidden": hidden}
    same_as_torch(alexnet.build, alexnet.layers, **arguments)


@some
@given(shape=shapes, blocks=st.integers(1, 3), size=st.integers(1, 48))
def test_any_cifar_resnet(shape: dict[str, int], blocks: int, size: int) -> None:
    same_as_torch(resnet_cifar.build, resnet_cifar.layers, image_size=size, blocks=blocks, **shape)


@some
@given(shape=shapes, width=st.integers(1, 20), size=st.integers(1, 48))
def test_any_tiny_resnet(shape: dict[str, int], width: int, size: int) -> None:
    same_as_torch(resnet_cifar.tiny_build, resnet_cifar.tiny_layers, image_size=size, width=width, **shape)


@some
@given(shape=colours, blocks=st.tuples(*[st.integers(1, 3)] * 4), bottleneck=st.booleans(), size=st.integers(1, 99))
def test_any_resnet(shape: dict[str, int], blocks: tuple[int, ...], bottleneck: bool, size: int) -> None:
    def build(classes: int, **_: int) -> nn.Module:
        return torchvision.models.ResNet(Bottleneck if bottleneck else BasicBlock, list(blocks), num_classes=classes)

    same_as_torch(build, partial(resnet.layers, blocks=blocks, bottleneck=bottleneck), image_size=size, **shape)


@some
@given(
    shape=colours,
    stages=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=4),
    size=st.integers(16, 60),
)
def test_any_vgg(shape: dict[str, int], stages: list[tuple[int, int]], size: int) -> None:
    def build(classes: int, **_: int) -> nn.Module:
        plan = [step for width, count in stages for step in (*[width] * count, "M")]
        net = torchvision_vgg.VGG(torchvision_vgg.make_layers(plan), num_classes=classes)
        net.classifier[0] = nn.Linear(7 * 7 * stages[-1][0], 4096)  # theirs takes 512 channels for granted
        return net

    same_as_torch(build, partial(vgg.layers, stages=tuple(stages)), image_size=size, **shape)


@some
@given(shape=colours, size=st.integers(17, 99))
def test_squeezenet_at_any_size(shape: dict[str, int], size: int) -> None:
    squeezenet = models.find("squeezenet1_1")
    same_as_torch(squeezenet.build, squeezenet.layers, image_size=size, **shape)


@some
@given(shape=shapes, width=st.integers(1, 5), size=st.integers(1, 70))
def test_any_mobilenet_v1(shape: dict[str, int], width: int, size: int) -> None:
    same_as_torch(mobilenet.v1_build, mobilenet.v1_layers, image_size=size, width=8 * width, **shape)


factors = st.tuples(st.integers(1, 6), eights, st.integers(1, 3), st.integers(1, 2))


@some
@given(shape=colours, table=st.lists(factors, min_size=1, max_size=4), size=st.integers(1, 70))
def test_any_mobilenet_v2(shape: dict[str, int], table: list[tuple[int, int, int, int]], size: int) -> None:
    def build(classes: int, **_: int) -> nn.Module:
        return mobilenetv2.MobileNetV2(classes, inverted_residual_setting=[list(row) for row in table])

    same_as_torch(build, partial(mobilenet.v2_layers, table=table), image_size=size, **shape)


@some
@given(shape=colours, rows=st.lists(rows, min_size=1, max_size=4), hidden=st.integers(1, 20), size=st.integers(1, 70))
def test_any_mobilenet_v3(shape: dict[str, int], rows: list[mobilenet.Bottleneck], hidden: int, size: int) -> None:
    def build(classes: int, **_: int) -> nn.Module:
        inputs = [16, *(row.outputs for row in rows)]
        return mobilenetv3.MobileNetV3([_setting(*pair) for pair in zip(inputs, rows)], hidden, classes)

    same_as_torch(build, partial(mobilenet.v3_layers, rows=rows, hidden=hidden), image_size=size, **shape)


@some
@given(shape=shapes, grid=st.integers(1, 4), patch=st.integers(1, 12), blocks=st.integers(1, 3), width=st.integers(1, 12))
def test_any_mixer(shape: dict[str, int], grid: int, patch: int, blocks: int, width: int) -> None:
    arguments = {"image_size": grid * patch, "patch": patch, "blocks": blocks, "width": 2 * width}
    same_as_torch(mixer.build, mixer.layers, **arguments, **shape)


small = st.integers(1, 9)
parts = st.fixed_dictionaries(
    {"patch": small, "blocks": st.integers(0, 3), "width": small, "heads": st.integers(1, 4), "key": small, "mlp": small}
)


@some
@given(shape=shapes, parts=parts, size=st.integers(9, 40), head=st.lists(small, max_size=3))
def test_any_vit_cifar(shape: dict[str, int], parts: dict[str, int], size: int, head: list[int]) -> None:
    same_as_torch(vit_cifar.build, vit_cifar.layers, image_size=size, head=tuple(head), **parts, **shape)


@some
@given(shape=colours, parts=parts, grid=st.integers(1, 5))
def test_any_torchvision_vit(shape: dict[str, int], parts: dict[str, int], grid: int) -> None:
    width, patch, blocks = parts["heads"] * parts["key"], parts["patch"], parts["blocks"]

    def build(image_size: int, classes: int, **_: int) -> nn.Module:
        return torchvision.models.VisionTransformer(
            image_size, patch, blocks, parts["heads"], width, 4 * width, num_classes=classes
        )

    formula = partial(vit.torchvision_layers, patch=patch, blocks=blocks, width=width)
    same_as_torch(build, formula, image_size=grid * patch, **shape)


@some
@given(shape=shapes, parts=parts, grid=st.integers(1, 5))
def test_any_timm_vit(shape: dict[str, int], parts: dict[str, int], grid: int) -> None:
    width, patch, blocks = parts["heads"] * parts["key"], parts["patch"], parts["blocks"]

    def build(image_size: int, channels: int, classes: int) -> nn.Module:
        return TimmTransformer(image_size, patch, channels, classes, embed_dim=width, depth=blocks, num_heads=parts["heads"])

    formula = partial(vit.timm_layers, patch=patch, blocks=blocks, width=width)
    same_as_torch(build, formula, image_size=grid * patch, **shape)


# -- red -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["resnet8", "mobilenet_v3_large", "vit_b_16", "vit_tiny", "vit_cifar"])
@pytest.mark.parametrize("field", ["name", "parameters", "macs", "fan_in", "missing", "twice"])
def test_a_wrong_formula_is_seen(reference: str, field: str) -> None:
    """Red: every layer of a formula counts, in each of its figures."""
    model = models.find(reference)
    size = model.image_size
    with torch.device("meta"):
        net, x = model.instantiate(size).eval(), torch.empty(1, 3, size, size)
    honest = model.formula(size)
    assert honest is not None
    assert_twins(honest, net, x)
    # the first layer, a parameter or one in the middle, and the last
    for index in {0, 1, len(honest) // 2, len(honest) - 1}:
        layer, wrong = honest[index], list(honest)
        if field == "missing":
            del wrong[index]
        elif field == "twice":
            wrong.append(layer)
        elif field == "name":
            wrong[index] = replace(layer, name=f"{layer.name}x")
        elif field == "fan_in" and not layer.macs:
            continue
        else:
            wrong[index] = replace(layer, **{field: getattr(layer, field) + 1})
        with pytest.raises((AssertionError, KeyError)):
            assert_twins(wrong, net, x)


def test_a_difference_between_formula_and_counter_is_listed() -> None:
    """Red: a layer that the formula has smaller than it is shows up by name, with both counts of parameters and MACs."""
    honest = models.find("mlp")
    wrong = partial(models.architectures.mlp.layers, depth=2, width=1000)
    model = replace(honest, layers=lambda depth, width, **shape: wrong(**shape))
    found = count(model, 8)
    assert found["formula"] != found["flop_counter"]
    assert found["differing"]["linear1"] == [[1000 * 1000 + 1000, 1000 * 1000], [1024 * 1024 + 1024, 1024 * 1024]]
