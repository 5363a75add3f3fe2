"""What the suite itself costs: `python -m harness overhead`. Figures are for this machine, and best when it is idle."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness import journal, latency
from harness.ask import Probe, ProbeServer
from harness.cell import Cell
from harness.session import REPOSITORY
from harness.settings import Settings
from models import Model
from models.layers import Layer, linear

if TYPE_CHECKING:
    from torch import nn


def _smallest_layers(image_size: int, channels: int, classes: int) -> Iterator[Layer]:
    yield linear("1", channels * image_size**2, classes)


def _smallest_build(image_size: int, channels: int, classes: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, classes))


# As little of a model as can still be checked: what its cell takes is what any cell takes.
EMPTY = Model("empty", _smallest_build, _smallest_layers, data=("mnist",), sizes=range(1, 225), source="harness/overhead.py")


def report(quick: bool = False, run: Path | None = None) -> None:
    """Measure and print every figure beside its limit."""
    _line("fixed cost of a cell, median after the first", f"{fixed_cost(3 if quick else 15):.3f} s", "0.25 s")
    _line("cost of a timed iteration over a bare loop", f"{iteration_cost(2000 if quick else 200_000) * 1e6:.2f} µs", "2 µs")
    for cells in (1_000,) if quick else (10_000, 100_000):
        took, peak = collection(cells)
        limit = "5 s and 200 MB" if cells == 10_000 else "linear" if cells > 10_000 else "-"
        _line(f"collecting {cells:,} cells", f"{took:.1f} s and {peak / 1e6:.0f} MB", limit)
    for seconds, rounds in ((1e-3, 1500), (30e-3, 150)):  # torch is imported from here on
        difference = against_timer(seconds, 5 if quick else rounds)
        _line(f"median of {seconds * 1e3:g} ms against torch's Timer", f"{difference:+.2%}", "0.5 %")
    with tempfile.TemporaryDirectory() as folder:
        run = run or _measure(Path(folder) / "run", ["-k", "small_cnn-dense-eager-fp32-b1"] if quick else [])
        for name, share in shares(journal.read(run)).items():
            _line(f"share of the cells' time: {name}", f"{share:.0%}", "-")


def _measure(run: Path, selection: list[str]) -> Path:
    """Run the default tier, or a selection of it, into `run`."""
    command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "-q", "--run-dir", str(run), *selection]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return run


def _line(what: str, came: str, limit: str) -> None:
    print(f"{what:<52} {came:>24}   limit {limit}", flush=True)


def fixed_cost(repeats: int) -> float:
    """Seconds of a cell that went neither into building, checks, warm-up nor samples; median of all but the first."""
    cell = Cell("harness.overhead:EMPTY", "dense", "eager", "fp32", 1, 28, "cpu")
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "probe.log", "wb") as log:
        server = ProbeServer(log)
        server.start()
        settings = Settings(cache=Path(folder), sampling_s=0.05, warmup_s=0.05, accuracy_images=0)
        costs = []
        for _ in range(repeats + 1):
            probe = Probe(server, cell, settings)
            spent = probe.prepared().seconds
            for step in (probe.counts, probe.agreement, probe.accuracy):
                start = time.perf_counter()
                step()
                spent += time.perf_counter() - start
            found = probe.latency()
            spent += sum(sum(kind.samples_s) + kind.warmup_s for kind in (found.model, found.with_transfer))
            probe.memory()
            probe.close()
            costs.append(probe.seconds - spent)
        server.close()
    return median(costs[1:])


def iteration_cost(count: int) -> float:
    """Seconds that timing a call of nothing takes beyond a bare loop over the same call."""

    def nothing() -> None:
        pass

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(count):
            nothing()
        return time.perf_counter() - start

    def timed() -> float:
        start = time.perf_counter()
        latency.sample(nothing, nothing, count)
        return time.perf_counter() - start

    return median(timed() - bare() for _ in range(5)) / count


def against_timer(seconds: float, rounds: int) -> float:
    """Relative difference of our durations from `torch.utils.benchmark.Timer`'s on a matrix product; median over pairs.

    The two take turns, a call each, each after untimed calls, and who goes first is random.
    """
    import torch
    from torch.utils.benchmark import Timer

    torch.set_num_threads(1)
    call = _workload(seconds)
    timer = Timer(stmt="call()", globals={"call": call}, num_threads=1)  # it makes two untimed calls of its own
    ours: list[float] = []
    theirs: list[float] = []

    def us() -> None:
        call()
        call()
        ours.extend(latency.sample(call, _nothing, 1))

    turns: list[Callable[[], None]] = [us, lambda: theirs.extend(timer.timeit(1).raw_times)]
    with latency.quiet():
        for _ in range(rounds):
            random.shuffle(turns)
            for turn in turns:
                turn()
    # pairs share the machine's mood of the moment: their ratio has half the spread of the ratio of medians
    return median(a / b for a, b in zip(ours, theirs, strict=True)) - 1


def _nothing() -> None:
    pass


def _workload(seconds: float) -> Callable[[], Any]:
    """A matrix product of about that length."""
    import torch

    size = 64
    while True:
        left = torch.randn(size, size)
        call = partial(torch.mm, left, left)
        took = median(latency.sample(call, _nothing, 3))
        if took >= seconds:
            return call
        size = max(size + 8, round(size * min(2.0, (seconds / took) ** (1 / 3))))


def collection(cells: int) -> tuple[float, int]:
    """Seconds and peak bytes of a pytest that collects a matrix of that many cells, in a process of its own."""
    batches = ", ".join(map(str, range(1, cells // 10 + 1)))
    models = ", ".join(f'"mlp+width={width}"' for width in range(1, 11))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.toml"
        path.write_text(f'[[tier.default.cells]]\nmodel = [{models}]\nbatch = [{batches}]\ntarget = ["cpu"]\n')
        command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "--collect-only", "-qq", "--matrix", str(path)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"pytest --collect-only ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def shares(records: list[dict[str, Any]]) -> dict[str, float]:
    """What the cells of a run spent their time on; preparing includes the references, and training where there was any."""
    total = sum(kept["seconds"] for kept in records)
    kinds = [kept["latency"][kind] for kept in records if kept["latency"] for kind in ("model", "with_transfer")]

    def steps(*names: str) -> float:
        return sum(kept["steps_s"].get(name, 0.0) for kept in records for name in names)

    parts = {
        "counted samples": sum(sum(kind["samples_s"]) for kind in kinds),
        "warm-up": sum(kind["warmup_s"] for kind in kinds),
        "checks": steps("counts", "agreement", "accuracy"),
        "preparing": steps("prepared"),
    }
    parts["rest"] = total - sum(parts.values())
    return {name: seconds / total for name, seconds in parts.items()}
