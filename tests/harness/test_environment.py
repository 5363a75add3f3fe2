"""What measures is left alone by the caller's environment and by tracers."""

from __future__ import annotations

import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.harness import environment
from plumbline.harness.cell import Cell
from plumbline.harness.machine import allowed_cpus
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.process_state import ProcessState
from tests.conftest import Run

FINE = {"PATH": "/bin", "HOME": "/root", "ONEDNN_MAX_CPU_ISA": "AVX2", "LD_PRELOAD": "libjemalloc.so", "EFFECT": "control"}


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
