"""What torch's operators add up without multiplying: no MACs, and rounding errors all the same (files: models/onnx/sums.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# One element of the result stands for all those of the input that went into it.
REDUCING = {
    "mean", "sum", "nansum", "norm", "linalg_vector_norm", "logsumexp", "var", "var_mean", "std", "std_mean",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
}  # fmt: skip
WINDOW = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}
SOFTMAX = {"_softmax", "_log_softmax", "_safe_softmax"}
FEATURES = {"native_layer_norm", "_fused_rms_norm"}
# of what they are given, where they train or keep no statistics, as instance norms do
BATCH = {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm"}


class Sums(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `add` for each operator that adds numbers up, with how many of them go into one of its result."""

    supports_higher_order_operators = True

    def __init__(self, add: Callable[[int], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._add = add

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(func, torch._ops.OpOverload) and args and isinstance(args[0], Tensor) and isinstance(first, Tensor):
            names = [argument.name for argument in func._schema.arguments]
            terms = _terms(func._overloadpacket.__name__, args[0].shape, dict(zip(names, args)), first.numel())
            if terms > 1:
                self._add(terms)
        return result


def _terms(operator: str, shape: torch.Size, arguments: Mapping[str, Any], results: int) -> int:
    """How many numbers are added up into one of the result; 0 for an operator that adds none up."""
    if operator in REDUCING:
        return prod(shape) // max(1, results)
    if operator in WINDOW:
        size = arguments["kernel_size"]
        return prod(size) if len(size) > 1 else size[0] ** int(operator[-2])  # one number stands for all axes
    if operator in SOFTMAX:
        return shape[arguments["dim"]] if shape else 0
    if operator in FEATURES:
        return prod(arguments["normalized_shape"])
    if operator == "native_group_norm":
        return arguments["C"] * arguments["HxW"] // arguments["group"]
    if operator in BATCH and arguments["training"]:
        return prod(shape) // shape[1]
    return 0
