"""How fast a machine is: what an estimate starts from. It is measured by harness/probe/speed.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbline.harness.machine import allowed_cpus, cpu_flags, cpu_model
from plumbline.harness.precisions import PRECISIONS

MEASURED = ("fp32", "bf16", "fp16")  # what torch's arithmetic on a CPU is; integers are guessed from fp32


@dataclass(frozen=True)
class Speed:
    """How fast a machine is.

    `macs_per_s` is that of a convolution by all processors that may be used, by precision; `layer_s` the time of one that has
    next to nothing to multiply; `python_s` that of 100,000 turns of a loop, on which exporting and quantising depend.
    """

    macs_per_s: Mapping[str, float]
    layer_s: float = 50e-6
    python_s: float = 6e-3
    measured: bool = True

    def of(self, precision: str) -> float:
        """MACs a second in a precision, integers and weights-only ones as fp32."""
        return self.macs_per_s.get(precision, self.macs_per_s["fp32"])


def guessed() -> Speed:
    """For a machine that cannot be asked now: rather slow, and fifty times as slow where arithmetic is emulated."""
    fp32, flags = 20e9 * allowed_cpus(), cpu_flags()
    slower = {name: 50 if PRECISIONS[name].emulated("cpu", flags) else 1 for name in MEASURED}
    return Speed({name: fp32 / slower[name] for name in MEASURED}, measured=False)


def _place(cache: Path) -> Path:
    parts = [cpu_model(), sorted(cpu_flags()), allowed_cpus()]
    return cache / f"speed-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}.json"


def save(speed: Speed, cache: Path) -> None:
    """Save a speed in the cache, for the plans of later sessions on this kind of machine."""
    cache.mkdir(parents=True, exist_ok=True)
    _place(cache).write_text(json.dumps(asdict(speed)))


def load(cache: Path) -> Speed | None:
    """Load what an earlier session measured on this kind of machine; None where there is nothing."""
    try:
        return Speed(**json.loads(_place(cache).read_text()))
    except (OSError, ValueError, TypeError):
        return None
