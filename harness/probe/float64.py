"""A net in float64 throughout, whatever number types it asks for inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DOUBLE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}


class _Doubles(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Where an operation is to compute in a type of lower precision, it gets float64.

    Nets convert to float32 for the sake of what comes before, or of the softmax: exact, they would not have to. What is rounded
    to half or bfloat16 is rounded, as all precisions would, and goes on in float64.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        asked = keywords.get("dtype")
        if asked not in DOUBLE:
            return func(*args, **keywords)
        if asked in (torch.float16, torch.bfloat16) and func is torch.ops.aten._to_copy.default:
            return func(func(*args, **keywords), dtype=torch.float64)
        return func(*args, **{**keywords, "dtype": DOUBLE[asked]})


@contextmanager
def in_float64() -> Iterator[None]:
    """Let torch compute in float64 where inputs are in it, and make tensors in it where no type is named."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubles():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(usual)
