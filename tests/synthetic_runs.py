"""Runs that nobody has measured, as large as one likes: always the same ones, shaped like real ones in every field.

`python -m tests.synthetic_runs FOLDER 2000` writes one, to look at. Its numbers follow from a simple model of a machine, and
its session is called synthetic.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from plumbline.harness import messages
from plumbline.harness.cell import Cell, compares_with_parent
from plumbline.harness.facts import (
    Accuracy,
    Agreement,
    Bound,
    Counts,
    Delivery,
    Energy,
    Latency,
    Percentile,
    Prepared,
    Promise,
    Timing,
    WeightsUsed,
    Work,
)
from plumbline.harness.journal import NAME
from plumbline.harness.machine import Machine
from plumbline.harness.outcomes import FAILED, OK, OUT_OF_MEMORY, UNSUPPORTED
from plumbline.harness.readings import Readings, read
from plumbline.harness.record import Record
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import loadgen_bound, median_interval, percentile, wilson_interval

LARGE = 5_000  # cells; from there on a grid has more of everything
IMAGES = 10_000
SAMPLES = 600  # of a latency, on average


class Net(NamedTuple):
    """Parameters, MACs of an image of 224 pixels, and top-1."""

    parameters: int
    macs: int
    top1: float


NETS = {
    "squeezenet1_1": Net(1_235_496, 349_152_000, 0.58),
    "mobilenet_v3_large": Net(5_483_032, 216_589_760, 0.75),
    "efficientnet_b0": Net(5_288_548, 385_870_000, 0.77),
    "resnet18": Net(11_689_512, 1_814_073_344, 0.697),
    "resnet34": Net(21_797_672, 3_663_761_408, 0.733),
    "resnet50": Net(25_557_032, 4_089_184_256, 0.761),
    "resnet101": Net(44_549_160, 7_801_405_440, 0.773),
    "vgg11": Net(132_863_336, 7_609_090_048, 0.69),
    "vgg16": Net(138_357_544, 15_470_264_320, 0.716),
    "vit_s_16": Net(22_050_664, 4_608_338_304, 0.79),
    "vit_b_16": Net(86_567_656, 17_563_828_224, 0.81),
    "mixer_s16": Net(18_528_264, 3_778_019_328, 0.73),
}
# Of what is left: the share of MACs, and what it costs in top-1.
VARIANTS = {
    "dense": (1.0, 0.0),
    **{
        f"prune{percent}+sparse": (1 - percent / 100, 0.06 * (percent / 100) ** 6)
        for percent in (50, 90, 95, 60, 70, 80, 85, 97, 99)
    },
    **{f"filter{percent}": (1 - percent / 100, 0.12 * (percent / 100) ** 2) for percent in (50, 10, 20, 30, 40, 60, 70)},
    **{f"svd+rank={percent}%": (percent / 100, 0.1 * (1 - percent / 100) ** 3) for percent in (50, 25, 75)},
}
# MACs a second of the first target, and how much longer the first inference takes than the others.
WAYS = {
    ("eager", "fp32"): (60e9, 5.0),
    ("onnxruntime", "fp32"): (110e9, 2.0),
    ("openvino", "fp32"): (120e9, 3.0),
    ("onnxruntime", "int8-static"): (350e9, 2.0),
    ("openvino", "int8-static"): (420e9, 3.0),
    ("eager", "bf16"): (150e9, 5.0),
    ("compiled", "fp32"): (95e9, 900.0),
    ("onnxruntime", "int8-dynamic"): (90e9, 2.0),
    ("openvino", "bf16"): (260e9, 3.0),
    ("compiled", "bf16"): (190e9, 900.0),
    ("exported", "fp32"): (62e9, 5.0),
    ("exported", "bf16"): (155e9, 5.0),
}
FLAGS = " ".join(f"flag{number}" for number in range(110)) + " avx2 avx512f avx512_vnni avx512_bf16"
MACHINES = {
    "cpu": Machine(
        id="5ynthe71c001", cpu_model="Synthetic CPU", cpu_flags=FLAGS, cores_physical=2, cores_logical=2, cores_allowed=2,
        memory_bytes=24 << 30, system="Linux", architecture="x86_64", kernel="6.18", python="3.11.7", torch="2.15.0",
        torch_cpu_capability="AVX512", blas="mkl", onednn=True, threads=2, git_revision="5ca1ab1e" * 5, git_dirty=False,
        libraries=dict.fromkeys(("torchvision", "timm", "numpy", "ptflops", "onnx", "onnxruntime", "openvino"), "1.0"),
    ),
    "board@cuda": Machine(
        id="5ynthe71c002", cpu_model="Cortex-A78AE", cpu_flags="fp asimd", cores_allowed=6, memory_bytes=8 << 30, system="Linux",
        accelerator="Synthetic Board, driver 1.0", architecture="aarch64", kernel="5.15", python="3.12", torch="2.15.0",
        threads=6,
    ),
}  # fmt: skip
FASTER = {"cpu": 1.0, "board@cuda": 4.0}
BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)
SETTINGS = Settings()


def cells(count: int) -> Iterator[Cell]:
    """Yield the cells of a grid. A large one has more variants, ways to run, sizes and targets."""
    large = count > LARGE
    axes = (
        list(MACHINES)[: 2 if large else 1],
        (224, 160, 288, 384)[: 4 if large else 2],
        (1, 4, 8, 16, 32)[: 5 if large else 4],
        list(WAYS)[: 12 if large else 6],
        NETS,
        list(VARIANTS)[: 20 if large else 4],
    )
    found = (Cell(model, variant, *way, batch, size, target) for target, size, batch, way, model, variant in product(*axes))
    return islice(found, count)


def records(
    of: Iterable[Cell], *, session: str = "synthetic", seed: int = 0, slower: float = 1.0, samples: int = SAMPLES
) -> Iterator[Record]:
    """Yield a record of each cell. All latencies are `slower` by that factor; a latency has so many `samples` on average."""
    chance = numpy.random.default_rng(seed)
    for number, cell in enumerate(of):
        yield _record(cell, number, session, chance, slower, samples)


def variants_of_one_model(count: int) -> list[Cell]:
    """Return cells of so many variants of one net, and of their parent."""
    return [
        Cell("resnet18", name, "eager", "fp32", 1, 224, "cpu")
        for name in ("dense", *(f"prune{n / count:.4%}" for n in range(1, count)))
    ]


def write(folder: Path, found: Iterable[Record]) -> Path:
    """Write a run at once: `Journal` waits for the disk after each record."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("wb") as file:
        file.writelines(messages.encode(record) + b"\n" for record in found)
    return folder


def run(folder: Path, count: int) -> Path:
    """Write the run of a grid of so many cells."""
    return write(folder, records(cells(count)))


def _record(cell: Cell, number: int, session: str, chance: numpy.random.Generator, slower: float, samples: int) -> Record:
    macs, share, top1 = _costs(cell)
    usual: dict[str, Any] = {
        "id": cell.id,
        "revision": "5ca1ab1e5ca1",
        "session": session,
        "cell": cell,
        "machine": MACHINES[cell.target],
        "started_at": (BEGAN + timedelta(seconds=4 * number)).isoformat(),
        "seconds": 4.0,
        "steps_s": {"prepared": 0.2, "counts": 0.01, "agreement": 0.1, "accuracy": 1.0, "latency": 2.5, "memory": 0.01},
        "settings": SETTINGS,
        "state_before": _state(chance),
        "state_after": _state(chance),
    }
    net = NETS[cell.model]
    needed = 2e7 * cell.batch * (cell.image_size / 224) ** 2 * (macs / 1e9) ** 0.5
    if cell.model.startswith("vit") and cell.precision == "int8-dynamic":
        return Record(**usual, outcome=UNSUPPORTED, reason="no kernel for an attention in int8-dynamic")
    if needed > 1.2e9:
        return Record(
            **usual, outcome=OUT_OF_MEMORY, reason=f"the process needed {needed:.0f} bytes beyond its limit of 2147483648 bytes"
        )
    if chance.random() < 0.01:
        return Record(**usual, outcome=FAILED, reason=f"RMS error {chance.random():.2g} (tolerance 0.01)")
    rate, cold = WAYS[cell.runtime, cell.precision]
    median_s = slower * (4e-5 + cell.batch * macs * share**0.7 / (rate * FASTER[cell.target])) * float(chance.lognormal(0, 0.05))
    weights = WeightsUsed("file", f"{cell.model}.safetensors", "0" * 64)
    variant = cell.variant != "dense"
    return Record(
        **usual,
        outcome=OK,
        prepared=Prepared(
            weights,
            net.parameters,
            threads=2,
            seconds=0.2,
            emulated=False,
            options={"threads": 2, "in_precision": 1.0},
            promise=_promise(net, macs, share) if variant else None,
        ),
        counts=_counts(net.parameters, macs),
        agreement=_agreement(float(chance.uniform(1e-8, 6e-6))),
        accuracy=_accuracy(cell, top1, net.top1),
        latency=_latency(median_s, cold, cell.batch, chance, samples),
        memory=_memory(cell, net.parameters * share, needed),
        delivery=_delivery(share, chance) if variant else None,
        bound=_bound(cell, net, macs, share),
    )


@cache
def _costs(cell: Cell) -> tuple[int, float, float]:
    """Return the MACs of an image, the share of them that a variant leaves, and its top-1."""
    net = NETS[cell.model]
    if cell.variant in VARIANTS:
        share, lost = VARIANTS[cell.variant]
    else:
        share = 1 - float(cell.variant.removeprefix("prune").rstrip("%")) / 100
        lost = 0.5 * (1 - share) ** 8
    lost += {"int8-static": 0.006, "int8-dynamic": 0.003}.get(cell.precision, 0.0) + 0.04 * abs(cell.image_size - 224) / 224
    return round(net.macs * (cell.image_size / 224) ** 2), share, round(IMAGES * (net.top1 - lost)) / IMAGES


def _latency(median_s: float, cold: float, batch: int, chance: numpy.random.Generator, samples: int) -> Latency:
    model, whole = (
        _timing(median_s * factor, batch, max(16, round(count * float(chance.uniform(0.3, 1.7)))), chance)
        for factor, count in ((1.0, samples), (1.1, samples // 2))
    )
    busy = float(chance.random() < 0.02)
    disturbance = {
        "seconds": read("s", "process", 1.0),
        "involuntary_switches": read("1", "process", 3.0),
        "major_faults": read("1", "process", 0.0),
        "waited": read("1", "process", 0.01 + 0.2 * busy),
        "others": read("1", "machine", 0.02),
        "throttled": read("1", "machine", None, "this machine does not count that"),
    }
    rails = _energy(float(chance.normal(14, 0.5)), median_s)
    none = Energy(
        unavailable="no RAPL zone in /sys/class/powercap: no x86 processor, a virtual machine, or hidden by a container"
    )
    telemetry = {"cpu_time": read("s", "process", 1.9 * median_s)}
    return Latency(
        cold * median_s,
        model,
        whole,
        False,
        "loadgen-early-stopping-99",
        disturbance,
        telemetry,
        [],
        {"rails": rails, "rapl": none},
    )


def _energy(watts: float, median_s: float) -> Energy:
    joules = watts * median_s
    return Energy(
        rail="VDD_IN", unit="W", update_s=0.1, resolution=0.01, joules=joules, interval=(0.97 * joules, 1.03 * joules),
        running_w=watts + 5, running_within_w=0.1, idle_w=5.0, idle_within_w=0.1, seconds=2.0, idle_s=2.0,
        inferences=round(2 / median_s), updates=20, samples=[watts + 5] * 20,
    )  # fmt: skip


def _timing(median_s: float, batch: int, count: int, chance: numpy.random.Generator) -> Timing:
    drawn = median_s * chance.lognormal(0, 0.03, count)
    drawn[chance.random(count) < 0.01] *= 2.5
    samples: list[float] = drawn.tolist()
    ordered = sorted(samples)
    bounds = {name: loadgen_bound(ordered, share) for name, share in SHARES.items()}
    percentiles = {
        name: Percentile(percentile(ordered, share), bounds[name], None if bounds[name] else "too few samples")
        for name, share in SHARES.items()
    }
    middle = percentile(ordered, 0.5)
    return Timing(samples, 64, 0.5, True, middle, median_interval(ordered), percentiles, batch / middle)


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def _counts(parameters: int, macs: int) -> Counts:
    route = {"parameters": parameters, "macs": macs}
    return Counts(parameters, macs, route, route, route, {"biases": 0, "activations": 0}, {}, {}, [])


def _agreement(error: float) -> Agreement:
    return Agreement(
        "the same weights in eager float64 on the CPU", 8, "pictures", 7.0, error, 3e-6, 0.0, 6.5e-6, 5e-5, 6.5e-6, 1.0
    )


def _bound(cell: Cell, net: Net, macs: int, share: float) -> Bound:
    seconds = macs * share * cell.batch / 2e12
    work = Work(cell.precision, macs, float(macs), 4 * net.parameters)
    return Bound(seconds, seconds, 0.0, work, 2e12, 2e10, 32 << 20, 1.5, "a synthetic machine", "made up")


def _promise(net: Net, macs: int, share: float) -> Promise:
    kept = round(net.parameters * share)
    return Promise(
        net.parameters, net.parameters, kept, kept, macs, macs, round(macs * share), 4 * net.parameters, 4 * kept, None
    )


def _delivery(share: float, chance: numpy.random.Generator) -> Delivery:
    speedup = share**-0.7 * float(chance.lognormal(0, 0.05))
    return Delivery(speedup, (0.97 * speedup, 1.03 * speedup), 20)


@cache
def _interval(top1: float) -> tuple[float, float]:
    return wilson_interval(round(IMAGES * top1), IMAGES)


def _accuracy(cell: Cell, top1: float, parents: float) -> Accuracy:
    loss = parents - top1 if compares_with_parent(cell) else None
    top5 = min(1.0, top1 + 0.15)
    return Accuracy(
        None, "synthetic pictures", IMAGES, IMAGES, 0, top1, top5, _interval(top1), _interval(top5), 0.3, None, IMAGES, "made up",
        None if loss is None else parents, loss, None if loss is None else loss - 0.005, 0.01,
    )  # fmt: skip


def _memory(cell: Cell, parameters: float, needed: float) -> Readings:
    weights = parameters * (1 if cell.precision.startswith("int8") else 2 if cell.precision == "bf16" else 4)
    return {
        "weights": read("byte", "model", weights),
        "inference": read("byte", "inference", needed),
        "first_inference": read("byte", "inference", 1.5 * needed),
        "process_peak": read("byte", "process", 4e8 + weights + needed),
        "process_base": read("byte", "process", 4e8),
    }


def _state(chance: numpy.random.Generator) -> Readings:
    return {
        "clock": read("Hz", "machine", float(chance.normal(2.6e9, 1e6))),
        "temperature": read("°C", "machine", float(chance.normal(55, 2))),
        "load_1min": read("1", "machine", float(chance.uniform(0.5, 2))),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, help="cells")
    found = parser.parse_args(arguments)
    run(found.folder, found.count)


if __name__ == "__main__":
    main()
