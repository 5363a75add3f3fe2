"""How fast this machine is, by a third of a second of torch: what an estimate starts from. Importing this imports no torch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.machine import allowed_cpus, cpu_flags, cpu_model
from harness.precisions import PRECISIONS

MEASURED = ("fp32", "bf16", "fp16")  # what torch's arithmetic on a CPU is; integers are guessed from fp32
TURNS = 100_000


@dataclass(frozen=True)
class Speed:
    """`macs_per_s` of a convolution by all processors that may be used, by precision; `layer_s` of one that has next to nothing
    to multiply; `python_s` of 100,000 turns of a loop, which is what exporting and quantising depend on."""

    macs_per_s: Mapping[str, float]
    layer_s: float = 50e-6
    python_s: float = 6e-3
    measured: bool = True

    def of(self, precision: str) -> float:
        """MACs a second in a precision, integers and weights-only ones as fp32."""
        return self.macs_per_s.get(precision, self.macs_per_s["fp32"])


def guessed() -> Speed:
    """For a machine that cannot be asked now: on the slow side, and fifty times as slow where arithmetic is emulated."""
    fp32, flags = 20e9 * allowed_cpus(), cpu_flags()
    slower = {name: 50 if PRECISIONS[name].emulated("cpu", flags) else 1 for name in MEASURED}
    return Speed({name: fp32 / slower[name] for name in MEASURED}, measured=False)


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
    """The median of a few calls after two for warm-up."""
    call()
    call()
    samples: list[float] = []
    while len(samples) < 3 or (sum(samples) < budget_s and len(samples) < 200):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return median(samples)


def _place(cache: Path) -> Path:
    parts = [cpu_model(), sorted(cpu_flags()), allowed_cpus()]
    return cache / f"speed-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}.json"


def keep(speed: Speed, cache: Path) -> None:
    """For the plans of later sessions on this kind of machine."""
    cache.mkdir(parents=True, exist_ok=True)
    _place(cache).write_text(json.dumps(asdict(speed)))


def kept(cache: Path) -> Speed | None:
    """What an earlier session measured on such a machine."""
    try:
        return Speed(**json.loads(_place(cache).read_text()))
    except (OSError, ValueError, TypeError):
        return None
