"""How integers are multiplied where the processor has no instruction for it, and the ways to get right results there.

With VNNI (AVX-512 VNNI, AVX-VNNI) and on ARM four products of 8-bit integers are added up in 32 bits. Without, x86 libraries
take `vpmaddubsw`: two products of an unsigned and a signed byte are added up in 16 bits, and saturate: 2 x 255 x 127 is cut
off at 32,767 (uxlfoundation/oneDNN#1354, microsoft/onnxruntime#14642, pytorch/pytorch#103646). Two ways lead around it:
one factor in seven bits (2 x 255 x 64 = 32,640), or products in 16 bits that are added up in 32, which takes longer.
Neither serves every net: seven bits are too coarse for some (MobileNetV3), the wider products slower than fp32 for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plumbline.harness.machine import cpu_flags, is_x86
from plumbline.harness.runtimes.adapter import RunConfig

USUAL, EIGHT_BITS, SEVEN_BITS, WIDE = "usual", "8bit", "7bit", "wide"
VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def saturate() -> bool:
    """Whether this process adds up pairs of 8-bit products in 16 bits."""
    return is_x86() and VNNI.isdisjoint(cpu_flags())


def alternatives(config: RunConfig, safe: Sequence[str]) -> Sequence[Mapping[str, str]]:
    """List the values of the option `products` to build: the plain one, or those of `safe` where products saturate."""
    if not config.precision.integer or config.options["products"] != USUAL:
        return ({},)
    return [{"products": value} for value in (safe if saturate() else (EIGHT_BITS,))]


def of_weights(seven_bits: bool | None) -> str | None:
    """Return the option's value that a file's integer weights stand for; None where it has none."""
    return None if seven_bits is None else SEVEN_BITS if seven_bits else EIGHT_BITS


def hint(runtime: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """Why a file in integers may be wrong on this processor, and what to do; None where that is not the reason."""
    if not saturate():
        return None
    wide = f"run it as {runtime}+products={WIDE}, or " if WIDE in options.get("products", ()) else ""
    return (
        "this processor has no VNNI: pairs of u8 x s8 products are added up in 16 bits and saturate "
        f"(microsoft/onnxruntime#14642); {wide}quantise its weights in seven bits (reduce_range=True)"
    )
