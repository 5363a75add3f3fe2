"""Number formats a model can be executed in. A precision is never a variant."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from plumbline.models import Layer

UNIT_ROUNDOFF_FP32 = 2.0**-24
# Half a step, as a share of the RMS, where 255 steps hold a range of 8 RMS: from -4 to 4 for weights, up to 8 after a ReLU.
INT8 = 4 / 255
# Outputs of whose variance rounding makes up more than a quarter say little; where all are alike the error is 1.
MOST = 0.5
CALIBRATION = 64  # images from which static quantisation takes its ranges


@dataclass(frozen=True)
class Precision:
    """`unit_roundoff` is half the distance from 1 to the next number: 2^-p for p bits of significand.

    `accuracy_budget` is the share of images that a model may lose against its fp32 parent.
    `native` are the processor flags, any of which means that the arithmetic is done in hardware; `devices` those that have
    it at all. An `integer` one multiplies integers; one that is `calibrated` takes their ranges from images. `weights` is
    the format of weights that are stored small and multiplied in `dtype`.
    """

    name: str
    dtype: str
    unit_roundoff: float
    accuracy_budget: float
    native: frozenset[str]
    integer: bool = False
    calibrated: bool = False
    weights: str | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")

    def tolerance(self, formula: Iterable[Layer], magnitude: float = 1.0, grain: float = 0.0) -> float:
        """Return the RMS error, relative to the spread of the outputs, that rounding explains.

        Every layer that multiplies rounds its inputs and weights to this precision, and adds up a sum of
        n terms in fp32, whose error grows with sqrt(n) u (Higham & Mary 2019, "A New Approach to Probabilistic
        Rounding Error Analysis", theorem 2.4). So does one that only adds up, as the mean over a picture of 512 x 512
        pixels does: it rounds nothing else, but a runtime may take its terms one after the other. Layers add their errors
        up at worst linearly; that worst case also stands for what a layer does to the errors it is given. The outputs are
        rounded once more, by a share of their `magnitude`, their RMS in spreads, and by half of `grain`, the distance between
        the smallest numbers that there are, in spreads, too. Never more than a half.
        """
        inside = sum(self.unit_roundoff * bool(layer.macs) + UNIT_ROUNDOFF_FP32 * layer.fan_in**0.5 for layer in formula)
        inside = max(inside, self.unit_roundoff)  # without products it rounds, too
        return min(MOST, inside + self.unit_roundoff * magnitude + grain / 2)

    def emulated(self, device_kind: str, cpu_flags: Collection[str]) -> bool:
        """Whether the processor lacks this arithmetic, and software stands in for it."""
        return device_kind == "cpu" and bool(self.native) and self.native.isdisjoint(cpu_flags)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "float32", UNIT_ROUNDOFF_FP32, 0.0005, frozenset()),
        Precision("bf16", "bfloat16", 2.0**-8, 0.005, frozenset({"avx512_bf16", "amx_bf16", "bf16"})),
        Precision("fp16", "float16", 2.0**-11, 0.005, frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})),
        Precision("int8-dynamic", "float32", INT8, 0.01, frozenset(), integer=True),
        Precision("int8-static", "float32", INT8, 0.01, frozenset(), integer=True, calibrated=True),
        Precision("tf32", "float32", 2.0**-11, 0.005, frozenset(), devices=("cuda",)),  # 10 bits of significand are stored
        Precision("w8", "float32", INT8, 0.01, frozenset(), weights="int8"),
        Precision("w16", "float32", 2.0**-11, 0.005, frozenset(), weights="float16"),
    )
}
