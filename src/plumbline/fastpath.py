"""The fused path that torch takes through attention in eval mode, switched off where each product has to be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def without_attention_fast_path() -> Iterator[None]:
    """Run `nn.MultiheadAttention` operator by operator, as its Python code has it.

    Counters see nothing inside the fused operator (ViT-B/16: 11.27 GMAC instead of 17.56), and exporters cannot write it.
    The switch is the process's own; it is put back afterwards.
    """
    import torch

    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
