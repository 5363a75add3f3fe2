"""How fast this machine is, by a third of a second of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.speed import MEASURED, Speed

TURNS = 100_000


def measure() -> Speed:
    """Ask torch, in this process, with the threads that it has. Takes a third of a second where bf16 is emulated."""
    import torch
    from torch.nn.functional import conv2d

    def convolution(channels: int, size: int, precision: str) -> Callable[[], Any]:
        dtype = getattr(torch, PRECISIONS[precision].dtype)
        image = torch.randn(1, channels, size, size).to(dtype)
        weight = torch.randn(channels, channels, 3, 3).to(dtype)
        return lambda: conv2d(image, weight, padding=1)

    found = {}
    with torch.inference_mode():
        for precision in MEASURED:
            channels, size = (64, 28) if precision == "fp32" else (32, 14)
            try:
                took = _seconds(convolution(channels, size, precision))
            except RuntimeError:  # an older torch has no such convolution: the cell will say it
                continue
            found[precision] = 9 * channels**2 * size**2 / took
        layer_s = _seconds(convolution(8, 4, "fp32"))
    return Speed(found, layer_s, _seconds(_turns))


def _turns() -> None:
    total = 0
    for number in range(TURNS):
        total += number


def _seconds(call: Callable[[], Any], budget_s: float = 0.05) -> float:
    """Return the shortest of a few calls after two for warm-up: what else the machine does can only add to one."""
    call()
    call()
    samples: list[float] = []
    while len(samples) < 12 or (sum(samples) < budget_s and len(samples) < 200):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return min(samples)
