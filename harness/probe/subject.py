"""Inside the fresh process: one cell, prepared, checked and measured step by step, as the test asks for it.

Nothing is timed before the very object has qualified, whoever asks: a wrong model has no speed.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from plumbline import models
from plumbline.harness import environment, messages, roofline, runtimes, timing
from plumbline.harness.cell import Cell, compares_with_parent
from plumbline.harness.devices import Peaks
from plumbline.harness.facts import (
    Accuracy,
    Agreement,
    Audit,
    Energy,
    Latency,
    Layers,
    OnDevice,
    Outputs,
    Part,
    Prepared,
    Promise,
    WeightsUsed,
    Work,
)
from plumbline.harness.load import Loaded, Scenario
from plumbline.harness.machine import allowed_cpus, cpu_flags
from plumbline.harness.meters.meter import on_tegra
from plumbline.harness.meters.running import Running, Watch
from plumbline.harness.outcomes import FAILED, UNAVAILABLE, CellEnded, NotAsAsked, Unsupported
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe import accuracy, agreement, artefacts, loads, memory, peaks, sources, threads
from plumbline.harness.probe.disturbance import Disturbance, in_quiet
from plumbline.harness.probe.reference import Reference, layers
from plumbline.harness.readings import Readings, read
from plumbline.harness.runtimes import Runtime, saturation
from plumbline.harness.runtimes.kernels import of_layers
from plumbline.harness.runtimes.torch_net import TorchRuntime
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import LOADGEN, paired_ratio
from plumbline.models import DENSE
from plumbline.process_state import ProcessState

if TYPE_CHECKING:
    from torch import Tensor

UNSAID = ("usual", "newest")  # values of options that leave the choice to the runtime
EVENTS = 64  # inferences that are timed by a GPU's own clock
PROFILED = 20  # inferences that are looked into
DENORMAL = 1e-40  # in fp32
NOISE = 0.01  # of the spread of pictures: as good as the same for a net, and another one for whatever remembers them
OUTPUTS = 20_000  # numbers that are compared with those of another revision


class Subject:
    """The object of a cell. Each method is one step; it returns a fact, or raises what ends the cell."""

    def __init__(
        self,
        cell: Cell,
        settings: Settings,
        folder: Path,
        progress: Callable[[str], None],
        watch: Watch | None = None,
    ) -> None:
        import torch

        started = time.perf_counter()
        self._state = ProcessState()
        self._base_bytes = memory.resident_bytes()
        self._peak_bytes = 0
        self._cell, self._settings, self._folder, self._progress, self._watch = cell, settings, folder, progress, watch
        self._runtime = runtimes.find(cell.runtime).adapter
        self._device = torch.device(cell.device)
        if cell.device_kind == "cuda" and not self._runtime.elsewhere:
            if not torch.cuda.is_available():
                raise CellEnded(UNAVAILABLE, "torch finds no CUDA device", axis="target")
            if cell.precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
                raise CellEnded(UNAVAILABLE, "this GPU is older than Ampere and has no TF32", axis="precision")
            torch.cuda.set_device(self._device)  # what waits, and the peaks, are of the current one
            self._free_bytes = torch.cuda.mem_get_info(self._device)[0]
        self._precision = PRECISIONS[cell.precision]
        self._model = models.find(cell.model)
        self._reference = Reference.load(folder)
        self._layers = layers(folder)
        self._artefact = None if self._runtime.artefact_for(cell.variant) is None else artefacts.load(cell, folder)
        model, file = self._build()
        chosen = (self._artefact or {}).get("chosen", {})
        self._executable: Runtime = self._runtime(model, runtimes.config(cell, file, chosen))
        self._executable.ready(self._place(self._host()))
        self._in_precision = self._share_in_precision()
        self._options = self._read_back({**runtimes.find(cell.runtime).options, **chosen})
        self._emulated = not self._runtime.elsewhere and self._precision.emulated(cell.device_kind, cpu_flags())
        self._first_s: float | None = None
        self._first_growth: tuple[int | None, str | None] = None, "there was no inference"
        self._agreement: Agreement | None = None
        self._turns = 0
        self._qualified: Tensor | None = None  # outputs for the usual batch when it was checked, where there is an audit
        self._turning: timing.Call | None = None
        self._structured = False  # whether the net returns something else than one tensor; known after the first inference
        self._seconds = time.perf_counter() - started

    def _build(self) -> tuple[Any, Path | None]:
        """Return the model in the form that its runtime takes, and what was built for it; counts its parameters."""
        if self._model.file is not None:
            self._parameters = models.onnx_file(self._model.file).parameters
            return self._model.file, None
        file = None
        if self._artefact is not None:
            self._parameters, file = self._artefact["parameters"], Path(self._artefact.pop("path"))
            if self._runtime.runs == "file":
                return file, file
        net = self._reference.net(self._model, self._cell, self._settings)
        self._parameters = sum(parameter.numel() for parameter in net.parameters())
        return net, file

    def _share_in_precision(self) -> float:
        """Known of what was built here; read back from anything else, as from a board: the next one may do otherwise."""
        built = None if self._artefact is None else float(self._artefact.pop("in_precision"))
        if built is not None and not self._runtime.elsewhere:
            return built
        return artefacts.checked_share(self._executable, self._cell, self._place(self._host()), self._layers)

    def _read_back(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return what the runtime says of itself. Raises NotAsAsked where that is not what was asked for."""
        import torch

        got = self._executable.read_back()
        expected = {key: value for key, value in asked.items() if value not in UNSAID}
        if not self._runtime.elsewhere:
            expected["threads"] = str(torch.get_num_threads())
        for key, value in expected.items():
            if key not in got or (got[key] is not None and str(got[key]) != value):  # None: it does not apply
                raise NotAsAsked(f"asked for {key}={value}, {self._cell.runtime} says that it has {got.get(key)}")
        return got

    def prepared(self) -> Prepared:
        return Prepared(
            weights=messages.convert(self._reference.weights, WeightsUsed),
            parameters=self._parameters,
            threads=self._options["threads"],
            seconds=self._seconds,
            emulated=self._emulated,
            options={**self._options, "in_precision": self._in_precision},
            artefact=self._artefact or None,
            promise=None if (fields := self._reference.promise()) is None else messages.convert(fields, Promise),
        )

    def agreement(self) -> Agreement:
        """Compare with the reference on its inputs, in the cell's own batch; once."""
        if self._agreement is None:
            self._agreement = self._compare()
            if self._settings.audit and not self._runtime.elsewhere:
                self._qualified = self._infer(self._host())
        return self._agreement

    def qualify(self) -> None:
        """Let nothing be timed that is wrong. Raises CellEnded where this object computes another function than its reference."""
        if (wrong := self.agreement().wrong) is not None:
            raise CellEnded(FAILED, wrong)

    def _compare(self) -> Agreement:
        found = agreement.judge(self._infer_checked, self._reference, self._cell.batch, self._precision, self._layers)
        if self._model.file is not None and (self._precision.integer or self._executable.holds_integers()):
            found = replace(found, hint=saturation.hint(self._cell.runtime.partition("+")[0], self._runtime.options))
        return replace(found, top1=None, eager_top1=None) if self._structured else found

    def accuracy(self) -> Accuracy:
        cell, settings = self._cell, self._settings
        images = accuracy.images(self._model, cell.image_size, settings, self._reference.weights)
        if isinstance(images, str):
            return Accuracy(unavailable=images)
        if self._first_s is None:
            self._run(self._place(self._host()))
        if self._structured:
            return Accuracy(unavailable=f"{cell.model} returns several tensors, and does not name one class for a picture")
        if not self._reference.names_a_class(self._model, cell.image_size):
            shape, classes = tuple(self._reference.outputs.shape[1:]), self._model.dataset(cell.image_size).classes
            reason = f"{cell.model} returns outputs of shape {shape} for a picture, expected one for each of {classes} classes"
            return Accuracy(unavailable=f"{reason} of {images.name}")
        if (slow := self._slow(len(accuracy.subset(images, settings)))) is not None:
            return Accuracy(unavailable=slow)
        self._peak_bytes = max(self._peak_bytes, memory.peak_bytes())
        ranks = accuracy.classify(self._infer, images, settings, cell.batch, self._progress)
        images.close()
        memory.release_free_memory()
        memory.reset_peak()  # the data set is no part of the model's process
        floor = self._model.floor(cell.image_size) if cell.variant == DENSE else None
        parent = self._reference.parent_correct if compares_with_parent(cell) else None
        budget = self._precision.accuracy_budget if cell.variant == DENSE else None  # what a compression costs is what is asked
        return accuracy.judge(ranks, images, settings, floor, parent, budget)

    def _slow(self, images: int) -> str | None:
        """Why so many images are not classified, by what starts a tool for each batch; None of all that runs in this process."""
        if not self._runtime.elsewhere:
            return None
        seconds, limit = -(-images // self._cell.batch) * self._executable.run_s(), self._settings.time_limit_s
        if seconds <= limit / 2:
            return None
        advice = "ask for fewer (--accuracy-images), or for a larger batch"
        return f"{images} images would take {seconds:.0f} s there, more than half of the limit of {limit:g} s; {advice}"

    def latency(self) -> Latency:
        """Measure both latencies of the cell's batch, in the object that has qualified."""
        self.qualify()
        settings, batch = self._settings, self._cell.batch
        if self._runtime.elsewhere:
            return self._timed_elsewhere()
        host = self._host()
        placed = self._place(host)
        if self._first_s is None:
            self._run(self._place(self._host()))
        first_s = self._first_s
        assert first_s is not None
        few = settings.emulated_samples if self._emulated else None
        timed = partial(timing.measure, synchronize=self._executable.synchronize, settings=settings, batch=batch, few=few)
        if watching := environment.watchers():
            raise CellEnded(FAILED, f"{self._cell.model} has itself watched by {', '.join(watching)}, and is slowed down by that")

        def taken() -> Latency:
            disturbance, reading = Disturbance(device=self._cell.device), Running()
            workers, written = threads.Workers(), _written_bytes()
            model = timed(partial(self._executable.run, placed), budget_s=settings.sampling_s)
            telemetry = reading.read(model.warmup + len(model.samples_s))
            without_p99 = replace(settings, p99_within_s=None)
            with_transfer = timed(partial(self._host_to_host, host), settings=without_p99, budget_s=settings.sampling_s / 2)
            found = disturbance.read()
            remarks = workers.remarks(allowed_cpus(), found["seconds"].value or 0.0)
            if (more := _written_bytes() - written) > 0:
                remarks.append(f"it prints while it is timed, {more} bytes")
            return Latency(first_s, model, with_transfer, self._emulated, LOADGEN, found, telemetry, remarks)

        latency = in_quiet(taken, settings.calm_s, self._progress)
        for seen in (placed, self._place(host)):  # also by a call later than those that were checked
            self._check_untouched(seen, self._host())
        remarks = latency.remarks + [f"it changes the process that it runs in: {change}" for change in self._state.changed()]
        if isinstance(self._executable, TorchRuntime) and (used := threads.used(allowed_cpus())) < allowed_cpus():
            remarks.append(f"{used} of {allowed_cpus()} threads work")
        on_device = self._on_device(placed, latency.model.median_s) if self._device.type == "cuda" else None
        energy = (
            {} if self._watch is None else self._watch.run(partial(self._executable.run, placed), self._executable.synchronize)
        )
        return replace(latency, remarks=remarks, energy=energy, on_device=on_device)

    def _on_device(self, placed: Any, latency_s: float) -> OnDevice:
        """Time inferences by the GPU's own clock, and many that are queued; after the host's samples, which no event delays."""
        import torch

        call, synchronize, batch = partial(self._executable.run, placed), self._executable.synchronize, self._cell.batch
        events, unavailable = None, f"{self._cell.runtime} has a queue of its own, in which torch puts no events"
        with timing.quiet():
            if isinstance(self._executable, TorchRuntime):

                def mark() -> torch.cuda.Event:
                    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                    event.record()
                    return event

                samples = timing.sample_by_events(
                    call, synchronize, mark, lambda one, other: one.elapsed_time(other) / 1e3, EVENTS
                )
                events, unavailable = timing.summarise(samples, batch, 0, 0.0, True), ""
            found = timing.pipelined(call, synchronize, latency_s)
        return OnDevice(events, found.rounds_s, found.calls, batch / median(found.rounds_s), unavailable or None)

    def _timed_elsewhere(self) -> Latency:
        """Take the samples that the runtime has taken on its device, of the batch that it was checked with."""
        found = self._executable.timed(self._place(self._host()), self._settings, None)
        model, whole = (
            timing.summarise(one.samples_s, self._cell.batch, one.warmup, one.warmup_s, one.steady)
            for one in (found.model, found.with_transfer)
        )
        first_s = self._executable.first_s()
        return Latency(first_s, model, whole, False, LOADGEN, found.disturbance, found.telemetry, found.remarks)

    def work(self) -> Work:
        """Return what an inference has to do, by the layers of what is executed."""
        promise = self.prepared().promise
        return roofline.work(self._layers, promise, self._cell.precision, self._cell.batch)

    def gpu(self) -> str | None:
        """Name the cell's own GPU: CUDA counts from the fastest one, the system from the first slot.

        None on a Tegra kernel, which has one GPU, and calls it by the chip that several boards have.
        """
        import torch

        return None if on_tegra(Path("/")) else torch.cuda.get_device_name(self._device)

    def peaks(self) -> Peaks:
        """Return what this machine's processors do at most; measured where no session has."""
        return peaks.known(self._settings.cache, self._progress)

    def peaks_anew(self) -> Peaks:
        """Measure that once more; what an earlier measurement found beyond it stays."""
        return peaks.known(self._settings.cache, self._progress, anew=True)

    def call(self) -> tuple[Callable[[], Any], Callable[[], None]]:
        """Return one inference, its input on the device, and what waits until it is done; of an object that has qualified."""
        if self._runtime.elsewhere:
            raise Unsupported(f"{self._cell.runtime} times itself on its board, and takes no turns with others")
        self.qualify()
        return partial(self._executable.run, self._place(self._host())), self._executable.synchronize

    def turn(self, calls: int) -> float:
        """Take one turn of an interleaving with other processes; the median of so many inferences, in seconds."""
        run, synchronize = self._own_turns()
        threads.place(self._turns)
        self._turns += 1
        with timing.quiet():
            return timing.turn(run, synchronize, untimed=1, untimed_s=timing.TOUCH_S, timed=calls)

    def _own_turns(self) -> tuple[Callable[[], Any], Callable[[], None]]:
        """Return what takes turns and the wait for it: one placed batch for all of them, as another one would lie elsewhere."""
        if self._turning is None:
            run, synchronize = self.call()
            slowed = self._settings.slowed
            self._turning = (timing.slowed(run, synchronize, slowed) if slowed else run, synchronize)
        return self._turning

    def energy(self) -> dict[str, Energy]:
        """Ask each meter of energy what one inference takes, of the batch that takes turns; empty where none was asked for."""
        if self._watch is None:
            return {}
        run, synchronize = self._own_turns()
        return self._watch.run(run, synchronize)

    def load(self, scenario: Scenario) -> Loaded:
        """Put the object that has qualified under a load; a placed batch begins with each of the reference's pictures."""
        if self._runtime.elsewhere:
            raise Unsupported(f"{self._cell.runtime} times itself on its board, and takes no load from here")
        self.qualify()
        if watching := environment.watchers():
            raise CellEnded(FAILED, f"{self._cell.model} has itself watched by {', '.join(watching)}, and is slowed down by that")
        inputs, batch = self._reference.inputs, self._cell.batch

        def images(first: int) -> Tensor:
            return inputs[[(first + row) % len(inputs) for row in range(batch)]]

        placed = [self._place(images(first)) for first in range(len(inputs))]
        found = loads.run(
            scenario,
            lambda number: self._executable.run(placed[number % len(placed)]),
            self._executable.synchronize,
            batch,
            len(placed),
            self._settings.warmup_s,
            self._progress,
            most=self._settings.max_temperature,
            device=self._cell.device,
        )
        for first, seen in enumerate(placed):
            self._check_untouched(seen, images(first))
        return found

    def outputs(self) -> Outputs:
        """Return what it computes for the reference's pictures, and what float64 does; of a net that is large, the first ones."""
        self.qualify()
        inputs, expected = self._reference.inputs, self._reference.outputs
        batch = self._cell.batch
        rows = [index % len(inputs) for index in range(-(-len(inputs) // batch) * batch)]
        parts = [self._infer(inputs[rows[start : start + batch]]) for start in range(0, len(rows), batch)]
        import torch

        executed = torch.cat(parts)[: len(inputs)].double().flatten()[:OUTPUTS]
        return Outputs(executed.tolist(), expected.double().flatten()[:OUTPUTS].tolist(), self._reference.spread)

    def sources(self) -> list[str]:
        """Return what the cell has loaded (harness/probe/sources.py)."""
        jobs = ("count", "reference", "parent", artefacts.name(self._cell))
        return sources.of_cell(self._folder, jobs, *filter(None, [self._model.file]))

    def memory(self) -> Readings:
        """Read what the process holds, and under a high-water mark what one more inference needs beyond that.

        `first_inference` is what the very first one needed, seen from outside: with all that a runtime keeps from then on, and
        with what it sets up once. `process_base` is the process before it built the model: Python and torch. `cuda_allocated` and
        `cuda_reserved` are peaks of torch's allocator. `cuda_driver` is by how much less the driver has free than before the
        model was built, whoever took it.
        """
        import torch

        if self._runtime.elsewhere:
            return {"weights": read("byte", "model", self._executable.weights_bytes()), **self._executable.held()}
        if self._first_s is None:
            self._run(self._place(self._host()))
        call = partial(self._once, self._place(self._host()))
        self._peak_bytes = max(self._peak_bytes, memory.peak_bytes())
        cuda: Readings = {}
        if self._device.type == "cuda":
            cuda["cuda_driver"] = read("byte", "machine", max(0, self._free_bytes - torch.cuda.mem_get_info(self._device)[0]))
        peak: int | None
        if self._device.type == "cuda" and self._executable.keeps_memory is None:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            peak, reason = torch.cuda.max_memory_allocated() - before, None
            cuda |= {
                "cuda_allocated": read("byte", "process", torch.cuda.max_memory_allocated()),
                "cuda_reserved": read("byte", "process", torch.cuda.max_memory_reserved()),
            }
        elif self._executable.keeps_memory is not None:
            peak, reason = None, self._executable.keeps_memory
        else:
            peak, reason = memory.growth(call)
        return {
            "weights": read("byte", "model", self._executable.weights_bytes()),
            "inference": read("byte", "inference", peak, reason or ""),
            "first_inference": read("byte", "inference", self._first_growth[0], self._first_growth[1] or ""),
            "process_peak": read("byte", "process", max(self._peak_bytes, memory.peak_bytes())),
            "process_base": read("byte", "process", self._base_bytes),
            **cuda,
        }

    def audit(self) -> Audit:
        """Time the same inference in ways that should make no difference, in turns with the usual one."""
        import torch

        if self._runtime.elsewhere:
            return Audit(unavailable=f"{self._cell.runtime} times itself on its board, and is not audited from here")
        run, synchronize = self.call()
        assert self._qualified is not None, "expected settings that ask for an audit"
        images, random = self._host(), torch.Generator().manual_seed(self._settings.inputs_seed)
        zeros, denormals = (self._place(torch.full_like(images, value)) for value in (0.0, DENORMAL))
        again = self._executable.run(self._place(images))

        def unseen() -> Any:
            noise = NOISE * images.float().std() * torch.randn(images.shape, generator=random)
            return self._place((images + noise).to(images.dtype))

        def rotating() -> float:
            batches = iter([unseen() for _ in range(timing.TIMED)])
            timing.turn(run, synchronize)  # untimed, as before the others
            return median(timing.sample(lambda: self._executable.run(next(batches)), synchronize, timing.TIMED))

        def consumed() -> float:
            return float(self._model.comparable(self._executable.fetch(run()), len(images)).sum())

        def fetched_twice() -> float:
            run()
            return float(self._model.comparable(self._executable.fetch(again), len(images)).sum())

        calls = {
            "usual": run, "zeros": lambda: self._executable.run(zeros), "denormals": lambda: self._executable.run(denormals),
            "consumed": consumed, "fetched": fetched_twice,
        }  # fmt: skip
        turns: dict[str, Callable[[], float]] = {name: partial(timing.turn, call, synchronize) for name, call in calls.items()}
        turns["rotating"] = rotating
        taken = timing.interleave(turns, seconds=2 * self._settings.sampling_s, progress=self._progress)
        over = {"rotating": "usual", "zeros": "usual", "denormals": "usual", "consumed": "fetched"}
        ratios = {name: paired_ratio(taken[name], taken[base]) for name, base in over.items()}
        change = float((self._infer(images) - self._qualified).abs().max()) / self._reference.spread
        tolerance = self.agreement().repeat_tolerance
        return Audit(
            {name: (found.median, found.interval) for name, found in ratios.items()}, len(taken["usual"]), change, tolerance
        )

    def layers(self) -> Layers:
        """Where the time goes; last, as looking into a runtime may change it."""
        if self._runtime.elsewhere:
            return Layers(unavailable=f"{self._cell.runtime} does not say where its time goes")
        placed, repeats = self._place(self._host()), PROFILED
        call, synchronize = self.call()
        whole = timing.sample(call, synchronize, repeats)
        try:
            parts = of_layers(self._executable.profile(placed, repeats), self._layers)
        except NotImplementedError as reason:
            return Layers(unavailable=str(reason))
        whole += timing.sample(call, synchronize, repeats)
        whole_s, sum_s = median(whole), sum(part.seconds for part in parts)
        missed = None
        if abs(sum_s - whole_s) > 0.1 * whole_s:
            missed = self._executable.profile_misses if sum_s < whole_s else "looking into it made it slower by that"
        return Layers(
            None,
            [Part(part.name, part.operator, part.seconds, part.number_format, part.layer, part.macs) for part in parts],
            repeats,
            sum_s,
            whole_s,
            missed,
        )

    def _infer(self, images: Tensor) -> Tensor:
        """One inference, host to host, and what is compared of it."""
        return self._model.comparable(self._run(self._place(images)), len(images))

    def _infer_checked(self, images: Tensor) -> Tensor:
        """Infer once, and check that the net left its input as it was."""
        placed = self._place(images.clone())
        outputs = self._model.comparable(self._run(placed), len(images))
        self._check_untouched(placed, images)
        return outputs

    def _run(self, placed: Any) -> Any:
        """One inference, and its outputs on the host. The process's very first one is timed, cold as it is."""
        import torch

        if self._runtime.elsewhere and self._first_s is None:
            self._first_s = self._executable.first_s()
            fetched = self._executable.fetch(self._executable.run(placed))
            self._structured = not isinstance(fetched, torch.Tensor)
            return fetched
        if self._first_s is not None:
            return self._executable.fetch(self._executable.run(placed))
        outputs: list[Any] = []

        def first() -> None:
            (self._first_s,) = timing.sample(
                lambda: outputs.append(self._executable.run(placed)), self._executable.synchronize, 1
            )

        self._peak_bytes = max(self._peak_bytes, memory.peak_bytes())
        self._first_growth = memory.growth(first)
        fetched = self._executable.fetch(outputs[0])
        self._structured = not isinstance(fetched, torch.Tensor)
        return fetched

    def _host(self) -> Tensor:
        """Return a batch of the reference's pictures."""
        return self._reference.batch(self._cell.batch)

    def _place(self, images: Tensor) -> Any:
        return self._executable.place(self._model.positional(images))

    def _host_to_host(self, images: Tensor) -> Any:
        return self._executable.fetch(self._executable.run(self._place(images)))

    def _once(self, placed: Any) -> None:
        self._executable.run(placed)
        self._executable.synchronize()

    def _check_untouched(self, placed: Any, images: Tensor) -> None:
        """One placed batch is run thousands of times: a net that writes into it gets another one from its second call on."""
        if not _same(placed, self._place(images)):
            raise CellEnded(
                FAILED,
                f"{self._cell.model} writes into the pictures that it is given, so that each further inference would get others; "
                "let it work on a copy (x = x * 0.9 instead of x.mul_(0.9), or x = x.clone() first)",
            )


# What `harness.session.client.CellProbe` asks, by the name in the message that it sends.
QUESTIONS: Mapping[str, Callable[[Subject], Any]] = {
    "agreement": Subject.agreement,
    "accuracy": Subject.accuracy,
    "latency": Subject.latency,
    "work": Subject.work,
    "gpu": Subject.gpu,
    "peaks": Subject.peaks,
    "peaks_anew": Subject.peaks_anew,
    "outputs": Subject.outputs,
    "memory": Subject.memory,
    "energy": Subject.energy,
    "layers": Subject.layers,
    "audit": Subject.audit,
    "sources": Subject.sources,
}


def _written_bytes() -> int:
    """Return the length of the file that standard output goes to; 0 where it is no file."""
    sys.stdout.flush()
    about = os.fstat(1)
    return about.st_size if stat.S_ISREG(about.st_mode) else 0


def _same(left_input: Any, right_input: Any) -> bool:
    """Whether two placed inputs hold the same tensors and arrays; what else a runtime places is not looked into."""
    import numpy
    import torch
    from torch.utils._pytree import tree_flatten

    (left, _), (right, _) = tree_flatten(left_input), tree_flatten(right_input)
    pairs = zip(left, right, strict=True)
    kinds: tuple[tuple[type, Callable[[Any, Any], bool]], ...] = ((torch.Tensor, torch.equal), (numpy.ndarray, numpy.array_equal))
    return all(same(one, other) for one, other in pairs for kind, same in kinds if isinstance(one, kind))
