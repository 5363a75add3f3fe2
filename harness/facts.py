"""What a probe learns about a cell: typed data that travels as JSON. Units are base units, named in the field.

Each fact can say what a benchmark asserts of it, one claim a property, and what is `wrong` where one of them does not hold;
nothing else is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from plumbline.harness import quiet
from plumbline.harness.readings import Readings

VAGUE = 0.1  # of the median: half the width of an interval from which its ends are shown instead of it


class PublishedFigure(Struct, frozen=True):
    """A figure that a source has published, in the digits that it gives, and `ours`, counted as the source counted.

    `metric` is `parameters` or `macs`, `layer` the layer that it is about; None for the whole model.
    """

    metric: str
    value: str
    source: str
    ours: int
    agrees: bool
    layer: str | None = None
    note: str | None = None


class Counts(Struct, frozen=True):
    """Parameters and MACs of one image, by three routes.

    `parameters` and `macs` are the formula's, or torch's counter's where there is none. `differing` lists the layers
    for which formula and counter do: parameters and MACs of each. `explained` names, by kind of operation, what ptflops
    counts beyond the convention (negative: what it leaves out); `unexplained` the layers in which it still differs,
    with its figure and the counter's. `published` puts what a source has reported beside
    what was counted. An ONNX file is counted from its `graph` alone and while it is `executed`, instead of by torch's
    counter and ptflops.
    """

    parameters: int
    macs: int
    formula: dict[str, int] | None
    flop_counter: dict[str, int] | None
    ptflops: dict[str, int] | None
    explained: dict[str, int]
    unexplained: dict[str, list[int]]
    differing: dict[str, list[list[int]]]
    published: list[PublishedFigure]
    graph: dict[str, int] | None = None
    executed: dict[str, int] | None = None

    @property
    def formula_holds(self) -> bool:
        """A model from outside has no formula to break."""
        return self.formula is None or (self.formula == self.flop_counter and not self.differing)

    @property
    def counters_agree(self) -> bool:
        """Two counters that know nothing of each other give the same, or differ for known reasons."""
        if self.flop_counter is None or self.ptflops is None:
            return self.graph is not None and self.graph == self.executed and not self.unexplained
        if self.ptflops["parameters"] != self.flop_counter["parameters"]:
            return False
        extra = self.ptflops["macs"] - self.flop_counter["macs"]
        return not self.unexplained and extra == sum(self.explained.values())

    @property
    def as_published(self) -> bool:
        return all(figure.agrees for figure in self.published)

    @property
    def wrong(self) -> str | None:
        return None if self.formula_holds and self.counters_agree and self.as_published else self.explanation

    @property
    def explanation(self) -> str:
        parts = []
        if not self.formula_holds:
            layers = _first(
                f"{name or 'the model itself'}: {formula} instead of {counter}"
                for name, (formula, counter) in self.differing.items()
            )
            parts.append(f"the formula gives {self.formula}, torch's counter {self.flop_counter}; [parameters, MACs] of {layers}")
        if not self.counters_agree:
            layers = _first(f"{name}: {ptflops} instead of {counter}" for name, (ptflops, counter) in self.unexplained.items())
            counters = (
                f"ptflops gives {self.ptflops}, torch's counter {self.flop_counter}"
                if self.graph is None
                else f"executing the graph gives {self.executed}, its shapes {self.graph}"
            )
            parts.append(f"{counters}; without a known reason in {layers or 'the sum, though each layer agrees'}")
        for figure in self.published:
            if not figure.agrees:
                where = f" of {figure.layer}" if figure.layer else ""
                parts.append(f"{figure.source} reports {figure.value} {figure.metric}{where}, counted here are {figure.ours}")
        return "; ".join(parts) or "all routes agree"


class WeightsUsed(Struct, frozen=True):
    """Where weights come from: `kind` is file, published, trained or seeded. `training` is the record of those trained here."""

    kind: str
    source: str
    sha256: str
    training: dict[str, Any] | None = None


class Promise(Struct, frozen=True):
    """What a compressed net saves in theory, beside its dense parent.

    `parameters` are those of its layers with their zeros, `parameters_stored` those that it keeps; `macs` all products of its
    layers, `macs_effective` those by what is not zero. `bytes` are those on disk, of biases and statistics too (None where its
    storage is unknown); `stages` what they are after each stage of Deep Compression. `trainings` says of
    each technique that trains how long it took.
    """

    parameters_dense: int
    parameters: int
    parameters_nonzero: int
    parameters_stored: int
    macs_dense: int
    macs: int
    macs_effective: int
    bytes_dense: int
    bytes: int | None
    stages: dict[str, int] | None
    trainings: list[dict[str, Any]] = []

    @property
    def speedup(self) -> float:
        """How much faster it would be if time were in proportion to the products that it needs."""
        return self.macs_dense / max(1, self.macs_effective)

    def keeps_to(self, counts: Counts) -> bool:
        """Its parent is the model that was counted, and nothing is counted that is not there."""
        parent = (self.parameters_dense, self.macs_dense) == (counts.parameters, counts.macs)
        fewer = self.parameters_nonzero <= self.parameters_stored <= self.parameters
        return parent and fewer and self.macs_effective <= self.macs

    @property
    def explanation(self) -> str:
        return (
            f"parameters: {self.parameters_nonzero} not zero, {self.parameters_stored} stored, {self.parameters} in all; "
            f"MACs: {self.macs_effective} effective, {self.macs} in all"
        )


class Prepared(Struct, frozen=True):
    """The model as it stands in the fresh process. `weights` says where they come from, with a SHA-256.

    `parameters` are those of the very object that is measured, or of the net from which its `artefact` was exported.
    `promise` is that of a compressed net. `options` are the runtime's, as it says itself that they are; of
    them, `in_precision` is the share of MACs that is executed in the cell's precision.
    """

    weights: WeightsUsed
    parameters: int
    threads: int
    seconds: float
    emulated: bool
    options: dict[str, Any]
    artefact: dict[str, Any] | None = None
    promise: Promise | None = None


class Delivery(Struct, frozen=True):
    """How many times as fast a variant is as its dense parent, on the same runtime, timed in turns in one process.

    `speedup` is the median over rounds, `interval` its 95 % interval. `unavailable` says why there is none.
    """

    speedup: float | None = None
    interval: tuple[float, float] | None = None
    rounds: int = 0
    unavailable: str | None = None

    def reaches(self, floor: float) -> bool:
        """Whether it is that much faster, for certain: the lower end of the interval says so."""
        return self.interval is not None and self.interval[0] >= floor

    @property
    def explanation(self) -> str:
        if self.speedup is None:
            return f"no speed-up was measured: {self.unavailable}"
        between = "" if self.interval is None else f" (95 %: {self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return f"{self.speedup:.2f}x its dense parent{between}, in {self.rounds} rounds"


class Agreement(Struct, frozen=True):
    """Outputs against the same weights in eager float64, as a share of the outputs' spread between inputs.

    `error` is the root mean square, `max_error` the largest, `column_error` the root mean square of the worst output: two
    classes that are swapped among a thousand show there; both are shares of an output's own spread where that is wider.
    `repeat_error` is the largest difference between two calls on one input. `top1` is the share of inputs on which both name
    the same class; None where outputs are structured.
    `eager_error`, `eager_max_error` and `eager_top1` are the same against the same variant in eager fp32, in another process;
    None for files. Where both agree with float64 these agree, too; not so a net that depends on the process or keeps a state.
    `hint` says what may be the cause, should it be wrong.
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
    top1: float | None
    column_error: float = 0.0
    column_tolerance: float = 1.0
    eager_error: float | None = None
    eager_max_error: float | None = None
    eager_top1: float | None = None
    eager_tolerance: float = 1.0
    hint: str | None = None

    @property
    def same_function(self) -> bool:
        worst = self.max_error <= self.max_tolerance and self.column_error <= self.column_tolerance
        eagerly = self.eager_error is None or self.eager_error <= self.eager_tolerance
        return self.error <= self.tolerance and worst and eagerly

    @property
    def repeatable(self) -> bool:
        return self.repeat_error <= self.repeat_tolerance

    @property
    def wrong(self) -> str | None:
        return None if self.repeatable and self.same_function else self.explanation

    @property
    def explanation(self) -> str:
        shares = {
            "RMS error": (self.error, self.tolerance),
            "largest": (self.max_error, self.max_tolerance),
            "of the worst output": (self.column_error, self.column_tolerance),
            "between two calls on one input": (self.repeat_error, self.repeat_tolerance),
        }
        if self.eager_error is not None:
            shares["RMS error against eager fp32"] = (self.eager_error, self.eager_tolerance)
        text = ", ".join(f"{name} {got:.2g} (tolerance {limit:.2g})" for name, (got, limit) in shares.items())
        alike = "" if self.top1 is None else f"the same class on {self.top1:.0%} of "
        same = f"{alike}{self.inputs} {self.pictures}"
        hint = "" if self.hint is None or self.same_function else f"; {self.hint}"
        return f"against {self.reference}, as shares of the outputs' spread: {text}; {same}{hint}"


class Outputs(Struct, frozen=True):
    """What a cell computes for the reference's pictures, flattened, and what the same weights give in float64.

    `spread` is that of the latter between pictures (see `Agreement`).
    """

    executed: list[float]
    reference: list[float]
    spread: float


class Accuracy(Struct, frozen=True):
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
    top5_interval: tuple[float, float] | None = None
    floor: float | None = None
    floor_top5: float | None = None
    floor_images: int | None = None
    floor_source: str | None = None
    parent_top1: float | None = None
    loss: float | None = None
    loss_at_least: float | None = None
    budget: float | None = None
    measured_by: str | None = None

    @property
    def reaches_floor(self) -> bool:
        """Top-1 and top-5 must reach their floors on the very images of these; on others not miss them for certain (95 %)."""
        if self.unavailable is not None or self.floor is None:
            return True
        assert self.top1 is not None and self.interval is not None and self.budget is not None
        assert self.top5 is not None and self.top5_interval is not None
        whole = self.images == self.of == self.floor_images
        reached = [(self.floor, self.top1, self.interval), (self.floor_top5, self.top5, self.top5_interval)]
        return all(
            floor is None or round((share if whole else interval[1]) + self.budget, 6) >= floor
            for floor, share, interval in reached
        )

    @property
    def keeps_to_parent(self) -> bool:
        """The loss must not be certain (99 %) to exceed the budget."""
        if self.loss_at_least is None or self.budget is None:
            return True
        return self.loss_at_least <= self.budget

    @property
    def wrong(self) -> str | None:
        return None if self.reaches_floor and self.keeps_to_parent else self.explanation

    @property
    def explanation(self) -> str:
        if self.top1 is None or self.interval is None:
            return f"unavailable: {self.unavailable}"
        text = f"top-1 {self.top1:.2%} on {self.images} of {self.of} images of {self.data}"
        text += f" (95 % interval {self.interval[0]:.2%} to {self.interval[1]:.2%})"
        if self.floor is not None:
            top5 = "" if self.floor_top5 is None else f" and {self.floor_top5:.2%} for top-5, which is {self.top5:.2%}"
            text += f", floor {self.floor:.2%}{top5} ({self.floor_source})"
        if self.loss is not None:
            text += f", {self.loss:.2%} less than the fp32 parent on the same images (at least {self.loss_at_least:.2%}, at 99 %)"
        return text if self.budget is None else f"{text}, budget {self.budget:.2%}"


class Percentile(Struct, frozen=True):
    """A percentile of samples, and its upper bound at 99 %; None for the `reason`."""

    value_s: float
    bound_s: float | None = None
    reason: str | None = None


class Timing(Struct, frozen=True):
    """Durations of single inferences in the order in which they were taken. `steady` says whether warm-up converged."""

    samples_s: list[float]
    warmup: int
    warmup_s: float
    steady: bool
    median_s: float
    interval_s: tuple[float, float] | None
    percentiles: dict[str, Percentile]
    images_per_s: float


class OnDevice(Struct, frozen=True):
    """What an accelerator with a queue shows beside the host's clock.

    `events` are single inferences by the device's own clock, between two events in its queue; `unavailable` says why there are
    none. `pipelined_s` are seconds an inference in rounds of `calls` inferences that were queued without waiting; the device was
    waited for at the end of each round.
    """

    events: Timing | None
    pipelined_s: list[float]
    calls: int
    images_per_s: float
    unavailable: str | None = None


class Energy(Struct, frozen=True):
    """Joules of one inference, by one meter: power while inferences run without a pause, less that at rest, times their duration.

    `rail`, `unit`, `update_s`, `resolution` and `about` are what the meter declares (harness/meters/meter.py); None and empty
    where it could not be opened. `estimate`: it does not measure, but multiplies assumptions. `running_w` and `idle_w` are mean
    powers over `seconds` with `inferences`, and over `idle_s` before the cell; `_within` are half widths of their 95 % intervals.
    `joules` of an inference has a 95 % `interval` (docs/measuring.md). `updates` is how many values the meter had in the window.
    `samples` are what it read: watts, or joules since the start of the window. `unavailable` says why there are no joules,
    `remarks` what was odd.
    """

    rail: str | None = None
    scope: str = "machine"
    unit: str | None = None
    update_s: float | None = None
    resolution: float | None = None
    about: str = ""
    estimate: bool = False
    joules: float | None = None
    interval: tuple[float, float] | None = None
    running_w: float | None = None
    running_within_w: float | None = None
    idle_w: float | None = None
    idle_within_w: float | None = None
    seconds: float | None = None
    idle_s: float | None = None
    inferences: int | None = None
    updates: int | None = None
    samples: list[float] = []
    unavailable: str | None = None
    remarks: list[str] = []

    @property
    def inferences_per_joule(self) -> float | None:
        return 1 / self.joules if self.joules else None

    @property
    def per_joule_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of inferences a joule."""
        return None if self.interval is None else (1 / self.interval[1], 1 / self.interval[0])


class Latency(Struct, frozen=True):
    """`first_s` is the process's very first inference. `model`: input on the device; `with_transfer`: host to host.

    `disturbance` is what else happened while samples were taken, `telemetry` what each meter read meanwhile, warm-up included.
    `energy` is what each meter of energy says of further inferences, that were not timed; empty where none was asked.
    `remarks` say in words why the figure is not that of the net alone, with all the threads that it may have. `on_device` is
    there on accelerators only. `tries` is 2 where a first measurement was disturbed and repeated; the less disturbed one counts.
    """

    first_s: float
    model: Timing
    with_transfer: Timing
    emulated: bool
    rule: str
    disturbance: Readings
    telemetry: Readings = {}
    remarks: list[str] = []
    energy: dict[str, Energy] = {}
    on_device: OnDevice | None = None
    tries: int = 1

    @property
    def disturbed(self) -> list[str]:
        """Say what disturbed it, the worst first; empty where it was quiet, or nothing can be read."""
        return quiet.reasons(self.disturbance)

    @property
    def vague(self) -> bool:
        """Whether the median is known so badly that it is not to be shown as a plain number."""
        interval = self.model.interval_s
        return interval is not None and (interval[1] - interval[0]) / 2 > VAGUE * self.model.median_s

    @property
    def least(self) -> tuple[str, float]:
        """The shortest time that it reports for an inference, in seconds, and which one that is."""
        found = {
            "the fastest inference": min(self.model.samples_s, default=self.model.median_s),
            "the fastest inference with transfer": min(self.with_transfer.samples_s, default=self.with_transfer.median_s),
        }
        if self.on_device is not None:
            if (events := self.on_device.events) is not None:
                found["the fastest inference by the device's clock"] = min(events.samples_s, default=events.median_s)
            found["an inference in the fastest pipelined round"] = min(self.on_device.pipelined_s)
        name = min(found, key=lambda name: found[name])
        return name, found[name]


class Work(Struct, frozen=True):
    """What an inference of a cell's batch has to do, whoever executes it.

    `macs` are those by what is not zero, `least_macs` the multiplications that the best algorithm leaves of them,
    `weights_bytes` the weights that multiply, in the cell's precision, once.
    """

    precision: str
    macs: int
    least_macs: float
    weights_bytes: int

    def times(self, batches: float) -> Work:
        """Return the work of a batch that is so many times as large."""
        return Work(self.precision, round(batches * self.macs), batches * self.least_macs, self.weights_bytes)


class Bound(Struct, frozen=True):
    """The least `seconds` that an inference takes (harness/roofline.py); None where nothing is known of the device.

    It is the larger one of `compute_s` and `bandwidth_s`, by the peaks `macs_per_s` (in the cell's precision) and `bytes_per_s`,
    which include a `headroom`, a factor. `missing` says why a term is not there, `measured_again` that the peaks of this machine
    were, as the first ones did not allow for the latency.
    """

    seconds: float | None = None
    compute_s: float | None = None
    bandwidth_s: float | None = None
    work: Work | None = None
    macs_per_s: float | None = None
    bytes_per_s: float | None = None
    cache_bytes: int | None = None
    headroom: float = 1.0
    device: str | None = None
    source: str | None = None
    missing: list[str] = []
    measured_again: bool = False

    def allows(self, latency: Latency) -> bool:
        """Whether nothing that was timed is shorter. Where there is no bound, nothing can be said against it."""
        return self.seconds is None or latency.least[1] >= self.seconds

    def explained(self, latency: Latency) -> str:
        """Put the shortest time beside the bound."""
        if self.seconds is None:
            return f"no bound: {'; '.join(self.missing)}"
        name, least_s = latency.least
        if self.seconds == 0:
            return f"{name} took {least_s:.3g} s; it multiplies nothing, and has no bound"
        text = (
            f"{name} took {least_s:.3g} s, {least_s / self.seconds:.2g} times the bound of {self.seconds:.3g} s on {self.device}"
        )
        if self.allows(latency):
            return text
        again = ", whose peaks were measured again" if self.measured_again else ""
        return (
            f"{text}{again}: expected no less than what its own multiplications and weights take; the clock stopped before "
            "the work was done, so let synchronize wait for the device, or correct the peaks of the device"
        )


class Audit(Struct, frozen=True):
    """The same inference in ways that should make no difference, in turns with the usual one, which repeats one batch.

    `ratios` say how many times as long each took, the median over rounds and its 95 % interval (None: too few rounds): `rotating`
    batches, the usual one with a little noise that is never the same, batches of `zeros` and of `denormals` (1e-40), and
    `consumed`, whose outputs are fetched and added up, over the usual one and a second fetch of its outputs. `change` is the
    largest difference between the outputs when the object qualified and after all that was timed, as a share of the outputs'
    spread: timed inferences are of the same weights. `unavailable` says why there is no audit.
    """

    ratios: dict[str, tuple[float, tuple[float, float] | None]] = {}
    rounds: int = 0
    change: float = 0.0
    tolerance: float = 0.0
    unavailable: str | None = None


class Part(Struct, frozen=True):
    """Describe a part of an inference, by the runtime's own account.

    `number_format` is that of what it multiplies, `layer` the layer of the model that it is, with its `macs` of one image.
    """

    name: str
    operator: str
    seconds: float
    number_format: str | None = None
    layer: str | None = None
    macs: int | None = None


class Layers(Struct, frozen=True):
    """Where the time of an inference goes: `parts`, in the order in which they ran.

    `whole_s` is the median of inferences that were not looked into, taken in between. `missed` says what the sum misses, or
    has too much, where that is more than a tenth; `unavailable` why there are no parts.
    """

    unavailable: str | None = None
    parts: list[Part] = []
    repeats: int | None = None
    sum_s: float | None = None
    whole_s: float | None = None
    missed: str | None = None


def _first(texts: Iterable[str], most: int = 5) -> str:
    shown = list(texts)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
