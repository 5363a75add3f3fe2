"""What this machine does at most, and a runtime that forgets to wait for its device."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from plumbline.harness.cell import Cell
from plumbline.harness.devices import Peaks
from plumbline.harness.probe import memory, peaks
from plumbline.harness.probe.subject import Subject
from plumbline.harness.runtimes import Runtime
from plumbline.harness.runtimes.torch_net import TorchRuntime
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from tests.conftest import Run, announce

SLOW = Peaks("here", "tests", {"fp32": 1e9}, 1e9, 1000)
FAST = Peaks("here", "tests", {"fp32": 3e9}, 5e8, 1000)

THEIRS = """
from threading import Condition, Thread

import torch

from plumbline.harness.runtimes.eager import Eager


class Later:
    def __init__(self, work):
        self.work, self.done = work, Condition()
        self.outputs = None

    def result(self):
        with self.done, torch.inference_mode():
            if self.outputs is None:
                self.outputs = self.work()
            return self.outputs


class Hasty(Eager):
    '''A device of its own: a thread computes what it was given last. Nobody waits for it until outputs are fetched.'''

    def __init__(self, net, config):
        super().__init__(net, config)
        self.asked, self.last = Condition(), None
        Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            with self.asked:
                self.asked.wait_for(lambda: self.last is not None)
                mine, self.last = self.last, None
            mine.result()

    def run(self, placed):
        later = Later(lambda: super(Hasty, self).run(placed))
        with self.asked:
            self.last = later
            self.asked.notify()
        return later

    def fetch(self, later):
        return super().fetch(later.result())
"""


@pytest.mark.slow
def test_a_runtime_that_returns_before_the_work_is_done_is_red(
    bench: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outputs are right, so all else is green; what waits for them is green altogether."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    announce(tmp_path, "[plumbline.runtimes]\nhasty = theirs:Hasty\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cells = ("--model", "resnet20", "--precision", "fp32", "--batch", "64", "--image-size", "32", "--target", "cpu")
    run = bench(*cells, "--runtime", "hasty,eager")
    assert run.code == 1, run.output
    hasty, eager = (run.records[f"resnet20-dense-{runtime}-fp32-b64-32px-cpu"] for runtime in ("hasty", "eager"))
    assert (eager.outcome, eager.bound.measured_again) == ("ok", False)
    assert (hasty.outcome, hasty.bound.measured_again, hasty.agreement.wrong) == ("failed", True, None)
    assert "the clock stopped before the work was done" in hasty.reason


def test_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = [SLOW, FAST], list[str]()
    monkeypatch.setattr(peaks, "measure", lambda: found.pop(0))
    assert peaks.known(tmp_path, said.append) == peaks.known(tmp_path, said.append) == SLOW
    assert len(said) == 1
    both = Peaks("here", "tests", {"fp32": 3e9}, 1e9, 1000)  # each the larger one of the two
    assert peaks.known(tmp_path, said.append, anew=True) == peaks.known(tmp_path, said.append) == both


def test_half_a_file_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "measure", lambda: SLOW)
    peaks.known(tmp_path, lambda text: None)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert peaks.known(tmp_path, lambda text: None) == SLOW


@pytest.mark.parametrize("changed", ["cpu_model", "allowed_cpus", "cpu_flags"])
def test_another_machine_has_peaks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    before = peaks._place(tmp_path)
    monkeypatch.setattr(peaks, changed, lambda: ["other"] if changed == "cpu_flags" else "other")
    assert peaks._place(tmp_path) != before


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"avx2"}, {"fp32": 1, "bf16": 1, "fp16": 1, "int8": 4}),
        ({"avx512f", "avx512_bf16", "avx512_vnni"}, {"fp32": 1, "bf16": 2, "fp16": 1, "int8": 4}),
        ({"avx512_bf16", "amx_bf16", "amx_int8", "avx512_fp16"}, {"fp32": 1, "bf16": 16, "fp16": 2, "int8": 32}),
        ({"asimd", "asimdhp", "i8mm", "bf16"}, {"fp32": 1, "bf16": 4, "fp16": 2, "int8": 8}),
    ],
)
def test_other_formats_follow_from_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], found: dict[str, float]
) -> None:
    monkeypatch.setattr(peaks, "cpu_flags", lambda: frozenset(flags))
    assert peaks.factors() == found


def cache(folder: Path, cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> None:
    place = folder / f"cpu{cpu}" / "cache" / f"index{index}"
    place.mkdir(parents=True)
    for name, text in (("level", str(level)), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
        (place / name).write_text(text + "\n")


def test_each_cache_counts_once_and_instructions_do_not(tmp_path: Path) -> None:
    for cpu in (0, 1):
        cache(tmp_path, cpu, 0, 1, "Data", "32K", str(cpu))
        cache(tmp_path, cpu, 1, 1, "Instruction", "64K", str(cpu))
        cache(tmp_path, cpu, 2, 3, "Unified", "8M", "0-1")
    assert peaks.cache_bytes(tmp_path) == 2 * 32 * 1024 + 8 * 2**20
    assert peaks.cache_bytes(tmp_path / "nothing") is None


def test_a_small_machine_is_not_asked_for_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "memory_free", lambda: 800 << 20)
    assert peaks._buffer_bytes(64 << 20) <= 100 << 20


def test_a_limit_is_lifted_for_what_is_no_part_of_the_cell() -> None:
    """Or a cell would end for want of memory after all that it was to show."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        memory.limit(memory.resident_bytes() + (64 << 20))
        limited = resource.getrlimit(resource.RLIMIT_DATA)
        with memory.unlimited():
            assert resource.getrlimit(resource.RLIMIT_DATA) == before
        assert resource.getrlimit(resource.RLIMIT_DATA) == limited != before
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.slow
def test_a_cell_that_fits_into_its_limit_has_a_bound(server: Connection, settings: Settings, tmp_path: Path) -> None:
    cell = Cell("tests.faulty:CHOOSY", "dense", "eager", "fp32", 1, 8, "cpu")
    free = CellProbe(server, cell, settings)
    peak = free.memory()["process_peak"].value
    free.close()
    assert peak is not None
    limited = replace(settings, memory_limit_bytes=round(peak) + (64 << 20), cache=tmp_path)
    probe = CellProbe(server, cell, limited)
    assert probe.bound().seconds
    probe.close()


@pytest.mark.slow
def test_a_measurement_has_all_that_a_cell_needs() -> None:
    found = peaks.measure()
    assert set(found.macs_per_s) == {"fp32", "bf16", "fp16", "int8"}
    assert all(rate > 0 for rate in found.macs_per_s.values())
    assert found.bytes_per_s is not None
    assert found.bytes_per_s > 0
    assert found.headroom == peaks.HEADROOM


class Event:
    """A CUDA event on a device that takes 2 s for each inference, whatever the host's clock says."""

    seconds = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing, "an event that keeps no time has none"

    def record(self) -> None:
        self.at = Event.seconds

    def elapsed_time(self, other: Event) -> float:
        """In milliseconds, as torch has it."""
        return (other.at - self.at) * 1e3


@pytest.mark.parametrize(("tegra", "name"), [(False, "a card"), (True, None)])
def test_a_gpu_is_called_by_its_own_name_but_on_a_board(monkeypatch: pytest.MonkeyPatch, tegra: bool, name: str | None) -> None:
    """An Orin calls its GPU Orin, be it a Nano or an AGX."""
    import torch

    monkeypatch.setattr("plumbline.harness.probe.subject.on_tegra", lambda root: tegra)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    subject = object.__new__(Subject)
    subject._device = torch.device("cuda:1")
    assert subject.gpu() == name


@pytest.mark.parametrize("torchs", [True, False])
def test_what_a_gpu_shows_is_kept_beside_the_host_s_clock(monkeypatch: pytest.MonkeyPatch, torchs: bool) -> None:
    import torch

    def run(self: object, placed: object) -> None:
        Event.seconds += 2

    kind = type("Fake", (TorchRuntime if torchs else Runtime,), {"run": run})
    monkeypatch.setattr(torch.cuda, "Event", Event)
    subject = object.__new__(Subject)
    subject._executable, subject._cell = object.__new__(kind), Cell("mlp", "dense", "eager", "fp32", 4, 8, "cuda")
    found = subject._on_device(None, latency_s=0.05)
    assert (found.calls, len(found.pipelined_s)) == (2, 5)
    if torchs:
        assert found.events is not None
        assert found.events.samples_s == pytest.approx([2.0] * len(found.events.samples_s))
        assert found.unavailable is None
    else:
        assert (found.events, found.unavailable) == (None, "eager has a queue of its own, in which torch puts no events")
