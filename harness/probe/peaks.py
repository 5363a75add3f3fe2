"""What this machine does at most: its multiplications and additions in fp32, its memory, its caches. Measured once, and kept.

A bound needs peaks that nothing exceeds, and a measured one may be too low: another library may be better, another process may
have disturbed. So it is the best of several shapes and tries, it gets a HEADROOM, what is kept only grows, and it is measured
again before a latency is called impossible. Other formats than fp32 are not measured: an instruction set says how many more
numbers an instruction multiplies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from plumbline.harness import messages, timing
from plumbline.harness.devices import Peaks
from plumbline.harness.machine import allowed_cpus, cpu_flags, cpu_model, memory_free
from plumbline.harness.probe import memory

HEADROOM = 1.5  # the best product of torch's libraries is taken to reach two thirds of what the processor can do
# How many times as many MACs as fp32 the instructions do. Intel's Optimization Reference Manual: AMX does 1024 a cycle in 8-bit
# integers and 512 in 16 bits, AVX-512 32 in fp32 (two FMA); VNNI, and pairs of products before it, 4 times as many as FMA, dot
# products of bf16 and vectors of fp16 twice. Arm's Architecture Reference Manual: SDOT 4 times, SMMLA 8, BFMMLA 4, vectors of
# fp16 twice.
FACTORS: Mapping[str, Mapping[str, float]] = {
    "bf16": {"amx_bf16": 16, "bf16": 4, "avx512_bf16": 2},
    "fp16": {"amx_fp16": 16, "avx512_fp16": 2, "asimdhp": 2},
    "int8": {"amx_int8": 32, "i8mm": 8},
}
OTHERWISE = {"bf16": 1.0, "fp16": 1.0, "int8": 4.0}  # emulated in fp32; and of any vectors of 8 bits
TRIES = 3  # of products that take a millisecond: short enough to run undisturbed now and then on a busy machine
BUFFER_BYTES, BUFFER_MOST_BYTES = 1 << 28, 1 << 30  # read to find out the bandwidth: much more than the caches hold
CACHES = Path("/sys/devices/system/cpu")


def known(cache: Path, progress: Callable[[str], None], anew: bool = False) -> Peaks:
    """Return the peaks of this machine, as kept in a folder, or measured now and kept there; `anew` measures in any case.

    In this process, with the threads that torch has here, as a cell has them.
    """
    file = _place(cache)
    kept = _read(file)
    if kept is not None and not anew:
        return kept
    progress("measuring what this machine does at most (some seconds, once)")
    with memory.unlimited():  # the machine's peaks need more memory than a cell may have
        found = measure()
    if kept is not None:
        found = larger(kept, found)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(messages.encode(found))
    return found


def measure() -> Peaks:
    """Measure, in some seconds: products of matrices and convolutions of 1x1, and reading a buffer larger than the caches."""
    import torch

    caches = cache_bytes()
    with torch.inference_mode():
        calls, macs = zip(*_products())
        fp32 = max(count / took for _ in range(TRIES) for count, took in zip(macs, _best(calls)))
        size = _buffer_bytes(caches)
        matrix = torch.ones(size // 4 // 4096, 4096)
        vector = torch.ones(4096)
        read_s = min(_best((matrix.sum, lambda: matrix @ vector)))
    return Peaks(
        device=f"this machine ({cpu_model()}, {allowed_cpus()} cores)",
        source=f"measured here in fp32 (torch {torch.__version__}); other formats by the instruction set",
        macs_per_s={numbers: fp32 * factor for numbers, factor in factors().items()},
        bytes_per_s=matrix.nbytes / read_s,
        cache_bytes=caches,
        headroom=HEADROOM,
    )


def factors() -> dict[str, float]:
    """Return by what the rate in fp32 is multiplied for each format, at most, on this processor."""
    flags = cpu_flags()
    found = {
        numbers: max((factor for flag, factor in by_flag.items() if flag in flags), default=OTHERWISE[numbers])
        for numbers, by_flag in FACTORS.items()
    }
    return {"fp32": 1.0, **found}


def larger(kept: Peaks, found: Peaks) -> Peaks:
    """Return the larger figures of two measurements on one machine: whatever disturbs can only make them smaller."""
    rates = {numbers: max(rate, kept.macs_per_s.get(numbers, 0.0)) for numbers, rate in found.macs_per_s.items()}
    return replace(found, macs_per_s=rates, bytes_per_s=max(found.bytes_per_s or 0.0, kept.bytes_per_s or 0.0))


def cache_bytes(folder: Path = CACHES) -> int | None:
    """Return what all data caches hold together, each counted once; None where the system does not say.

    A last cache may hold what the others do not, so they are added up. A virtual machine may show other caches than there are.
    """
    found: dict[tuple[str, str], int] = {}
    for index in folder.glob("cpu[0-9]*/cache/index*"):
        try:
            kind, level, size, shared = (
                (index / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        if kind != "Instruction" and size[:-1].isdigit():
            found[level, shared] = int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
    return sum(found.values()) or None


def _products() -> Iterator[tuple[Callable[[], Any], int]]:
    """Yield products of matrices by torch's BLAS and convolutions by oneDNN, each with its MACs: either may have better kernels.

    Convolutions of 3x3 are left out: they may multiply less than their MACs.
    """
    import torch
    from torch.nn.functional import conv2d

    for size in (256, 384, 512):
        left, right = torch.ones(size, size), torch.ones(size, size)
        yield partial(torch.mm, left, right), size**3
    for channels, side in ((128, 56), (256, 28)):
        image, weight = torch.ones(1, channels, side, side), torch.ones(channels, channels, 1, 1)
        yield partial(conv2d, image, weight), channels**2 * side**2


def _best(calls: tuple[Callable[[], Any], ...]) -> list[float]:
    return timing.best(*((call, timing.nothing) for call in calls))


def _buffer_bytes(caches: int | None) -> int:
    """Return four times what the caches hold, within reason and an eighth of the memory that this process can still get."""
    wanted = min(max(BUFFER_BYTES, 4 * (caches or 0)), BUFFER_MOST_BYTES)
    return max(1 << 20, min(wanted, memory_free() // 8))


def _place(cache: Path) -> Path:
    """Name the file by what makes it another machine (processor, instruction sets, cores, threads, torch), and by this code."""
    import torch

    parts = [cpu_model(), sorted(cpu_flags()), allowed_cpus(), torch.get_num_threads(), str(torch.__version__), _code()]
    return cache / f"peaks-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}.json"


def _code() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def _read(file: Path) -> Peaks | None:
    """Read what is kept; None where there is nothing, or something that an interrupted process left."""
    try:
        return messages.decode(file.read_bytes(), Peaks)
    except (OSError, messages.BadMessage):
        return None
