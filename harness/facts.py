"""What a probe learns about a cell. Plain data that travels as JSON; units are base units, named in the field.

Each fact can say what a benchmark asserts of it; nothing else is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prepared:
    """The model as it stands in the fresh process. `weights` says where they come from, with a SHA-256."""

    weights: dict[str, Any]
    threads: int
    seconds: float
    emulated: bool


@dataclass(frozen=True)
class Counts:
    """Parameters and MACs of one image, by three routes, and the parameters of the very object that is measured.

    `parameters` and `macs` are the formula's. `explained` names, by kind of operation, what ptflops counts
    beyond the convention; `unexplained` lists the layers in which it still differs, with its figure and ours.
    """

    parameters: int
    macs: int
    measured_parameters: int
    formula: dict[str, int]
    flop_counter: dict[str, int]
    ptflops: dict[str, int]
    explained: dict[str, int]
    unexplained: dict[str, list[int]]

    @property
    def explains_ptflops(self) -> bool:
        extra = self.ptflops["macs"] - self.formula["macs"]
        return not self.unexplained and extra == sum(self.explained.values())

    @property
    def explanation(self) -> str:
        layers = ", ".join(f"{name}: {theirs} instead of {ours}" for name, (theirs, ours) in self.unexplained.items())
        return (
            f"ptflops counts {self.ptflops['macs']} MACs, the formula {self.formula['macs']}; without a known reason in {layers}"
        )


@dataclass(frozen=True)
class Agreement:
    """Outputs against the same weights in eager float64, as a share of the outputs' spread between inputs.

    `error` is the root mean square, `max_error` the largest; `repeat_error` is the largest difference between
    two calls on one input. `top1` is the share of inputs on which both name the same class.
    """

    reference: str
    inputs: int
    pictures: str
    spread: float
    error: float
    max_error: float
    repeat_error: float
    tolerance: float
    max_tolerance: float
    repeat_tolerance: float
    top1: float

    @property
    def same_function(self) -> bool:
        return self.error <= self.tolerance and self.max_error <= self.max_tolerance

    @property
    def repeatable(self) -> bool:
        return self.repeat_error <= self.repeat_tolerance

    @property
    def explanation(self) -> str:
        shares = {
            "RMS error": (self.error, self.tolerance),
            "largest": (self.max_error, self.max_tolerance),
            "between two calls on one input": (self.repeat_error, self.repeat_tolerance),
        }
        text = ", ".join(f"{name} {came:.2g} (tolerance {limit:.2g})" for name, (came, limit) in shares.items())
        same = f"the same class on {self.top1:.0%} of {self.inputs} {self.pictures}"
        return f"against {self.reference}, as shares of the outputs' spread: {text}; {same}"


@dataclass(frozen=True)
class Accuracy:
    """Share of images classified rightly, on `images` of the `of` images that the data set has.

    `interval` is Wilson's for top-1, at 95 %. `loss` is the top-1 that the fp32 parent has more on the same
    images, `loss_at_least` its lower bound at 99 %. Where `unavailable` gives a reason, there are no figures.
    """

    unavailable: str | None = None
    data: str | None = None
    images: int | None = None
    of: int | None = None
    seed: int | None = None
    top1: float | None = None
    top5: float | None = None
    interval: tuple[float, float] | None = None
    floor: float | None = None
    floor_images: int | None = None
    floor_source: str | None = None
    parent_top1: float | None = None
    loss: float | None = None
    loss_at_least: float | None = None
    budget: float | None = None
    measured_by: str | None = None

    @property
    def reaches_floor(self) -> bool:
        """On the very images it is known for top-1 must reach the floor; on others it must not be certain (95 %) to lie below."""
        if self.unavailable is not None or self.floor is None:
            return True
        assert self.top1 is not None and self.interval is not None and self.budget is not None
        reached = self.top1 if self.images == self.of == self.floor_images else self.interval[1]
        return round(reached + self.budget, 6) >= self.floor

    @property
    def keeps_to_parent(self) -> bool:
        """The loss must not be certain (99 %) to exceed the budget."""
        if self.loss_at_least is None:
            return True
        assert self.budget is not None
        return self.loss_at_least <= self.budget

    @property
    def explanation(self) -> str:
        if self.top1 is None or self.interval is None:
            return f"unavailable: {self.unavailable}"
        text = f"top-1 {self.top1:.2%} on {self.images} of {self.of} images of {self.data}"
        text += f" (95 % interval {self.interval[0]:.2%} to {self.interval[1]:.2%})"
        if self.floor is not None:
            text += f", floor {self.floor:.2%} ({self.floor_source})"
        if self.loss is not None:
            text += f", {self.loss:.2%} less than the fp32 parent on the same images (at least {self.loss_at_least:.2%}, at 99 %)"
        return f"{text}, budget {self.budget:.2%}"


@dataclass(frozen=True)
class Timing:
    """Durations of single inferences in the order in which they were taken. `steady` says whether warm-up converged."""

    samples_s: list[float]
    warmup: int
    warmup_s: float
    steady: bool
    median_s: float
    interval_s: tuple[float, float] | None
    percentiles: dict[str, dict[str, Any]]
    images_per_s: float


@dataclass(frozen=True)
class Latency:
    """`first_s` is the process's very first inference. `model`: input on the device; `with_transfer`: host to host.

    `doubt` is what else happened while the samples were taken.
    """

    first_s: float
    model: Timing
    with_transfer: Timing
    emulated: bool
    rule: str
    doubt: dict[str, Any]

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Latency:
        kinds = {kind: Timing(**fields[kind]) for kind in ("model", "with_transfer")}
        return cls(**{**fields, **kinds})


@dataclass(frozen=True)
class Memory:
    """`peak_bytes` is what one inference needs beyond what was held before it; `process_peak_bytes` the process's most, ever.

    `process_base_bytes` is the process before it built the model: Python and torch. `allocated` and `reserved`
    are CUDA's peaks. What cannot be read is None, with the reason in `unavailable`.
    """

    weights_bytes: int
    peak_bytes: int | None
    process_peak_bytes: int
    process_base_bytes: int
    cuda_allocated_bytes: int | None = None
    cuda_reserved_bytes: int | None = None
    unavailable: dict[str, str] = field(default_factory=dict)
