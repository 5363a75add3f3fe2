"""The operators of torch that multiply: formulas for those that its counter overlooks, and names for those nobody can count.

torch's `FlopCounterMode` gives 0 to an operator for which it has no formula. What multiplies without one is refused here, by
name, as it is in ONNX files (models/onnx/nodes.py): 0 MACs would be a guess. The convention is in docs/counting.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Shape = Sequence[int]

# Operators of these namespaces are known: those that multiply are told by their names. Anybody else's may do anything.
KNOWN = {"aten", "prim", "prims", "profiler", "rngprims", "torchvision"}
# A word of the name of every operator of torch that multiplies matrices, or does what takes a number of products.
WORDS = re.compile(
    r"[a-z]*mm|[a-z]*matmul|conv(olution)?|conv[123]d|linear|bilinear|trilinear|deform|[a-z]*attention|transformer"
    r"|dot|vdot|(add)?mv|ger|addr|outer|kron|[cp]dist|euclidean|[a-z]*rnn|lstm|gru|cell|fft|linalg|det|cholesky|lu|qr|svd|eig(h|vals)?"
    r"|[a-z]*solve|lstsq|geqrf|orgqr|ormqr|householder|triangular"
)
# Names with such a word that multiply nothing, or element by element.
HARMLESS = re.compile(r"_*upsample_.*|linalg_(vector_norm|cross|_powsum)|_linalg_check_errors|fft_r?fftfreq|.*_reorder_conv.*")


def formulas() -> dict[Any, Callable[..., int]]:
    """Return the FLOPs, two of them a MAC, of operators for which torch's counter has no formula, or none in some versions.

    It hands over the arguments of a call, the shapes of tensors in their places.
    """

    def of_first(first: Shape, *_: Any, **__: Any) -> int:
        return 2 * prod(first)

    def of_second(_: Shape, second: Shape, *__: Any, **___: Any) -> int:
        return 2 * prod(second)

    def matrices(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
        return 2 * prod(a) * b[-1]

    def added(_: Shape, a: Shape, b: Shape, *__: Any, **___: Any) -> int:
        return 2 * prod(a) * b[-1]

    def outer(_: Shape, a: Shape, b: Shape, *__: Any, **___: Any) -> int:
        return 2 * prod(a) * prod(b)

    def attention(queries: Shape, keys: Shape, values: Shape, *_: Any, **__: Any) -> int:
        return 2 * prod(queries[:-1]) * keys[-2] * (queries[-1] + values[-1])

    def bilinear(a: Shape, b: Shape, c: Shape, *expanded: Any, **_: Any) -> int:
        # a product for each weight and row; the three tensors get axes of length 1 where they lack them
        wide = []
        for shape, axes in zip((a, b, c), expanded):
            sizes = list(shape)
            for axis in sorted(axes):
                sizes.insert(axis, 1)
            wide.append(sizes)
        return 2 * prod(max(sizes) for sizes in zip(*wide))

    def deformed(_: Shape, weight: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
        return 2 * prod(out_shape) * prod(weight[1:])

    def over_time(_: Shape, weight: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
        return 2 * prod(out_shape) * prod(weight[:2])

    def recurrent(inputs: Shape, of_input: Shape, of_state: Shape, *_: Any, **__: Any) -> int:
        return 2 * prod(inputs[:-1]) * (prod(of_input) + prod(of_state))

    def distances(a: Shape, _: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
        return 2 * prod(out_shape) * a[-1]

    def affine(*_: Any, out_shape: Shape, **__: Any) -> int:
        return 2 * prod(out_shape) * (out_shape[-1] + 1)

    aten = torch.ops.aten
    found: dict[Any, Callable[..., int]] = {}
    for formula, names in {
        of_first: "mv dot vdot",
        of_second: "addmv addmv_",
        matrices: "_int_mm",
        added: "addmm_ baddbmm_ addbmm addbmm_ _addmm_activation _sparse_addmm",
        outer: "addr addr_",
        # which of them runs depends on torch's version, device and types; products are the same in all
        attention: "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
        bilinear: "_trilinear",
        over_time: "conv_tbc",
        recurrent: "mkldnn_rnn_layer",
        distances: "_cdist_forward _euclidean_dist",
        affine: "affine_grid_generator",
    }.items():
        found |= {getattr(aten, name): formula for name in names.split() if hasattr(aten, name)}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # registered when torchvision is imported
        found[torch.ops.torchvision.deform_conv2d] = deformed
    return found


def unknown(operator: str) -> str | None:
    """Say why an operator `namespace::name` that has no formula is refused; None where it is known to multiply nothing."""
    namespace, _, name = operator.partition("::")
    if namespace not in KNOWN:
        reason = "is no operator of torch's own, so that nobody knows whether it multiplies"
    elif HARMLESS.fullmatch(name) is None and any(WORDS.fullmatch(word) for word in name.split("_")):
        reason = "multiplies, and no formula is known for it"
    else:
        return None
    return (
        f"{operator} {reason}; 0 MACs would be a guess. Give it a formula, beside the model: "
        f"torch.utils.flop_counter.register_flop_formula(torch.ops.{namespace}.{name})"
    )


class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what multiplies uncounted. To be entered before torch's counter, which hands on what it has taken apart.

    `counted` are the operators that have a formula, and `where` names the module that is running.
    Raises ValueError.
    """

    supports_higher_order_operators = True

    def __init__(self, counted: Container[Any], where: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counted, self._where = counted, where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.OpOverload) and func._overloadpacket not in self._counted:
            said = unknown(func._schema.name)
            if said is not None:
                raise ValueError(f"{self._where()}: {said}")
        return func(*args, **(kwargs or {}))
