"""What the suite itself costs: `plumbline overhead`. Figures are for this machine, and best when it is idle."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median

from plumbline import PlumblineError
from plumbline.harness import journal, timing
from plumbline.harness.lock import holder, lock_machine
from plumbline.harness.machine import here, limited_as
from plumbline.harness.meters import power_csv
from plumbline.harness.meters.running import LEAST_S, LEAST_WINDOW_S, Running, Watch
from plumbline.harness.probe.disturbance import Disturbance
from plumbline.harness.probe.memory import maximum_resident_bytes
from plumbline.harness.record import Record
from plumbline.harness.session.session import REPOSITORY
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import paired_ratio

CELL_S = {"AVX-512": 0.05, "AVX2": 0.1}  # the limits of a cell's fixed cost, by the vectors of the processor
TIMER_SHARE = 0.005
WATCHED_S, WATCHED_SHARE = 0.005, 0.01  # a workload, and by what share it may be slower where all is read beside it
REMOTE_S = 0.3  # that a cell may cost more at another place, over ssh on loopback or in a container
SMALLEST = "plumbline.harness.studies.smallest:SMALLEST"


class NotMeasured(PlumblineError):
    """A session whose cost is measured has not ended as it should; the message has its last words."""


def elsewhere(progress: Callable[[str], None], target: str, quick: bool = False) -> list[str]:
    """Measure and print what a cell costs more at another place; returns what missed its limit, nothing of a quick run."""
    count = 4 if quick else 16
    with tempfile.TemporaryDirectory() as folder:
        cost = {}
        for name in ("cpu", target):
            progress(f"running cells of the smallest net there is on {name}")
            cost[name] = fixed_cost(count, Path(folder) / name.replace("/", "-"), name)
        progress("")
    more = cost[target] - cost["cpu"]
    missed = more > REMOTE_S and not quick
    found = f"{cost['cpu']:.3f} s here, {cost[target]:.3f} s on {target}: {more:+.3f} s"
    print(f"{here()}\nfixed cost of a cell after the first: {found}   limit {REMOTE_S:g} s more{'   missed' if missed else ''}")
    return [f"a cell on {target}"] if missed else []


def report(progress: Callable[[str], None], quick: bool = False, run: Path | None = None) -> list[str]:
    """Measure and print every figure beside its limit; returns those that missed it, none of them of a quick run.

    Says to `progress` what it does. Raises `Busy` while a session measures on this machine.
    """
    missed: list[str] = []

    def line(what: str, got: str, limit: str, holds: bool = True) -> None:
        print(f"{what:<52} {got:>24}   limit {limit}{'' if holds or quick else '   missed'}", flush=True)
        if not (holds or quick):
            missed.append(what)

    kind = limited_as()
    most = CELL_S[kind]
    print(f"{here()}; {'under a minute' if quick else 'some 15 minutes'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        progress("running cells of the smallest net there is")
        cost = fixed_cost(4 if quick else 16, Path(folder))
        progress("")
        line("fixed cost of a cell, median after the first", f"{cost:.3f} s", f"{most:g} s with {kind}", cost <= most)
        lock = lock_machine(0, holder())  # the sessions above and below take it themselves
        iteration = iteration_cost(2000 if quick else 200_000)
        line("cost of a timed iteration over a bare loop", f"{iteration * 1e6:.2f} µs", "2 µs", iteration <= 2e-6)
        for cells in (1_000,) if quick else (10_000, 100_000):
            progress(f"collecting {cells:,} cells")
            took, peak = collection(cells)
            progress("")
            limit = "5 s and 200 MB" if cells == 10_000 else "linear" if cells > 10_000 else "-"
            holds = cells != 10_000 or (took <= 5 and peak <= 200e6)
            line(f"collecting {cells:,} cells", f"{took:.1f} s and {peak / 1e6:.0f} MB", limit, holds)
        for seconds, rounds in ((1e-3, 1500), (30e-3, 150)):  # torch is imported from here on
            progress(f"timing a product of {seconds * 1e3:g} ms here and by torch's Timer, in turns")
            difference, low, high = against_timer(seconds, 6 if quick else rounds)
            progress("")
            what = f"median of {seconds * 1e3:g} ms against torch's Timer"
            holds = low <= TIMER_SHARE and high >= -TIMER_SHARE
            line(what, f"{difference:+.2%} ({low:+.2%}..{high:+.2%})", f"{TIMER_SHARE:.1%}", holds)
        progress(f"timing a product of {WATCHED_S * 1e3:g} ms with all meters and without, in turns")
        difference, low, high, meters = watched(6 if quick else 60)
        progress("")
        what = f"{WATCHED_S * 1e3:g} ms, all meters on against all off"
        limit = f"{WATCHED_SHARE:.0%} ({', '.join(meters)})"
        line(what, f"{difference:+.2%} ({low:+.2%}..{high:+.2%})", limit, low <= WATCHED_SHARE)
        lock.release()
        if run is None:
            what = "a cell of the default tier" if quick else "the default tier, which takes minutes,"
            print(f"running {what} for its shares; --run DIR takes those of a run that is there", flush=True)
        selection = ["-k", "small_cnn-dense-eager-fp32-b1"] if quick else []
        wall, records = (None, journal.read(run)) if run else _measure(Path(folder) / "default", selection, progress)
        progress("")
        for name, share in shares(records, wall).items():
            line(f"share of the default tier's time: {name}", f"{share:.0%}", "-")
    return missed


def _measure(run: Path, options: list[str], progress: Callable[[str], None] = lambda text: None) -> tuple[float, list[Record]]:
    """Run `pytest benchmarks/` into `run`; its wall time in seconds, and its records. Red cells are no hindrance."""
    command = [sys.executable, "-m", "pytest", str(REPOSITORY / "benchmarks"), "-q", "--run-dir", str(run), *options]
    start, said = time.perf_counter(), ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY) as process:
        for line in process.stdout or ():
            said = (said + line)[-500:]
            if line.startswith("["):  # a cell, and the time left
                progress(line.strip())
    wall = time.perf_counter() - start
    if process.returncode not in (0, 1):
        raise NotMeasured(f"{' '.join(command[2:])} ended with {process.returncode}: {said.strip()}")
    return wall, journal.read(run)


def fixed_cost(cells: int, folder: Path, target: str = "cpu") -> float:
    """Seconds of a cell that went neither into building, checks, warm-up nor samples, in a real session of `cells` cells.

    No window of a meter of energy, no waiting for a calm or a cooler machine is in it: what is asked for is no fixed cost.
    The median over all cells but the first, and what pytest and the session take between two cells: the wall time of
    this session, less that of one with a single cell, less the cells themselves.
    """
    walls: list[float] = []
    records: list[Record] = []
    folder.mkdir(exist_ok=True)
    for count in (1, cells + 1):
        path = folder / f"{count}.toml"
        batches = ", ".join(str(batch) for batch in range(1, count + 1))
        text = f'[[tier.default.cells]]\nmodel = ["{SMALLEST}"]\nbatch = [{batches}]\ntarget = ["{target}"]\n'
        path.write_text(f"[tier.default]\nsampling_s = 0.05\nwarmup_s = 0.05\nenergy_s = 0\naccuracy_images = 0\n{text}")
        wall, records = _measure(folder / str(count), ["--matrix", str(path), "--calm", "0", "--cool", "0"])
        walls.append(wall)
    between = (walls[1] - walls[0] - sum(record.seconds for record in records[1:])) / cells
    return median(record.seconds - sum(_parts(record).values()) for record in records[1:]) + max(0.0, between)


def _parts(record: Record) -> dict[str, float]:
    """Seconds of a cell by what they were for."""
    kinds = [record.latency.model, record.latency.with_transfer] if record.latency else []
    return {
        "counted samples": sum(sum(kind.samples_s) for kind in kinds),
        "warm-up": sum(kind.warmup_s for kind in kinds),
        "checks": sum(record.steps_s.get(step, 0.0) for step in ("counts", "agreement", "accuracy")),
        "building": record.prepared.seconds if record.prepared else 0.0,
    }


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
        timing.sample(nothing, nothing, count)
        return time.perf_counter() - start

    return median(timed() - bare() for _ in range(5)) / count


def against_timer(seconds: float, rounds: int) -> tuple[float, float, float]:
    """Return how much longer this suite's durations are than those of `torch.utils.benchmark.Timer`, of a matrix product.

    The median over pairs, as a share, and the ends of its 95 % interval, which takes six of them. The limit is missed where the
    interval lies beyond it.

    The two take turns, a call each, in random order; the untimed calls before are the same in number, and nothing is allocated:
    a fresh result costs page faults, or none, by what ran before it. A positive difference says that this suite's are longer.
    """
    import torch
    from torch.utils.benchmark import Timer

    torch.set_num_threads(1)
    call = _workload(seconds)
    # It makes two untimed calls of its own. Its own clock asks for an accelerator before it looks at the time, and the last of
    # these questions is inside what it times: 1.6 µs, some 10 when that code has left the caches (1 % of 1 ms).
    timer = Timer(stmt="call()", globals={"call": call}, num_threads=1, timer=time.perf_counter)
    turns: dict[str, Callable[[], float]] = {
        "plumbline": lambda: _after_two(call),
        "Timer": lambda: timer.timeit(1).raw_times[0],
    }
    taken = timing.interleave(turns, rounds=rounds)
    found = paired_ratio(taken["plumbline"], taken["Timer"])
    assert found.interval is not None, f"expected six pairs at least, got {found.pairs}"
    return found.median - 1, found.interval[0] - 1, found.interval[1] - 1


def watched(rounds: int) -> tuple[float, float, float, list[str]]:
    """Return how much longer a matrix product of 5 ms takes while all is read that a cell reads, and which meters there are.

    As `against_timer` does: the median over pairs, as a share, and the ends of its 95 % interval, which takes six of them. One of
    a pair is the mean of half a second, so that a reading that falls into few of the products counts.
    """
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return beside_meters(_workload(WATCHED_S), _with_a_file(Path(folder) / "power.csv"), rounds)


def beside_meters(
    call: Callable[[], object], watch: Watch, rounds: int, clock: timing.Clock = time.perf_counter
) -> tuple[float, float, float, list[str]]:
    """Let a call take turns with itself beside all meters, those of energy as in their window; see `watched`."""
    samples: list[float] = []
    meters: dict[str, None] = {}

    def once() -> None:
        samples.extend(timing.sample(call, timing.nothing, 1, clock))

    def on() -> float:
        samples.clear()
        disturbance, reading = Disturbance(), Running()
        energy = watch.run(once, timing.nothing)
        telemetry = reading.read(len(samples))
        disturbance.read()
        meters.update(dict.fromkeys(name for name, found in energy.items() if found.inferences))
        meters.update(dict.fromkeys(name for name, found in telemetry.items() if found.values))
        return fmean(samples[-max(found.inferences or 0 for found in energy.values()) :])  # without those before the window

    def off() -> float:
        return fmean(timing.sample(call, timing.nothing, round(LEAST_WINDOW_S / WATCHED_S), clock))

    taken = timing.interleave({"on": on, "off": off}, rounds=rounds)
    found = paired_ratio(taken["on"], taken["off"])
    assert found.interval is not None, f"expected six pairs at least, got {found.pairs}"
    return found.median - 1, found.interval[0] - 1, found.interval[1] - 1, list(meters)


def _with_a_file(file: Path) -> Watch:
    """Open all meters of energy, an external one among them whose file is always new: it is read as often as any meter is."""
    rows, before = 200, os.environ.get(power_csv.FILE)
    file.write_text("".join(f"{row * LEAST_S['W']:.2f},{10 + row % 2}\n" for row in range(rows)))
    os.environ[power_csv.FILE] = str(file)
    try:
        return Watch(Settings().energy_s, time_of_day=lambda: (rows - 1) * LEAST_S["W"])
    finally:
        del os.environ[power_csv.FILE]
        if before is not None:
            os.environ[power_csv.FILE] = before


def _after_two(call: Callable[[], object]) -> float:
    call()
    call()
    return timing.sample(call, timing.nothing, 1)[0]


def _workload(seconds: float) -> Callable[[], object]:
    """Return a matrix product of about that length."""
    import torch

    size = 64
    while True:
        left = torch.randn(size, size)
        call = partial(torch.mm, left, left, out=torch.empty(size, size))
        took = median(timing.sample(call, timing.nothing, 3))
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
        raise NotMeasured(f"pytest --collect-only ended with {process.returncode}")
    return time.perf_counter() - start, maximum_resident_bytes(usage)


def shares(records: list[Record], wall: float | None = None) -> dict[str, float]:
    """Return what a session of `wall` seconds was spent on; without it, what its cells were.

    Preparing is building, and making the reference (with training, where there was any) for the first cell of a model.
    """
    total = wall or sum(record.seconds for record in records)
    parts = [{**_parts(record), "preparing": record.steps_s.get("prepared", 0.0)} for record in records]
    sums = {name: sum(part[name] for part in parts) for name in ("counted samples", "warm-up", "checks", "preparing")}
    return {**{name: seconds / total for name, seconds in sums.items()}, "rest": 1 - sum(sums.values()) / total}
