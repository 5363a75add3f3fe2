"""What multiplies is counted, or refused by the operator's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import flop_counter
from torchvision.ops import deform_conv2d

from plumbline.models.counting.counts import torch_layers
from plumbline.models.counting.products import formulas, unknown

aten = torch.ops.aten


class Calls(nn.Module):
    """A net that is one function of tensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def macs(function: Callable[..., Any], *shapes: tuple[int, ...], device: str = "cpu") -> int:
    layers = torch_layers(Calls(function), tuple(torch.zeros(shape, device=device) for shape in shapes))
    return sum(layer.macs for layer in layers.values())


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (functional.bilinear, [(2, 3), (2, 5), (7, 3, 5)], 2 * 3 * 5 * 7),
        (functional.bilinear, [(4, 2, 3), (4, 2, 5), (7, 3, 5), (7,)], 8 * 3 * 5 * 7),
        (lambda x, w, o: deform_conv2d(x, o, w, padding=1), [(1, 4, 8, 8), (6, 4, 3, 3), (1, 18, 8, 8)], 6 * 36 * 64),
        (lambda x, w, o: deform_conv2d(x, o, w, stride=2), [(2, 4, 9, 9), (6, 2, 3, 3), (2, 18, 4, 4)], 2 * 6 * 18 * 16),
        (Tensor.addmm_, [(3, 5), (3, 4), (4, 5)], 60),
        (Tensor.baddbmm_, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (torch.addmv, [(3,), (3, 4), (4,)], 12),
        (Tensor.addmv_, [(3,), (3, 4), (4,)], 12),
        (torch.addr, [(3, 4), (3,), (4,)], 12),
        (torch.dot, [(9,), (9,)], 9),
        (torch.mv, [(3, 4), (4,)], 12),
        (torch.cdist, [(1, 4, 3), (1, 5, 3)], 60),
        (torch.cdist, [(30, 3), (40, 3)], 3600),
        (torch.conv_tbc, [(8, 2, 3), (3, 3, 5), (5,)], 6 * 2 * 5 * 9),
        (lambda t: functional.affine_grid(t, [2, 3, 4, 5], False), [(2, 2, 3)], 2 * 20 * 2 * 3),
        (lambda a, b, c: torch.einsum("bi,oij,bj->bo", a, b, c), [(2, 3), (7, 3, 5), (2, 5)], 2 * 7 * 3 * 5 + 2 * 7 * 5),
    ],
)
def test_what_multiplies_is_counted(function: Callable[..., Any], shapes: list[tuple[int, ...]], expected: int) -> None:
    assert macs(function, *shapes) == expected


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_recurrent_net_has_the_same_products_with_numbers_and_without(bidirectional: bool, batch_first: bool) -> None:
    """Of two layers of 4 units, each step multiplies four matrices by the input and four by the state."""
    net = nn.LSTM(3, 4, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    each = (1 + bidirectional) * 16
    expected = 2 * 5 * each * ((3 + 4) + ((1 + bidirectional) * 4 + 4))
    assert sum(layer.macs for layer in torch_layers(net, (torch.zeros(2, 5, 3),)).values()) == expected
    found = torch_layers(net.to("meta"), (torch.zeros(2, 5, 3, device="meta"),))
    assert sum(layer.macs for layer in found.values()) == expected


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(queries, keys, values)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_does_not_depend_on_what_torchs_version_counts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to torch 2.13 its counter has no formula for the operator that attention is on a CPU: a third of the MACs."""
    for name in [key for key in flop_counter.flop_registry if "scaled_dot_product" in str(key)]:
        monkeypatch.delitem(flop_counter.flop_registry, name)
    assert macs(attend, (1, 4, 9, 16), (1, 4, 11, 16), (1, 4, 11, 16), device=device) == 2 * 4 * 9 * 11 * 16


@pytest.mark.parametrize(
    ("function", "shapes", "operator"),
    [
        (torch.linalg.inv, [(3, 3)], "aten::linalg_inv_ex"),
        (torch.linalg.matrix_exp, [(3, 3)], "aten::linalg_matrix_exp"),
        (torch.fft.rfft2, [(1, 8, 8)], "aten::_fft_r2c"),
        (torch.pdist, [(4, 3)], "aten::_pdist_forward"),
        (lambda x, w: torch.ops.aten.mkldnn_convolution(x, w, None, [0, 0], [1, 1], [1, 1], 1), [(1, 3, 8, 8), (4, 3, 3, 3)],
         "aten::mkldnn_convolution"),
    ],
)  # fmt: skip
def test_what_multiplies_and_cannot_be_counted_is_refused_by_name(
    function: Callable[..., Any], shapes: list[tuple[int, ...]], operator: str
) -> None:
    net = nn.Sequential()
    net.add_module("inner", Calls(function))
    tensors = tuple(torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=f"^the model itself: {operator} multiplies, and no formula"):
        torch_layers(Calls(function), tensors)
    if len(tensors) == 1:
        with pytest.raises(ValueError, match=f"^inner: {operator} "):
            torch_layers(net, tensors)


def test_an_operator_of_somebody_elses_is_refused_until_it_has_a_formula() -> None:
    @torch.library.custom_op("plumbline_tests::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return x @ x

    with pytest.raises(ValueError, match=r"plumbline_tests::doubled is no operator of torch's own.*register_flop_formula"):
        macs(doubled, (3, 3))
    packet = torch.ops.plumbline_tests.doubled
    flop_counter.register_flop_formula(packet)(lambda x, **_: 2 * x[0] ** 3)
    try:
        assert macs(doubled, (3, 3)) == 27
    finally:
        del flop_counter.flop_registry[packet]


def test_what_multiplies_element_by_element_is_not_refused() -> None:
    def much(x: Tensor) -> Tensor:
        grid = functional.affine_grid(torch.zeros(1, 2, 3), [1, 3, 8, 8], False)
        x = functional.interpolate(functional.grid_sample(x, grid, align_corners=False), scale_factor=2, mode="bilinear")
        x = functional.interpolate(functional.normalize(x), size=(9, 9), mode="nearest")
        return torch.linalg.vector_norm(functional.gelu(functional.elu(x)).softmax(1).cumsum(2).flatten(1), dim=1)

    assert macs(much, (1, 3, 8, 8)) == 8 * 8 * 2 * 3


def test_no_operator_of_this_torch_that_multiplies_is_overlooked() -> None:
    """Names are searched for parts of words here, which finds more than what is refused by whole words: the rest is known."""
    parts = (
        "mm", "matmul", "conv", "linear", "attention", "dot", "mv", "bilinear", "trilinear", "rnn", "lstm", "gru", "_cell", "fft",
        "linalg", "cdist", "pdist", "euclid", "cholesky", "svd", "solve", "lstsq", "geqrf", "ormqr", "kron", "addr", "deform",
        "outer", "product", "semi_structured", "pack_mm", "eig", "transformer_encoder",
    )  # fmt: skip
    known = (  # parts of the names of what multiplies nothing, or is no product of an inference
        "backward", "jvp", "gamma", "convert", "upsample", "hamming", "cumm", "dummy", "dimV", "interface", "pack_4bit",
        "reorder", "semi_structured_apply", "semi_structured_tile", "to_sparse_semi_structured", "flatten_weight", "fftfreq",
        "check_errors", "linalg_vector_norm", "linalg_cross", "powsum", "remove",
    )  # fmt: skip
    counted = {key._qualified_op_name for key in [*formulas(), *flop_counter.flop_registry] if hasattr(key, "_qualified_op_name")}
    overlooked = set()
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name
        if not name.startswith("aten::") or not any(part in name for part in parts) or any(word in name for word in known):
            continue
        packet = getattr(aten, name.removeprefix("aten::"), None)
        if packet is None or all(getattr(packet, overload)._can_decompose() for overload in packet.overloads()):
            continue
        if name not in counted and unknown(name) is None:
            overlooked.add(name)
    assert overlooked == set()
    assert len(counted) > 20
