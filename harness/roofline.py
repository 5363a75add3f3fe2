"""The least time that an inference can take: what it has to multiply and to fetch, by what its device does at most.

The roofline of Williams, Waterman & Patterson (2009), as a bound for a whole net. docs/measuring.md says why it is a valid one.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbline.harness.devices import Peaks, UnknownDevice, numbers_of
from plumbline.harness.facts import Bound, Promise, Work
from plumbline.models import Layer

BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # of a weight, by devices.NUMBERS
KERNELS = (3, 5, 7, 9, 11)  # heights of square convolutions for which there are algorithms with fewer multiplications
WINOGRAD, TILE = 6, 32  # outputs on a side of the largest tile of Winograd's algorithm, and pixels of an FFT


def fewer(kernel: int) -> float:
    """Return by how many times a k x k convolution with stride 1 may need fewer multiplications than the direct algorithm.

    Winograd's F(m x m, k x k) takes (m + k - 1)^2 of them for m^2 outputs (Lavin & Gray 2015, arXiv:1509.09308: 2.25 times fewer
    in F(2x2, 3x3), 4 times in F(4x4, 3x3)); NNPACK, which torch has, goes up to F(6x6, 3x3). An FFT of 32 x 32 pixels takes 4 for
    each of its 32 x 17 complex numbers.
    """
    winograd = (WINOGRAD * kernel / (WINOGRAD + kernel - 1)) ** 2
    fourier = (TILE + 1 - kernel) ** 2 * kernel**2 / (4 * TILE * (TILE // 2 + 1))
    return max(winograd, fourier)


def reduction(layer: Layer) -> float:
    """Return by how many times a layer may need fewer multiplications than MACs were counted; 1 of what is no such convolution.

    A layer does not tell its kernel. One of k x k has a fan-in that k^2 divides, and uses each weight more than once; strides,
    and other layers of which that is true, get the same allowance.
    """
    if layer.macs <= layer.parameters:
        return 1.0
    return max((fewer(kernel) for kernel in KERNELS if layer.fan_in % kernel**2 == 0), default=1.0)


def least_macs(layers: Sequence[Layer], effective: int) -> float:
    """Return the fewest multiplications by which the layers can do `effective` of their MACs.

    Which layers have the zeros is not known, so those that the best algorithm spares most come first.
    """
    left, least = effective, 0.0
    for layer in sorted(layers, key=reduction, reverse=True):
        done = min(layer.macs, left)
        least, left = least + done / reduction(layer), left - done
    return least


def work(layers: Sequence[Layer], promise: Promise | None, precision: str, batch: int) -> Work:
    """Return what one inference of a batch has to do: MACs by what is not zero, and the weights that multiply, read once."""
    macs = sum(layer.macs for layer in layers)
    effective = macs if promise is None else min(macs, promise.macs_effective)
    weights = sum(layer.parameters for layer in layers if layer.macs)
    size = BYTES[numbers_of(precision)]
    held = weights * size
    if promise is not None:
        held = min(held, promise.parameters_nonzero * size, promise.bytes if promise.bytes is not None else held)
    return Work(precision, batch * effective, batch * least_macs(layers, effective), held)


def bound(work: Work, peaks: Peaks) -> Bound:
    """Return the least seconds of that work on a device. What is not known of the device is missing, and named.

    All MACs are done by the same units, and each byte comes through the same memory; both may go on at the same time. So it is
    the larger of the two terms for the whole net, and no sum over layers of the larger ones, which a net that is fused or runs
    its branches beside each other can beat.
    """
    missing, rate, bytes_per_s = [], None, None
    try:
        rate = peaks.of(work.precision)
    except UnknownDevice as reason:
        missing.append(f"compute: {reason}")
    try:
        bytes_per_s = peaks.bandwidth()
        if peaks.cache_bytes is None:
            raise UnknownDevice(f"the size of the last cache of {peaks.device} is not known; a file of devices can name it")
    except UnknownDevice as reason:
        missing.append(f"bandwidth: {reason}")
    compute_s, bandwidth_s = _terms(work, rate, bytes_per_s, peaks.cache_bytes)
    least_s = _longest(compute_s, bandwidth_s)
    return Bound(
        seconds=None if missing and not least_s else least_s,  # weights that the caches hold bound nothing
        compute_s=compute_s,
        bandwidth_s=bandwidth_s,
        work=work,
        macs_per_s=rate,
        bytes_per_s=bytes_per_s,
        cache_bytes=peaks.cache_bytes,
        headroom=peaks.headroom,
        device=peaks.device,
        source=peaks.source,
        missing=missing,
    )


def least_s(work: Work, known: Bound) -> float | None:
    """Return the least seconds of other work in the precision of a known bound, on its device; None where no rate is known."""
    if known.macs_per_s is None:
        return None
    return _longest(*_terms(work, known.macs_per_s, known.bytes_per_s, known.cache_bytes))


def _terms(
    work: Work, macs_per_s: float | None, bytes_per_s: float | None, cache_bytes: int | None
) -> tuple[float | None, float | None]:
    """Return the seconds of multiplying, and of fetching weights that the last cache does not hold; None: nothing says it."""
    compute_s = None if macs_per_s is None else work.least_macs / macs_per_s
    if bytes_per_s is None or cache_bytes is None:
        return compute_s, None
    return compute_s, max(0, work.weights_bytes - cache_bytes) / bytes_per_s


def _longest(*terms: float | None) -> float | None:
    return max((term for term in terms if term is not None), default=None)
