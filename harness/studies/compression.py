"""`plumbline compression`: theoretical and realised gain of compression techniques, each figure beside its limit.

First what can be measured without training: one layer, pruning itself, whole nets in turns with their dense parents. Then the
tier `compression`, which trains; an interrupted one goes on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

from plumbline.harness import timing
from plumbline.harness.cell import Cell
from plumbline.harness.lock import holder, lock_machine
from plumbline.harness.machine import allowed_cpus, here, limited_as
from plumbline.harness.probe import memory
from plumbline.harness.readings import Readings, value_of
from plumbline.harness.record import Record
from plumbline.harness.session import matrix
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import paired_ratio
from plumbline.harness.studies.fastest import TIMES, Candidate, find, table, times
from plumbline.harness.verdicts.limits import Limit
from plumbline.harness.verdicts.qualification import qualify
from plumbline.harness.verdicts.realised import explained
from plumbline.harness.views.table import LEFT, NOTHING, compressed, mixed, tabulated
from plumbline.models.compression import variants
from plumbline.models.compression.variants import DENSE

if TYPE_CHECKING:
    from torch import nn

TIER, TIER_PART = "compression", "tier"
SHAPES, BATCHES, SPARSITIES = ((100, 10), (10_000, 100)), (1, 32, 128), (0.0, 0.5, 0.9, 0.95, 0.99)  # inputs, outputs
ROUNDS = 15
MIXER = "mixer_b16"
STUDENTS = ("mlp+width=256", "small_cnn+width=4", "small_mixer+blocks=2+width=32")
TEACHER = "small_cnn"  # of digits, or of MNIST where there is a data root
STUDENT_EPOCHS, SEEDS = 10, 3  # at least so many; in MNIST's two to four the labels are not yet learned
# The fastest dense configurations, to be raced with the sparse ones: what `plumbline fastest mixer_b16` puts first.
DENSE_RUNS = (
    ("eager", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8-dynamic"),
    ("exported", "int8-static"),
    ("openvino", "int8-static"),
)
Progress = Callable[[str], None]


MIXER_SPEEDUPS = {"AVX-512": (10, 20), "AVX2": (4.5, 9)}  # at 95 and 99 % zeros, by the vectors of the processor

Part = Callable[[Path | None, float, str, Progress], tuple[str, list[Limit]]]


def report(parts: Sequence[str], data: Path | None, seconds: float, style: str, progress: Progress) -> list[Limit]:
    """Measure and print the parts that are asked for, each as soon as it is there, then what was to be reached; returns that.

    Raises `Busy`.
    """
    goals: list[Limit] = []
    print(f"{here()}\n", flush=True)
    try:
        with lock_machine(0, holder()):
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


def scored(goals: Sequence[Limit], style: str) -> str:
    """Each figure beside its limit; nothing where nothing was to be reached."""
    if not goals:
        return ""
    rows = [
        [
            goal.figure,
            NOTHING if goal.got is None else f"{goal.got:.4g}{goal.unit}",
            f"at {'most' if goal.most else 'least'} {goal.limit:g}{goal.unit}",
            goal.verdict,
        ]
        for goal in goals
    ]
    return f"Limits\n\n{tabulated(rows, ['figure', 'got', 'limit', 'verdict'], ['figure', 'verdict'], style)}"


def layers(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Limit]]:
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
        Limit("slowest layer as chosen, over dense", min(chosen), 0.95, "x"),
        Limit("sparse over row-major COO, 10000x100, 99 % zeros, batches 32 and 128", min(over_coo), 10, "x"),
    ]
    return f"{words}\n\n{tabulated(rows, heads, ['layer', 'chosen'], style)}", goals


def _layer(inputs: int, outputs: int, batch: int, sparsity: float) -> tuple[list[str], float, float]:
    """Return a row of the table, and from it how much faster the chosen layer is than dense, and the sparse one than COO."""
    import torch
    from torch import nn

    from plumbline.models.compression.sparse import RowMajorLinear, SparseLinear, settle
    from plumbline.models.compression.unstructured import prune

    torch.manual_seed(0)
    dense = prune(nn.Linear(inputs, outputs), sparsity)
    assert isinstance(dense, nn.Linear)
    row_major = torch.randn(batch, inputs)
    channel_major = row_major.t().contiguous().t()
    chosen, sparse, coo = nn.Sequential(SparseLinear.of(dense)), SparseLinear.of(dense), RowMajorLinear.of(dense)
    with torch.inference_mode():
        won = settle(chosen, row_major, race=timing.best)
        calls: dict[str, Callable[[], Any]] = {
            "dense": partial(dense, row_major),
            "chosen": partial(chosen[0], row_major),
            "sparse": partial(sparse, channel_major),
            "coo": partial(coo, row_major),
        }
        times = timing.interleave_calls({name: (call, timing.nothing) for name, call in calls.items()}, rounds=ROUNDS)
    chosen_over_dense = paired_ratio(times["dense"], times["chosen"])
    assert chosen_over_dense.interval is not None, f"{ROUNDS} rounds have an interval"
    low, high = chosen_over_dense.interval
    ms = {name: f"{1e3 * median(values):.3g}" for name, values in times.items()}
    faster = paired_ratio(times["coo"], times["sparse"]).median
    shape = f"{inputs}x{outputs}"
    row = [shape, str(batch), f"{sparsity:.0%}", ms["dense"], "sparse" if won else "dense", f"{chosen_over_dense.median:.2f}x",
           f"{low:.2f}-{high:.2f}", ms["sparse"], ms["coo"], f"{faster:.1f}x"]  # fmt: skip
    return row, chosen_over_dense.median, faster


def pruning(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Limit]]:
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
        Limit(f"{count / 1e6:.1f} M weights pruned", took, 3, " s", most=True),
        Limit("memory for it besides the new net, of the weights", growth and 100 * growth / (4 * count), 100, " %", most=True),
    ]
    return f"Magnitude pruning\n\n{tabulated(rows, heads, [], style)}", goals


def mixer(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Limit]]:
    """Mixer-B/16 end to end: sparse and dense candidates in turns in one process, and the memory of each in its own."""
    sparse = [Cell(MIXER, f"prune{percent}+scope=layer+sparse", "eager", "fp32", 1, 224, "cpu") for percent in (90, 95, 99)]
    others = [Cell(MIXER, DENSE, runtime, precision, 1, 224, "cpu") for runtime, precision in DENSE_RUNS]
    dense = Cell(MIXER, DENSE, "eager", "fp32", 1, 224, "cpu")
    cells = [dense, *sparse, *(cell for cell in others if matrix.impossible(cell) is None)]
    with _measuring(data, seconds) as (settings, log):
        found = find(cells, settings, log, progress)
        with closing(Connection(log, progress=progress)) as server:
            held = {cell.variant: _memory(CellProbe(server, cell, settings)) for cell in [dense, *sparse]}
    heads = ["variant", "weights, MB", "of dense", "process peak, MB"]
    weights, peak = (
        {name: value_of(readings, quantity) or 0.0 for name, readings in held.items()} for quantity in ("weights", "process_peak")
    )
    shown = [
        [name, f"{weights[name] / 1e6:.1f}", f"{weights[name] / weights[DENSE]:.1%}", f"{peak[name] / 1e6:.0f}"] for name in held
    ]
    words = "Mixer-B/16 at 224 pixels, batch 1, against dense eager fp32"
    kind = limited_as()
    goals = [
        Limit(f"Mixer-B/16, {percent} % zeros, over dense eager fp32, with {kind}", _speedup(found, cell), limit, "x")
        for percent, cell, limit in zip((95, 99), sparse[1:], MIXER_SPEEDUPS[kind])
    ]
    at_95 = sparse[1].variant
    goals += [
        Limit("its weights at 95 % zeros, of dense", 100 * weights[at_95] / weights[DENSE], 20, " %", most=True),
        Limit("its process's peak, of dense", 100 * peak[at_95] / peak[DENSE], 100, " %", most=True),
    ]
    text = f"{words}\n\n{table(found, style)}\n\nMemory of a cell that loads the artefact"
    return f"{text}\n\n{tabulated(shown, heads, ['variant'], style)}", goals


def _speedup(found: Sequence[Candidate], cell: Cell) -> float | None:
    return next(candidate.speedup for candidate in found if candidate.cell == cell)


def structured(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Limit]]:
    """Whole channels removed, against dense eager fp32, in turns in one process."""
    found: list[Candidate] = []
    for model in ("vgg16", "resnet50"):
        cells = [Cell(model, variant, "eager", "fp32", 1, 224, "cpu") for variant in (DENSE, "filter25", "filter50", "filter75")]
        with _measuring(data, seconds) as (settings, log):
            found += sorted(find(cells, settings, log, progress), key=lambda candidate: cells.index(candidate.cell))
    rows = [[candidate.cell.model, candidate.cell.variant, *times(candidate)] for candidate in found if candidate.reason is None]
    words = "Channels removed, batch 1, 224 pixels, against dense eager fp32"
    goals = [
        Limit(f"{candidate.cell.model} without half of its MACs, over dense", candidate.speedup, 1.6, "x")
        for candidate in found
        if candidate.cell.variant == "filter50"
    ]
    return f"{words}\n\n{tabulated(rows, ['model', 'variant', *TIMES], LEFT, style)}", goals


def reduction(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Limit]]:
    """Smaller nets of the same make: the Mixers of table 1 and the study, and the study's MLP in other depths and widths."""
    from plumbline.models import find as model
    from plumbline.models.layers import macs

    rows = []
    families = {224: ("mixer_b16", "mixer_m16", "mixer_s16"), 28: ("mlp+depth=16", "mlp", "mlp+width=512", "mlp+width=128")}
    for size, names in families.items():
        cells = [Cell(name, DENSE, "eager", "fp32", 1, size, "cpu") for name in names]
        with _measuring(None, seconds) as (settings, log):
            found = {candidate.cell.model: candidate for candidate in find(cells, settings, log, progress)}
        needs = [macs(model(name).formula(size) or ()) for name in names]
        for name, need in zip(names, needs):
            rows.append([name, str(size), f"{need / 1e6:.4g}", f"{needs[0] / need:.2f}x", *times(found[name])])
    heads = ["model", "pixels", "MACs, M", "theoretical", *TIMES]
    words = "Static reduction: nets of one make, batch 1, dense eager fp32, against the largest of them, in turns in one process"
    return f"{words}\n\n{tabulated(rows, heads, ['model'], style)}", []


def distillation(data: Path | None, seconds: float, style: str, progress: Progress) -> tuple[str, list[Limit]]:
    """Students with and without a teacher, from the same three seeds; trained once, and kept in the cache."""
    from dataclasses import replace
    from statistics import mean, stdev

    from plumbline.harness.probe.training import context_of
    from plumbline.models import find as model
    from plumbline.models.data.datasets import DATASETS
    from plumbline.models.training.training import finished

    settings = Settings.here(data, train_minutes=15)
    size = 28 if DATASETS["mnist"].missing(settings.data) is None else 8
    rows = []
    for name in STUDENTS:
        student, top1 = model(name), dict[str, list[float]]()
        context = context_of(student, size, settings, progress)
        for variant in (DENSE, f"distill+teacher={TEACHER}"):
            for seed in range(SEEDS):
                task = context.task(variants.find(variant))
                recipe = task.recipe.of_epochs(max(STUDENT_EPOCHS, task.recipe.epochs))
                task = replace(task, recipe=replace(recipe, seed=seed))
                context.train(task)
                top1.setdefault(variant, []).append((context.record(task) or {})["top1"])
        alone, taught = top1.values()
        teacher = finished(context.parent_weights(model(TEACHER)).parent) or {}
        gains = [100 * (one - other) for one, other in zip(taught, alone)]
        spread = [f"{mean(values):.2%} ± {100 * stdev(values):.2f}" for values in (alone, taught)]
        rows.append([name, f"{teacher['top1']:.2%}", *spread, f"{mean(gains):+.2f} ± {stdev(gains):.2f}",
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
    """Yield the settings of one measurement, and a log for its probes."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        yield Settings.here(data, sampling_s=seconds, time_limit_s=900, accuracy_images=0), log


def _memory(probe: CellProbe) -> Readings:
    """Read what a cell takes that has qualified."""
    try:
        qualify(probe)
        return probe.memory()
    finally:
        probe.close()


def tables(records: Iterable[Record], style: str = "simple") -> str:
    """Each variant of the tier beside its dense parent, with its theoretical and its realised gain."""
    held = list(records)
    unfit = [f"- {record.id}: {record.outcome}: {record.reason}" for record in held if record.reason]
    words = "\n".join([*(f"- {line}" for line in [*explained(held), *mixed(held)]), *unfit])
    shown = [compressed(held, style), words, _sweep(held, style), _stages(held, style), scored(goals_of(held), style)]
    return "\n\n".join(part for part in shown if part)


DEEP = ("mlp", 28, "gradual97+epochs=5+share+bits=4+tune+huffman")
THIN = ("resnet56", 32, "filter50+tune+epochs=8")
SMALL = ("alexnet_cifar", 32, "gradual90+layers=linear+share+huffman")


def goals_of(records: Iterable[Record]) -> list[Limit]:
    """Return what was to be reached by cells of the tier, of those that were run."""
    goals = []
    for record in records:
        promise, loss = record.promise, None if record.accuracy is None else record.accuracy.loss
        points, top1 = (None if value is None else 100 * value for value in (loss, record.top1))
        size = None if promise is None else promise.bytes
        smaller = None if promise is None or size is None else promise.bytes_dense / size
        which = (record.cell.model, record.cell.image_size, record.cell.variant)
        if which == DEEP:
            goals.append(Limit("Deep Compression of the MNIST MLP", smaller, 30, "x smaller"))
            goals.append(Limit("Deep Compression of the MNIST MLP: points of top-1 lost", points, 0.3, "", most=True))
        elif which == THIN:
            goals.append(Limit("ResNet-56 without half of its MACs, 8 epochs: points of top-1 lost", points, 1, "", most=True))
        elif which == SMALL:
            goals.append(Limit("AlexNet, its dense layers pruned gradually: top-1", top1, 53.86, " %"))
            goals.append(Limit("AlexNet, the same: on disk", size and size / 1e6, 93.96, " MB", most=True))
    return goals


def _sweep(records: Sequence[Record], style: str) -> str:
    """Tabulate the penalty and the decimals of L1 in rows and columns: zeros, and points of top-1 lost."""
    found: dict[tuple[str, int, int, float], dict[int, str]] = {}
    for record in records:
        cell, promise, accuracy = record.cell, record.promise, record.accuracy
        steps = variants.find(cell.variant).steps
        if len(steps) != 1 or steps[0].technique.name != "l1" or promise is None or accuracy is None or accuracy.loss is None:
            continue
        zeros, options = 1 - promise.parameters_nonzero / promise.parameters_dense, steps[0].options
        row = found.setdefault((cell.model, cell.image_size, promise.trainings[-1]["epochs"], options["penalty"]), {})
        row[options["decimals"]] = f"{zeros:.1%}, {accuracy.top1:.2%} ({-100 * accuracy.loss:+.2f})"
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


def _stages(records: Sequence[Record], style: str) -> str:
    """Return what Deep Compression's file would take after each stage, and takes."""
    rows = []
    for record in records:
        stages = None if record.promise is None else record.promise.stages
        if stages:
            sizes = [f"{stages[stage] / 1e3:.4g}" for stage in ("dense", "pruned", "shared", "coded")]
            rows.append([record.cell.model, record.cell.variant, *sizes, f"{stages['dense'] / stages['coded']:.1f}x"])
    heads = ["model", "variant", "dense, kB", "pruned", "shared", "coded", "smaller"]
    return f"Deep Compression, stage by stage\n\n{tabulated(rows, heads, LEFT, style)}" if rows else ""
