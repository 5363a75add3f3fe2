"""Matrices and kernels as products of two thinner ones."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from plumbline.models.compression.sparse import replaceable, replaced


def factorise(net: nn.Module, share: float) -> nn.Module:
    """Return a copy of a net, each linear layer and convolution replaced by two, with that share of its MACs less.

    The factors are those of the singular value decomposition, cut off at the rank that leaves that many MACs or fewer, at
    least 1: no other product of that rank is nearer (Eckart & Young 1936). A kernel is cut into one with as many channels
    as the rank, and one of 1x1 (Zhang et al. 2016, Accelerating very deep convolutional networks, section 3.1). Convolutions
    with groups stay as they are, and so do the matrices that attention multiplies with itself (`nn.MultiheadAttention`).
    Raises ValueError for a share outside 0 to 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share of the MACs that go: expected 0 to less than 1, got {share}")
    net = deepcopy(net)
    for path, module in replaceable(net).items():
        factors = _factors(module, share)
        if factors is not None:
            net = replaced(net, path, factors)
    return net


def rank(outputs: int, inputs: int, share: float) -> int:
    """Return the rank of the factors of a matrix that leave a share of its products out."""
    return max(1, int((1 - share) * outputs * inputs / (outputs + inputs)))


def _factors(module: nn.Module, share: float) -> nn.Sequential | None:
    if isinstance(module, nn.Linear):
        size = (module.out_features, module.in_features)
    elif isinstance(module, nn.Conv2d) and module.groups == 1:
        size = (module.out_channels, module.weight[0].numel())
    else:
        return None
    kept = rank(*size, share)
    if share == 0 or kept * sum(size) >= size[0] * size[1]:
        return None
    weight = module.weight.detach()
    left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    root = values[:kept].sqrt()
    first_weight, second_weight = root.unsqueeze(1) * right[:kept], left[:, :kept] * root
    like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    first: Any
    second: Any
    if isinstance(module, nn.Linear):
        first = nn.Linear(module.in_features, kept, bias=False, **like)
        second = nn.Linear(kept, module.out_features, bias=module.bias is not None, **like)
    else:
        assert isinstance(module, nn.Conv2d)
        first = nn.Conv2d(
            module.in_channels,
            kept,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            bias=False,
            padding_mode=module.padding_mode,
            **like,
        )
        second = nn.Conv2d(kept, module.out_channels, 1, bias=module.bias is not None, **like)
    with torch.no_grad():
        first.weight.copy_(first_weight.reshape(first.weight.shape))
        second.weight.copy_(second_weight.reshape(second.weight.shape))
        if module.bias is not None:
            second.bias.copy_(module.bias)
    return nn.Sequential(first, second).train(module.training)
