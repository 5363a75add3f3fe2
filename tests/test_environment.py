"""What measures is left alone: by the caller's environment, by tracers, and by what a model's module does when it is imported."""

from __future__ import annotations

import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from plumbline import models
from plumbline.harness import environment
from plumbline.harness.cell import Cell
from plumbline.harness.machine import Machine, allowed_cpus
from plumbline.harness.probe import threads
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.views import table
from plumbline.process_state import ProcessState
from tests.conftest import Run
from tests.records import cell_of, latency_of, record_of, replace

FINE = {"PATH": "/bin", "HOME": "/root", "ONEDNN_MAX_CPU_ISA": "AVX2", "LD_PRELOAD": "libjemalloc.so", "EFFECT": "control"}


@pytest.fixture
def state() -> Iterator[ProcessState]:
    """As it was before the test, and is again after it."""
    before = ProcessState()
    yield before
    before.put_back()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_PROC_BIND", "close"),
        ("GOMP_CPU_AFFINITY", "0"),
        ("OMP_THREAD_LIMIT", "1"),
        ("OMP_NUM_THREADS", "1"),
        ("KMP_AFFINITY", "compact"),
        ("COVERAGE_PROCESS_START", "pyproject.toml"),
        ("COVERAGE_PROCESS_CONFIG", "{}"),
        ("PYTHONTRACEMALLOC", "5"),
        ("PYTHONDEVMODE", "1"),
        ("PYTHONMALLOC", "debug"),
        ("PYTHONOPTIMIZE", "1"),
        ("PYDEVD_LOAD_VALUES_ASYNC", "1"),
        ("ONEDNN_VERBOSE", "2"),
        ("LD_PRELOAD", "/usr/lib/libasan.so.8"),
    ],
)
def test_what_would_slow_a_cell_down_is_left_out_and_named(name: str, value: str) -> None:
    given = {**FINE, name: value}
    assert environment.left_out(given) == {name: value}
    assert environment.passed_on(given) == {key: text for key, text in FINE.items() if key != name}
    assert f"{name}={value}" in (environment.left_out_note(given) or "")


def test_what_does_no_harm_is_passed_on_without_a_word() -> None:
    assert environment.passed_on(FINE) == FINE
    assert environment.left_out_note(FINE) is None
    assert environment.left_out_note({**FINE, "PYTHONOPTIMIZE": ""}) is None


def test_a_tracer_is_seen_whichever_it_is(state: ProcessState) -> None:
    before = set(environment.watchers())
    sys.setprofile(lambda *_: None)
    threading.settrace(lambda *_: None)
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        seen = set(environment.watchers())
    finally:
        if not tracing:
            tracemalloc.stop()
        state.put_back()
    assert {word.partition(" ")[0] for word in seen} >= {"sys.setprofile", "threading.settrace", "tracemalloc"}
    assert set(environment.watchers()) == before


CHANGES = """
import gc, os, sys, torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_float32_matmul_precision("medium")
os.chdir("/")
sys.stdout = open(os.devnull, "w")
sys.setprofile(lambda *_: None)
gc.disable()
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def net(channels, classes):
    torch.set_num_threads(1)
    os.chdir("/")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * 1024, classes))
"""


@pytest.mark.usefixtures("state")
def test_what_a_module_changes_when_it_is_imported_or_built_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "changes_the_process_for_all.py").write_text(CHANGES)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    before = ProcessState()
    model = models.find("changes_the_process_for_all:net+data=cifar10")
    assert before.changed() == []
    model.instantiate(32)
    assert before.changed() == []
    assert Path.cwd() == tmp_path
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("state")
def test_what_is_changed_later_is_said() -> None:
    torch.set_num_threads(2)
    before = ProcessState()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    assert before.changed() == ["threads 2, then 1", "default number type torch.float32, then torch.float64"]


@pytest.mark.skipif(not threads.worked_ns(), reason="this system does not count what a thread works")
@pytest.mark.usefixtures("state")
def test_the_threads_that_work_are_counted() -> None:
    torch.set_num_threads(1)
    assert threads.used(2) == 1
    torch.set_num_threads(2)
    assert threads.used(2) == 2


@pytest.mark.skipif(not threads.worked_ns(), reason="this system does not count what a thread works")
def test_threads_that_share_one_processor_and_one_that_runs_beside_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            sum(range(1000))

    workers = threads.Workers()
    thread = threading.Thread(target=spin, name="tracker")
    thread.start()
    while workers.seconds().get(thread.native_id or 0, 0.0) < 0.02:
        time.sleep(0.001)
    monkeypatch.setattr(threads, "allowed", lambda task: {0})
    remarks = workers.remarks(expected=2, elapsed_s=0.1)
    done.set()
    thread.join()
    assert remarks[0] == "its threads may run on 1 of 2 processors"
    assert remarks[1].startswith("a thread of the model's own (tracker) ran beside it")
    assert threads.Workers().remarks(expected=2, elapsed_s=1e9) in ([], ["its threads may run on 1 of 2 processors"])


def test_a_remark_is_seen_in_the_cell_and_below_the_table() -> None:
    latency, here = latency_of(0.002), Machine(cpu_model="X", cpu_flags="avx2", cores_allowed=2)
    record = record_of(cell_of("theirs:net"), machine=here, latency=latency)
    said = table.matrix([replace(record, latency=replace(latency, remarks=["1 of 2 threads work"]))])
    assert "2!" in said
    assert said.startswith("X (AVX2), 2 cores; variant dense; ")
    assert f"{record.id}: !: 1 of 2 threads work" in said
    assert "!" not in table.matrix([record]).partition("\nMACs of one")[0]


def test_assertions_that_python_leaves_out_are_refused(bench: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under -O pytest's rewritten assertions still hold, plain ones are gone."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    refused = bench("--tier", "smoke", "--plan", "--assert=plain")
    assert refused.code == 4
    assert "python -O leaves out the assertions" in refused.output
    assert bench("--tier", "smoke", "--plan", folder="other").code == 0


@pytest.mark.slow
def test_a_probe_has_all_threads_and_no_tracer_whatever_the_caller_has(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"OMP_PROC_BIND": "close", "OMP_THREAD_LIMIT": "1", "GOMP_CPU_AFFINITY": "0", "PYTHONTRACEMALLOC": "1"}
    for name, value in given.items():
        monkeypatch.setitem(os.environ, name, value)
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log)
        probe = CellProbe(server, Cell("tests.faulty:GOOD", "dense", "eager", "fp32", 1, 8, "cpu"), settings)
        found = probe.latency()
        probe.close()
        server.close()
    assert probe.prepared().threads == allowed_cpus()
    assert found.remarks == []
