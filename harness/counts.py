"""Parameters and MACs by three routes, on the meta device: no weights, no arithmetic.

The convention is written down in models/layers.py and docs/counting.md.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

from models import Model
from models.layers import Layer, macs, parameters

if TYPE_CHECKING:
    from torch import nn

# What ptflops counts and the convention does not, by a part of the module's class name (ptflops, pytorch_ops.py).
BEYOND_CONVENTION = {"Norm": "norms", "ReLU": "activations", "GELU": "activations", "ELU": "activations", "Pool": "pooling"}


def count(model: Model, image_size: int) -> dict[str, Any]:
    """The fields of `harness.facts.Counts`, but for what only the measured object can tell."""
    import torch

    formula = model.formula(image_size)
    with torch.device("meta"):
        net = model.instantiate(image_size).eval()
    channels = model.dataset(image_size).channels
    shape = (channels, image_size, image_size)
    counted = _flop_counter(net, shape)
    total, by_module = _ptflops(net, shape)
    explained, unexplained = _explain(net, {layer.name: layer for layer in formula}, by_module)
    both = {"parameters": parameters(formula), "macs": macs(formula)}
    return {
        **both,
        "formula": both,
        "flop_counter": {"parameters": sum(p.numel() for p in net.parameters()), "macs": counted},
        "ptflops": {"parameters": sum(p.numel() for p in net.parameters() if p.requires_grad), "macs": total},
        "explained": explained,
        "unexplained": unexplained,
    }


def _flop_counter(net: nn.Module, shape: tuple[int, ...]) -> int:
    """torch's own counter, in MACs: it counts two FLOPs for each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # attention's fused path in eval mode is invisible to the counter (ViT-B/16: 11.27 GMAC instead of 17.56)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(1, *shape, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    flops = counter.get_total_flops()
    if flops % 2:
        raise ValueError(f"torch's counter gave an odd number of FLOPs, {flops}; a MAC is two of them")
    return flops // 2


def _ptflops(net: nn.Module, shape: tuple[int, ...]) -> tuple[int, dict[str, int]]:
    """ptflops' total over the modules, and each module's share.

    Only modules are counted: left to itself, ptflops also counts calls of torch.nn.functional, the modules' own
    among them, so that a net of nn.Linear comes out twice as large as it is (mlp: 4.36 instead of 2.18 MMAC).
    """
    import torch
    from ptflops import get_model_complexity_info

    by_module: dict[str, int] = {}

    def read(*_: Any) -> None:
        # ptflops deletes its per-module figures before it returns; this hook on the root runs just before
        for name, module in net.named_modules():
            if hasattr(module, "__flops__"):
                by_module[name] = int(module.__flops__)

    handle = net.register_forward_hook(read)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            total, _ = get_model_complexity_info(
                net, shape, as_strings=False, print_per_layer_stat=False, backend_specific_config={"count_functional": False}
            )
    finally:
        handle.remove()
    if total is None:
        raise ValueError(f"ptflops could not count this model: {printed.getvalue().strip().splitlines()[-1:]}")
    return int(total), by_module


def _explain(net: nn.Module, formula: dict[str, Layer], by_module: dict[str, int]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Put ptflops' figure of each layer beside the formula's.

    Returns what it counts beyond the convention, by kind, and the layers where it differs for no known
    reason: [its figure, ours].
    """
    explained: dict[str, int] = {}
    unexplained: dict[str, list[int]] = {}
    modules = dict(net.named_modules())
    for name in [*by_module, *(name for name, layer in formula.items() if layer.macs and name not in by_module)]:
        theirs, layer = by_module.get(name, 0), formula.get(name)
        if layer is not None and layer.macs:
            # a bias is one more addition for each output element
            biases = layer.macs // layer.fan_in if getattr(modules.get(name), "bias", None) is not None else 0
            kind: str | None = "biases"
            expected = layer.macs + biases
            beyond = biases
        else:
            kind = next((word for part, word in BEYOND_CONVENTION.items() if part in type(modules[name]).__name__), None)
            expected = beyond = theirs if kind else 0
        if theirs != expected:
            unexplained[name] = [theirs, layer.macs if layer is not None else 0]
        elif kind and beyond:
            explained[kind] = explained.get(kind, 0) + beyond
    return explained, unexplained
