"""MLPerf LoadGen's own engine on a loaded object, and the search for the highest rate that it calls valid.

LoadGen takes its own durations, by its own clock: that is what makes them LoadGen's. It calls back on the thread that started the
test, which is the one on which the object was checked: so the same threads work, in the same inference mode, and nobody waits for
Python's lock. While an inference runs it lets no other query in; of `server` the latency counts from the scheduled arrival, and
those that came meanwhile are handed over together.

Source: github.com/mlcommons/inference, loadgen/loadgen.cc and loadgen/results.cc; MLPerf inference rules, "Scenarios".
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plumbline.harness import timing
from plumbline.harness.load import INVALID, MULTI, OFFLINE, QUERIES, SERVER, SINGLE, STREAMS, VALID, Run

LIBRARY = "mlperf_loadgen"
NAMES = {SINGLE: "SingleStream", MULTI: "MultiStream", SERVER: "Server", OFFLINE: "Offline"}
PERCENTILES = {SINGLE: 0.9, MULTI: 0.99, SERVER: 0.99, OFFLINE: 0.99}
RATES = {
    SINGLE: "result_qps_with_loadgen_overhead", SERVER: "result_completed_samples_per_sec", OFFLINE: "result_samples_per_second",
}  # fmt: skip
BOUNDS = {SINGLE: "early_stopping_latency_ss", MULTI: "early_stopping_latency_ms"}
UNMET = {
    "result_perf_constraints_met": "the latency limit was not kept",
    "result_min_duration_met": "it was over before the least duration",
    "result_min_queries_met": "fewer queries than asked for",
}
HASTE = 4  # times as fast as expected it may be: LoadGen makes its queries beforehand, and is INVALID when they run out
ROOM = 1.2  # more than it is expected to do: an Offline test that is over too early is no valid one
CLOSE, SLOWEST = 0.05, 1 / 16  # the search ends when the rate is known to 5 %, or a sixteenth of what there is no queue at fails


@dataclass(frozen=True)
class Served:
    """A loaded object: `infer` starts an inference of its n-th placed batch, of `batches`; `expected_s` is what one takes."""

    infer: Callable[[int], Any]
    synchronize: Callable[[], None]
    batch: int
    batches: int
    expected_s: float


def missing() -> str | None:
    """Why LoadGen is not there; None where it is."""
    if find_spec(LIBRARY) is not None:
        return None
    here = f"{platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"MLPerf LoadGen is not installed: pip install plumbline[loadgen] (x86-64, Python 3.10 to 3.13; this is {here})"


def run(
    name: str, served: Served, seconds: float, queries: int | None = None, *, rate_hz: float = 1.0, limit_s: float = 1.0,
    exactly: int | None = None,
) -> Run:  # fmt: skip
    """Run one test, which cannot be interrupted. `exactly` so many queries, however long they take; else both minima hold.

    Raises what the object raises, when LoadGen has ended.
    """
    with tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
        _test(served, _settings(name, served, seconds, queries, rate_hz, limit_s, exactly), Path(folder))
        return _read(name, Path(folder), rate_hz)


def search(test: Callable[[float], Run], capacity_hz: float) -> list[Run]:
    """Bisect for the highest rate that is valid, up to what one inference after the other does; returns all tries in order."""
    tried: list[Run] = []
    low, high = 0.0, capacity_hz
    while high - low > CLOSE * high and high > SLOWEST * capacity_hz:
        rate = (low + high) / 2
        tried.append(test(rate))
        low, high = (rate, high) if tried[-1].verdict == VALID else (low, rate)
    return tried


def _settings(
    name: str, served: Served, seconds: float, queries: int | None, rate_hz: float, limit_s: float, exactly: int | None
) -> Any:
    import mlperf_loadgen as engine

    asked = engine.TestSettings()
    asked.scenario, asked.mode = getattr(engine.TestScenario, NAMES[name]), engine.TestMode.PerformanceOnly
    asked.min_duration_ms = 0 if exactly else round(seconds * 1e3)
    asked.min_query_count = exactly or (QUERIES[name] if queries is None else queries)
    asked.max_query_count = exactly or 0
    least_s = served.expected_s / HASTE
    asked.single_stream_expected_latency_ns = max(1, round(least_s * 1e9))
    asked.multi_stream_expected_latency_ns = max(1, round(least_s * -(-STREAMS // served.batch) * 1e9))
    asked.multi_stream_samples_per_query = STREAMS
    asked.offline_expected_qps = ROOM * served.batch / served.expected_s
    asked.server_target_qps, asked.server_target_latency_ns = rate_hz, round(limit_s * 1e9)
    asked.server_target_latency_percentile = PERCENTILES[SERVER]
    asked.server_coalesce_queries = True
    return asked


def _test(served: Served, asked: Any, folder: Path, trace: bool = False) -> None:
    import mlperf_loadgen as engine

    failed: list[Exception] = []

    def issue(samples: list[Any]) -> None:
        for first in range(0, len(samples), served.batch):
            part = samples[first : first + served.batch]
            if not failed:
                try:
                    served.infer(part[0].index)
                    served.synchronize()
                except Exception as error:  # noqa: BLE001 - through C++ it would end the process, without a word
                    failed.append(error)
            engine.QuerySamplesComplete([engine.QuerySampleResponse(sample.id, 0, 0) for sample in part])

    logs = engine.LogSettings()
    output = engine.LogOutputSettings()
    output.outdir = str(folder)
    logs.log_output, logs.enable_trace = output, trace
    library = engine.ConstructQSL(served.batches, served.batches, _load_nothing, _load_nothing)
    subject = engine.ConstructSUT(issue, timing.nothing)
    try:
        with timing.quiet():
            engine.StartTestWithLogSettings(subject, library, asked, logs, "")
    finally:
        engine.DestroySUT(subject)
        engine.DestroyQSL(library)
    if failed:
        raise failed[0]


def _read(name: str, folder: Path, rate_hz: float) -> Run:
    """Read what LoadGen says in its detailed log, whose lines are JSON."""
    marked = (line.partition(":::MLLOG ")[2] for line in (folder / "mlperf_log_detail.txt").read_text().splitlines())
    entries = [json.loads(line, strict=False) for line in marked if line]
    found = {entry["key"]: entry["value"] for entry in entries}
    reasons = [words for key, words in UNMET.items() if found.get(key) is False]
    if found.get("early_stopping_met") is False:
        reasons.append(" ".join(str(found.get("early_stopping_result", "")).replace("*", "").split()).rstrip("."))
    reasons += [str(found["result_invalid_reason"]).strip()] if found.get("result_invalid_reason") else []
    per_query = "per_query_" if name == MULTI else ""
    latency = found.get(f"result_{100 * PERCENTILES[name]:.2f}_percentile_{per_query}latency_ns")
    return Run(
        verdict=VALID if found["result_validity"] == VALID else INVALID,
        reasons=reasons,
        queries=int(found["result_query_count"]),
        percentile=PERCENTILES[name],
        latency_s=None if latency is None or name == OFFLINE else latency / 1e9,
        bound_s=found[BOUNDS[name]] / 1e9 if found.get(BOUNDS.get(name, "")) else None,
        samples_per_s=found.get(RATES.get(name, "")),
        asked_hz=rate_hz if name == SERVER else None,
        version=str(found["loadgen_version"]),
    )


def _load_nothing(samples: list[int]) -> None:
    """All batches are placed before a test."""
