"""`plumbline compression`: what techniques of compression promise and deliver, each figure beside its limit.

First what can be measured without training: one layer, pruning itself, whole nets in turns with their dense parents. Then the
tier `compression`, which trains; an interrupted one goes on.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

from plumbline.harness.cell import Cell
from plumbline.harness.facts import Memory
from plumbline.harness.machine import allowed_cpus, here, limited_as
from plumbline.harness.probe import latency, memory
from plumbline.harness.session import matrix
from plumbline.harness.session.client import Probe, ProbeServer
from plumbline.harness.session.session import lock_machine
from plumbline.harness.settings import Settings
from plumbline.harness.studies.fastest import TIMES, Way, find, table, times
from plumbline.harness.views.table import LEFT, NOTHING, compressed, explained, mixed, tabulated
from plumbline.models.compression import variants
from plumbline.models.compression.variants import DENSE

if TYPE_CHECKING:
    from torch import nn

TIER, TIER_PART = "compression", "tier"
SHAPES, BATCHES, SPARSITIES = ((100, 10), (10_000, 100)), (1, 32, 128), (0.0, 0.5, 0.9, 0.95, 0.99)  # inputs, outputs
ROUNDS, TURN_S = 15, 0.004
MIXER = "mixer_b16"
STUDENTS = ("mlp+width=256", "small_cnn+width=4", "small_mixer+blocks=2+width=32")
TEACHER = "small_cnn"  # of digits, or of MNIST where there is a data root
STUDENT_EPOCHS, SEEDS = 10, 3  # at least so many; in MNIST's two to four the labels are not yet learned
# The strongest ways to run it dense, to be raced with the sparse one: what `harness fastest mixer_b16` puts first.
DENSE_WAYS = (
    ("eager", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8-dynamic"),
    ("exported", "int8-static"),
    ("openvino", "int8-static"),
)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Goal:
    """A figure that compression is to reach: at least the limit, or at `most`. None: it was not measured."""

    figure: str
    came: float | None
    limit: float
    unit: str
    most: bool = False

    @property
    def reached(self) -> bool:
        return self.came is not None and (self.came <= self.limit if self.most else self.came >= self.limit)

    def row(self) -> list[str]:
        came = NOTHING if self.came is None else f"{self.came:.4g}{self.unit}"
        word = "not measured" if self.came is None else "reached" if self.reached else "missed"
        return [self.figure, came, f"at {'most' if self.most else 'least'} {self.limit:g}{self.unit}", word]


MIXER_SPEEDUPS = {"AVX-512": (10, 20), "AVX2": (4.5, 9)}  # at 95 and 99 % zeros, by the vectors of the processor

Part = Callable[[Path | None, float, str, Progress], tuple[str, list[Goal]]]


def report(parts: Sequence[str], data: Path | None, seconds: float, style: str, progress: Progress) -> list[Goal]:
    """Measure and print the parts that are asked for, each as soon as it is there, then what was to be reached; returns that.

    Raises `Busy`.
    """
    goals: list[Goal] = []
    print(f"{here()}\n", flush=True)
    try:
        with lock_machine(0):
            for name, part in PARTS.items():
                if not parts or name in parts:
                    progress((part.__doc__ or name).partition("\n")[0])
                    text, own = part(data, seconds, style, progress)
                    progress("")
                    goals += own
                    print(f"{text}\n", flush=True)
    finally:  # what was measured before a part failed
        if goals:
            print(f"{scored(goals, style)}\n", flush=True)
    return goals


def missed(goals: Iterable[Goal]) -> list[str]:
    """The figures that were measured and did not reach their limit."""
    return [goal.figure for goal in goals if goal.came is not None and not goal.reached]


def scored(goals: Sequence[Goal], style: str) -> str:
    """Each figure beside its limit; nothing where nothing was to be reached."""
    if not goals:
        return ""
    rows = [goal.row() for goal in goals]
    return f"What was to be reached\n\n{tabulated(rows, ['figure', 'came', 'limit', ''], ['figure', ''], style)}"


def layers(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Goal]]:
    """One layer: dense, as it is chosen, always sparse, and as the Jetson Nano study had it; all in turns."""
    import torch

    torch.set_num_threads(allowed_cpus())
    rows, chosen, over_coo = [], [], []
    for inputs, outputs in SHAPES:
        for batch in BATCHES:
            for sparsity in SPARSITIES:
                progress(f"{inputs}x{outputs}, batch {batch}, {sparsity:.0%} zeros")
                row, over_dense, faster = _layer(inputs, outputs, batch, sparsity)
                rows.append(row)
                chosen.append(over_dense)
                if (inputs, sparsity) == (10_000, 0.99) and batch > 1:
                    over_coo.append(faster)
    heads = [
        "layer",
        "batch",
        "zeros",
        "dense, ms",
        "chosen",
        "chosen/dense",
        "95 %",
        "sparse, ms",
        "row-major COO, ms",
        "COO/sparse",
    ]
    words = f"One linear layer, median of {ROUNDS} rounds; activations row-major, for sparse channel-major"
    goals = [
        Goal("slowest layer as chosen, over dense", min(chosen), 0.95, "x"),
        Goal("sparse over row-major COO, 10000x100, 99 % zeros, batches 32 and 128", min(over_coo), 10, "x"),
    ]
    return f"{words}\n\n{tabulated(rows, heads, ['layer', 'chosen'], style)}", goals


def _layer(inputs: int, outputs: int, batch: int, sparsity: float) -> tuple[list[str], float, float]:
    """A row of the table, and from it how much faster the chosen layer is than dense, and the sparse one than COO."""
    import torch
    from torch import nn

    from plumbline.harness.statistics import median_interval
    from plumbline.models.compression.sparse import RowMajorLinear, SparseLinear, settle
    from plumbline.models.compression.unstructured import prune

    torch.manual_seed(0)
    dense = prune(nn.Linear(inputs, outputs), sparsity)
    assert isinstance(dense, nn.Linear)
    row_major = torch.randn(batch, inputs)
    channel_major = row_major.t().contiguous().t()
    chosen, sparse, coo = nn.Sequential(SparseLinear.of(dense)), SparseLinear.of(dense), RowMajorLinear.of(dense)
    with torch.inference_mode():
        kept = settle(chosen, row_major)
        calls: dict[str, Callable[[], Any]] = {
            "dense": partial(dense, row_major),
            "chosen": partial(chosen[0], row_major),
            "sparse": partial(sparse, channel_major),
            "coo": partial(coo, row_major),
        }
        times = in_turns(calls)
    ratio = sorted(theirs / ours for theirs, ours in zip(times["dense"], times["chosen"]))
    low, high = median_interval(ratio) or (ratio[0], ratio[-1])
    ms = {name: f"{1e3 * median(values):.3g}" for name, values in times.items()}
    faster = median(theirs / ours for theirs, ours in zip(times["coo"], times["sparse"]))
    shape = f"{inputs}x{outputs}"
    row = [shape, str(batch), f"{sparsity:.0%}", ms["dense"], "sparse" if kept else "dense", f"{median(ratio):.2f}x",
           f"{low:.2f}-{high:.2f}", ms["sparse"], ms["coo"], f"{faster:.1f}x"]  # fmt: skip
    return row, median(ratio), faster


def in_turns(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """The median time of a call in each round, in seconds; in a round all take turns, in random order."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with latency.quiet():
        for call in calls.values():
            latency.sample(call, _nothing, 2)
        for _ in range(ROUNDS):
            for name in random.sample(sorted(calls), len(calls)):
                call, ends, turn = calls[name], time.monotonic() + TURN_S, list[float]()
                latency.sample(call, _nothing, 1)
                while not turn or time.monotonic() < ends:
                    turn += latency.sample(call, _nothing, 3)
                times[name].append(median(turn))
    return times


def _nothing() -> None:
    """A CPU has nothing to wait for."""


def pruning(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Goal]]:
    """How long it takes to find the smallest of 59 million weights, and what it needs besides the new net."""
    import torch

    from plumbline.models import find as model
    from plumbline.models.compression.unstructured import prune, weights, zero

    progress("pruning")
    torch.manual_seed(0)
    net: nn.Module = model(MIXER).instantiate(224)
    count = sum(weight.numel() for weight in weights(net).values())
    began = time.perf_counter()
    pruned = prune(net, 0.95)
    took = time.perf_counter() - began
    del pruned
    memory.release_free_memory()
    growth, _ = memory.growth(lambda: zero(list(weights(net).values()), 0.95))
    beyond = NOTHING if growth is None else f"{growth / 1e6:.0f} MB ({growth / (4 * count):.2f} of the weights)"
    rows = [[f"{count / 1e6:.1f} M", f"{took:.2f} s", beyond]]
    heads = ["weights", "pruned to 95 % zeros in", "besides the new net"]
    goals = [
        Goal(f"{count / 1e6:.1f} M weights pruned", took, 3, " s", most=True),
        Goal("memory for it besides the new net, of the weights", growth and 100 * growth / (4 * count), 100, " %", most=True),
    ]
    return f"Magnitude pruning\n\n{tabulated(rows, heads, [], style)}", goals


def mixer(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Goal]]:
    """Mixer-B/16 end to end: sparse and dense ways in turns in one process, and the memory of each in a process of its own."""
    sparse = [Cell(MIXER, f"prune{percent}+scope=layer+sparse", "eager", "fp32", 1, 224, "cpu") for percent in (90, 95, 99)]
    ways = [Cell(MIXER, DENSE, runtime, precision, 1, 224, "cpu") for runtime, precision in DENSE_WAYS]
    dense = Cell(MIXER, DENSE, "eager", "fp32", 1, 224, "cpu")
    cells = [dense, *sparse, *(cell for cell in ways if matrix.impossible(cell) is None)]
    with _measuring(data, seconds) as (settings, log):
        found = find(cells, settings, log, progress)
        with closing(ProbeServer(log, progress=progress)) as server:
            held = {cell.variant: _memory(Probe(server, cell, settings)) for cell in [dense, *sparse]}
    heads = ["variant", "weights, MB", "of dense", "process peak, MB"]
    whole = held[DENSE].weights_bytes
    shown = [
        [name, f"{told.weights_bytes / 1e6:.1f}", f"{told.weights_bytes / whole:.1%}", f"{told.process_peak_bytes / 1e6:.0f}"]
        for name, told in held.items()
    ]
    words = "Mixer-B/16 at 224 pixels, batch 1, against dense eager fp32"
    kind = limited_as()
    goals = [
        Goal(f"Mixer-B/16, {percent} % zeros, over dense eager fp32, with {kind}", _speedup(found, cell), limit, "x")
        for percent, cell, limit in zip((95, 99), sparse[1:], MIXER_SPEEDUPS[kind])
    ]
    kept = held[sparse[1].variant]
    goals += [
        Goal("its weights at 95 % zeros, of dense", 100 * kept.weights_bytes / whole, 20, " %", most=True),
        Goal(
            "its process's peak, of dense", 100 * kept.process_peak_bytes / held[DENSE].process_peak_bytes, 100, " %", most=True
        ),
    ]
    text = f"{words}\n\n{table(found, style)}\n\nMemory of a cell that loads the artefact"
    return f"{text}\n\n{tabulated(shown, heads, ['variant'], style)}", goals


def _speedup(found: Sequence[Way], cell: Cell) -> float | None:
    return next(way.speedup for way in found if way.cell == cell)


def structured(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Goal]]:
    """Whole channels removed, against dense eager fp32, in turns in one process."""
    found: list[Way] = []
    for model in ("vgg16", "resnet50"):
        cells = [Cell(model, variant, "eager", "fp32", 1, 224, "cpu") for variant in (DENSE, "filter25", "filter50", "filter75")]
        with _measuring(data, seconds) as (settings, log):
            found += sorted(find(cells, settings, log, progress), key=lambda way: cells.index(way.cell))
    rows = [[way.cell.model, way.cell.variant, *times(way)] for way in found if way.reason is None]
    words = "Channels removed, batch 1, 224 pixels, against dense eager fp32"
    goals = [
        Goal(f"{way.cell.model} without half of its MACs, over dense", way.speedup, 1.6, "x")
        for way in found
        if way.cell.variant == "filter50"
    ]
    return f"{words}\n\n{tabulated(rows, ['model', 'variant', *TIMES], LEFT, style)}", goals


def reduction(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Goal]]:
    """Smaller nets of the same make: the Mixers of table 1 and the study, and the study's MLP in other depths and widths."""
    from plumbline.models import find as model
    from plumbline.models.layers import macs

    rows = []
    families = {224: ("mixer_b16", "mixer_m16", "mixer_s16"), 28: ("mlp+depth=16", "mlp", "mlp+width=512", "mlp+width=128")}
    for size, names in families.items():
        cells = [Cell(name, DENSE, "eager", "fp32", 1, size, "cpu") for name in names]
        with _measuring(None, seconds) as (settings, log):
            found = {way.cell.model: way for way in find(cells, settings, log, progress)}
        needs = [macs(model(name).formula(size) or ()) for name in names]
        for name, need in zip(names, needs):
            rows.append([name, str(size), f"{need / 1e6:.4g}", f"{needs[0] / need:.2f}x", *times(found[name])])
    heads = ["model", "pixels", "MACs, M", "promised", *TIMES]
    words = "Static reduction: nets of one make, batch 1, dense eager fp32, against the largest of them, in turns in one process"
    return f"{words}\n\n{tabulated(rows, heads, ['model'], style)}", []


def distillation(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Goal]]:
    """Students with and without a teacher, from the same three seeds; trained once, and kept in the cache."""
    from dataclasses import replace
    from statistics import mean, stdev

    from plumbline.harness.probe.context import Context, train
    from plumbline.models import find as model
    from plumbline.models.data.datasets import DATASETS
    from plumbline.models.training.training import finished
    from plumbline.models.weights.weights import folder

    settings = Settings.here(data, train_minutes=15)
    size = 28 if DATASETS["mnist"].missing(settings.data) is None else 8
    rows = []
    for name in STUDENTS:
        student, top1 = model(name), dict[str, list[float]]()
        context = Context(student, size, settings, progress)
        for variant in (DENSE, f"distill+teacher={TEACHER}"):
            for seed in range(SEEDS):
                task = context.task(variants.find(variant))
                recipe = task.recipe.of_epochs(max(STUDENT_EPOCHS, task.recipe.epochs))
                task = replace(task, recipe=replace(recipe, seed=seed))
                place = folder(task, settings.cache)
                train(task, place, settings, progress)
                top1.setdefault(variant, []).append((finished(place) or {})["top1"])
        alone, taught = top1.values()
        theirs = finished(context.parent_weights(model(TEACHER)).parent) or {}
        gains = [100 * (one - other) for one, other in zip(taught, alone)]
        spread = [f"{mean(values):.2%} ± {100 * stdev(values):.2f}" for values in (alone, taught)]
        rows.append([name, f"{theirs['top1']:.2%}", *spread, f"{mean(gains):+.2f} ± {stdev(gains):.2f}",
                     " ".join(f"{gain:+.2f}" for gain in gains)])  # fmt: skip
    how = f"{STUDENT_EPOCHS} epochs or more, temperature 4, alpha 0.9"
    words = (
        f"Distillation on {model(TEACHER).dataset(size).name} by {TEACHER} ({how}):\n"
        f"top-1, mean and standard deviation of {SEEDS} seeds"
    )
    heads = ["student", "teacher's", "alone", "taught", "gain, points", "of each seed"]
    return f"{words}\n\n{tabulated(rows, heads, ['student'], style)}", []


PARTS: dict[str, Part] = {
    "layers": layers,
    "pruning": pruning,
    "mixer": mixer,
    "structured": structured,
    "reduction": reduction,
    "distillation": distillation,
}


@contextmanager
def _measuring(data: Path | None, seconds: float) -> Iterator[tuple[Settings, IO[bytes]]]:
    """The settings of one measurement, and a log for its probes."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        yield Settings.here(data, sampling_s=seconds, time_limit_s=900, accuracy_images=0), log


def _memory(probe: Probe) -> Memory:
    """What a cell takes whose outputs are right."""
    try:
        agreement = probe.agreement()
        if agreement.wrong is not None:
            raise ValueError(agreement.wrong)
        return probe.memory()
    finally:
        probe.close()


def tables(records: Iterable[dict[str, Any]], style: str = "simple") -> str:
    """Each variant of the tier beside its dense parent, with its promises and whether it keeps them."""
    told = list(records)
    unfit = [f"- {record['cell']['id']}: {record['outcome']}: {record['reason']}" for record in told if record["reason"]]
    words = "\n".join([*(f"- {line}" for line in [*explained(told), *mixed(told)]), *unfit])
    shown = [compressed(told, style), words, _sweep(told, style), _stages(told, style), scored(goals_of(told), style)]
    return "\n\n".join(part for part in shown if part)


DEEP = ("mlp", 28, "gradual97+epochs=5+share+bits=4+tune+huffman")
THIN = ("resnet56", 32, "filter50+tune+epochs=8")
SMALL = ("alexnet_cifar", 32, "gradual90+layers=linear+share+huffman")


def goals_of(records: Iterable[dict[str, Any]]) -> list[Goal]:
    """What was to be reached by cells of the tier, of those that were run."""
    goals = []
    for record in records:
        cell, promise, accuracy = record["cell"], record.get("promise") or {}, record["accuracy"] or {}
        loss, top1 = (None if value is None else 100 * value for value in (accuracy.get("loss"), accuracy.get("top1")))
        size = promise.get("bytes")
        which = (cell["model"], cell["image_size"], cell["variant"])
        if which == DEEP:
            goals.append(Goal("Deep Compression of the MNIST MLP", size and promise["bytes_dense"] / size, 30, "x smaller"))
            goals.append(Goal("Deep Compression of the MNIST MLP: points of top-1 lost", loss, 0.3, "", most=True))
        elif which == THIN:
            goals.append(Goal("ResNet-56 without half of its MACs, 8 epochs: points of top-1 lost", loss, 1, "", most=True))
        elif which == SMALL:
            goals.append(Goal("AlexNet, its dense layers pruned gradually: top-1", top1, 53.86, " %"))
            goals.append(Goal("AlexNet, the same: on disk", size and size / 1e6, 93.96, " MB", most=True))
    return goals


def _sweep(records: Sequence[dict[str, Any]], style: str) -> str:
    """The penalty and the decimals of L1 in rows and columns: zeros, and points of top-1 lost."""
    found: dict[tuple[str, int, int, float], dict[int, str]] = {}
    for record in records:
        steps = variants.find(record["cell"]["variant"]).steps
        promise, accuracy = record.get("promise"), record["accuracy"] or {}
        if len(steps) != 1 or steps[0].technique.name != "l1" or not promise or accuracy.get("loss") is None:
            continue
        zeros = 1 - promise["parameters_nonzero"] / promise["parameters_dense"]
        options = steps[0].options
        cell, epochs = record["cell"], promise["trainings"][-1]["epochs"]
        row = found.setdefault((cell["model"], cell["image_size"], epochs, options["penalty"]), {})
        row[options["decimals"]] = f"{zeros:.1%}, {accuracy['top1']:.2%} ({-100 * accuracy['loss']:+.2f})"
    if not found:
        return ""
    decimals = sorted({each for row in found.values() for each in row})
    rows = [
        [name, str(size), str(epochs), f"{penalty:g}", *(row.get(each, NOTHING) for each in decimals)]
        for (name, size, epochs, penalty), row in sorted(found.items())
    ]
    words = (
        "L1 and rounding: zeros, top-1 (points beside the dense net)\n"
        "(the Jetson Nano study, figures 11 and 12, Mixer-B/16: 97.5 % zeros at penalty 0.01 and 1 decimal, no accuracy lost)"
    )
    heads = ["model", "pixels", "epochs", "penalty", *(f"{each} decimal{'s' if each > 1 else ''}" for each in decimals)]
    return f"{words}\n\n{tabulated(rows, heads, LEFT, style)}"


def _stages(records: Sequence[dict[str, Any]], style: str) -> str:
    """What Deep Compression's file would take after each stage, and takes."""
    rows = []
    for record in records:
        stages = (record.get("promise") or {}).get("stages")
        if stages:
            sizes = [f"{stages[stage] / 1e3:.4g}" for stage in ("dense", "pruned", "shared", "coded")]
            cell = record["cell"]
            rows.append([cell["model"], cell["variant"], *sizes, f"{stages['dense'] / stages['coded']:.1f}x"])
    heads = ["model", "variant", "dense, kB", "pruned", "shared", "coded", "smaller"]
    return f"Deep Compression, stage by stage\n\n{tabulated(rows, heads, LEFT, style)}" if rows else ""
