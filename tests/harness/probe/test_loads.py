"""Loads: LoadGen's engine, verdicts both ways, and ours on clocks that are known."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from plumbline.harness import machine, timing
from plumbline.harness.cell import Cell
from plumbline.harness.load import INVALID, VALID, Beside, Loaded, Run, Scenario
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.probe import loadgen, loads
from plumbline.harness.probe.loadgen import Served
from plumbline.harness.readings import Readings, read
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import loadgen_bound, loadgen_percentile
from tests.harness.test_timing import Machine

needs_loadgen = pytest.mark.skipif(loadgen.missing() is not None, reason=str(loadgen.missing()))


def served(batch: int = 1) -> tuple[Served, list[int]]:
    """An object that does next to nothing, and the batches that it was asked for."""
    asked: list[int] = []
    return Served(asked.append, timing.nothing, batch, 8, 1e-6), asked


def _unheard(text: str) -> None:
    """Progress that nobody follows."""


def run_of(verdict: str, rate_hz: float | None = None) -> Run:
    return Run(verdict, [], 100, 0.99, 0.01, None, None, rate_hz, "6")


@needs_loadgen
@pytest.mark.parametrize("name", ["single-stream", "multi-stream", "server"])
def test_what_loadgen_calls_valid_is_valid_and_with_too_few_queries_it_is_not(name: str) -> None:
    """An hour for each query: the limit of `server` is kept however slow the machine is."""
    valid = loadgen.run(name, served()[0], 0.01, rate_hz=50_000.0, limit_s=3600.0)
    assert (valid.verdict, valid.reasons) == (VALID, [])
    few = loadgen.run(name, served()[0], 0.0, 5, rate_hz=50_000.0, limit_s=3600.0)
    assert few.verdict == INVALID
    assert " ".join(few.reasons) != ""
    assert few.queries < valid.queries


@needs_loadgen
def test_offline_sends_all_at_once_and_is_invalid_when_it_is_over_too_early() -> None:
    given, asked = served(batch=4)
    found = loadgen.run("offline", given, 0.0)
    assert found.verdict == VALID
    assert found.samples_per_s is not None
    assert asked
    early = loadgen.run("offline", Served(given.infer, timing.nothing, 4, 8, 3600.0), 1.0)
    assert early.verdict == INVALID
    assert early.reasons[0] == "it was over before the least duration"


@needs_loadgen
def test_server_is_invalid_where_the_limit_is_not_kept() -> None:
    found = loadgen.run("server", served()[0], 0.0, 700, rate_hz=50_000.0, limit_s=1e-9)
    assert found.verdict == INVALID
    assert found.reasons[0] == "the latency limit was not kept"


@needs_loadgen
def test_a_query_of_eight_is_as_many_inferences_as_batches_and_each_picture_gets_its_turn() -> None:
    given, asked = served(batch=4)
    found = loadgen.run("multi-stream", given, 0.0, 50)
    assert len(asked) == 2 * found.queries
    assert set(asked) <= set(range(8))
    assert len(set(asked)) > 1


@needs_loadgen
def test_what_the_object_raises_is_raised_when_loadgen_has_ended() -> None:
    """Through LoadGen's own frames it would abort the process."""

    def wrong(number: int) -> None:
        raise RuntimeError("this object does not infer")

    with pytest.raises(RuntimeError, match="this object does not infer"):
        loadgen.run("single-stream", Served(wrong, timing.nothing, 1, 8, 1e-4), 0.0)


@needs_loadgen
def test_from_the_same_samples_percentile_and_bound_are_loadgens(tmp_path: Path) -> None:
    """The latencies of a run, from LoadGen's trace, played to our stopwatch on a fake clock, in whole nanoseconds."""
    many = count()

    def infer(number: int) -> None:
        sum(range(next(many) * 7919 % 5000))

    given = Served(infer, timing.nothing, 1, 8, 1e-4)
    loadgen._test(given, loadgen._settings("single-stream", given, 0.0, None, 1.0, 1.0, 1000), tmp_path, trace=True)
    theirs = loadgen._read("single-stream", tmp_path, 1.0)
    trace = (tmp_path / "mlperf_log_trace.json").read_text()  # which is no JSON in every version
    latencies = [int(digits) for digits in re.findall(r'"name":"Sample",.*"complete_ns":(\d+)', trace)]
    assert len(latencies) == theirs.queries == 1000
    machine = Machine(latencies)
    machine.now = 0
    ours = sorted(machine.sample(1000))
    assert loadgen_percentile(ours, 0.9) / 1e9 == theirs.latency_s
    bound = loadgen_bound(ours, 0.9)
    assert bound is not None
    assert bound / 1e9 == theirs.bound_s


@pytest.mark.parametrize("true_hz", [3.0, 40.0, 97.0])
def test_the_search_ends_at_the_highest_rate_that_is_valid(true_hz: float) -> None:
    tried = loadgen.search(lambda rate: run_of(VALID if rate <= true_hz else INVALID, rate), 100.0)
    best = max((run.asked_hz or 0.0 for run in tried if run.verdict == VALID), default=0.0)
    if true_hz < 100.0 / 16:
        assert best == 0.0
        assert len(tried) == 4
    else:
        assert 0.9 * true_hz < best <= true_hz
        assert Loaded(Scenario("server"), tried).run == next(run for run in tried if run.asked_hz == best)


@pytest.mark.parametrize(("limit_s", "tries"), [(1e-12, 1), (3600.0, 5)])
def test_where_the_limit_is_not_kept_without_a_queue_there_is_no_search(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, tries: int
) -> None:
    """LoadGen says VALID of every rate here: the search goes up to 5 % below what the object does."""
    monkeypatch.setattr(loadgen, "run", lambda *given, rate_hz, limit_s: run_of(VALID, rate_hz))
    found = loads._server(Scenario("server", limit_s=limit_s), served()[0], _unheard)
    assert len(found.runs) == tries
    assert found.run is not None
    assert (found.run.asked_hz or 0.0) > (0.9e6 if tries > 1 else 0.0)
    assert loads._server(Scenario("server"), served()[0], _unheard).unavailable is not None


def test_where_loadgen_is_missing_the_scenario_says_so_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "LIBRARY", "no_such_library")
    for name in ("single-stream", "multi-stream", "server", "offline", "side-by-side"):
        found = loads.run(Scenario(name), served()[1].append, timing.nothing, 1, 8, 0.0, _unheard)
        assert found.unavailable is not None
        assert "MLPerf LoadGen is not installed: pip install plumbline[loadgen]" in found.unavailable
        assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in found.unavailable
        assert found.wrong == f"unavailable: {found.unavailable}"


def test_what_sends_one_image_at_a_time_takes_a_batch_of_one() -> None:
    found = loads.run(Scenario("camera"), served()[1].append, timing.nothing, 4, 8, 0.0, _unheard)
    assert found.unavailable == "camera sends one image at a time: expected a batch of 1, got 4"


def test_late_and_dropped_frames_miss_their_deadline() -> None:
    found = loads.of_frames([0.5, None, 1.5, 1.0], 1.0, 1.0)
    assert (found.frames, found.dropped, found.late, found.missed) == (4, 1, 1, 0.5)
    assert found.percentiles_s == {"p50": 1.0, "p90": 1.5, "p99": 1.5}


@pytest.mark.parametrize(("frames", "late", "wrong"), [(459, 0, False), (458, 0, True), (459, 1, True)])
def test_a_share_that_cannot_be_shown_to_be_kept_is_red(frames: int, late: int, wrong: bool) -> None:
    camera = loads.of_frames([*[2.0] * late, *[0.5] * (frames - late)], 1.0, 1.0)
    loaded = Loaded(Scenario("camera", max_missed=0.01), camera=camera)
    assert (loaded.wrong is not None) == wrong
    assert Loaded(Scenario("camera"), camera=camera).wrong is None


def slower(factor: float, from_s: float) -> tuple[Machine, Iterator[float]]:
    """A machine whose calls take a quarter of a second, and from some moment on longer by a factor."""
    machine = Machine(())
    machine._durations = (0.25 * (factor if machine.now >= from_s else 1) for _ in count())
    return machine, machine._durations


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_the_last_minute_is_compared_with_the_first(factor: float) -> None:
    machine, said = slower(factor, 120.0)[0], list[str]()
    temperatures = count(40.0, 0.5)

    def state() -> Readings:
        return {"temperature": read("°C", "machine", next(temperatures)), "clock": read("Hz", "machine", None)}

    found = loads.soak(machine.call, machine.synchronize, 180.0, said.append, state, machine.clock)
    assert found.ratio == pytest.approx(factor)
    assert found.interval == pytest.approx((factor, factor))
    assert found.window_s == 60.0
    assert len(found.at_s) == len(found.medians_s) == len(found.temperatures) == len(said)
    assert found.temperatures[:2] == [40.0, 40.5]
    assert set(found.clocks_hz) == {None}
    assert said[0].endswith("3 min left")
    assert said[-1].endswith("0.0 s left")


def test_a_soak_is_stopped_where_the_machine_becomes_too_hot_and_keeps_what_it_has() -> None:
    """Half a degree a second from 40 °C, and calls a tenth slower from 60 s on: above 85 °C in the 92nd row."""
    machine = slower(1.1, 60.0)[0]
    temperatures = count(40.0, 0.5)

    def state() -> Readings:
        return {"temperature": read("°C", "machine", next(temperatures)), "clock": read("Hz", "machine", None)}

    found = loads.soak(machine.call, machine.synchronize, 600.0, _unheard, state, machine.clock, most=85.0)
    assert found.temperatures[-1] == 85.5
    assert len(found.at_s) == len(found.medians_s) == len(found.temperatures) == 92
    assert found.stopped is not None
    assert found.stopped.startswith("86 °C after 1 min") and "at most 85 °C are allowed (--max-temperature)" in found.stopped
    assert found.window_s == pytest.approx((found.at_s[-1] + 1) / 2), "of what there is, and not of ten minutes"
    loaded = Loaded(Scenario("soak", 600.0), soak=found)
    assert loaded.wrong == f"stopped: {found.stopped}"


def test_a_soak_that_cannot_be_stopped_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "hottest", lambda: None)
    found = loads.run(Scenario("soak", 0.1), served()[1].append, timing.nothing, 1, 8, 0.0, _unheard, most=85.0)
    assert found.unavailable == "it cannot be stopped at 85 °C (--max-temperature): there is no sensor here"
    assert loads.run(Scenario("soak", 0.1), served()[1].append, timing.nothing, 1, 8, 0.0, _unheard).unavailable is None


@pytest.mark.parametrize(
    ("interval", "agrees"), [((0.98, 1.02), True), ((0.98, 1.04), False), ((1.04, 1.05), False), (None, False)]
)
def test_two_rulers_agree_where_that_is_certain(interval: tuple[float, float] | None, agrees: bool) -> None:
    beside = Beside([1.0], [1.0], 64, 1.0, interval)
    assert beside.agrees == agrees
    assert (Loaded(Scenario("side-by-side"), beside=beside).wrong is None) == agrees


def cell(name: str) -> Cell:
    return Cell(name, "dense", "eager", "fp32", 1, 8, "cpu")


def test_a_cell_is_loaded_in_the_process_that_has_qualified(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, cell("mlp"), settings)
    probe.agreement()
    camera = probe.load(Scenario("camera", 0.1, rate_hz=100.0, deadline_s=3600.0))
    soak = probe.load(Scenario("soak", 0.1))
    single = probe.load(Scenario("single-stream", 0.01))
    beside = probe.load(Scenario("side-by-side", 0.01))
    probe.close()
    assert camera.camera is not None
    assert (camera.camera.frames, camera.camera.late) == (10, 0)
    assert soak.soak is not None
    assert len(soak.soak.counts) == 1
    assert camera.disturbance["seconds"].value is not None
    if loadgen.missing() is None:
        assert single.run is not None
        assert single.run.verdict == VALID
        assert beside.beside is not None
        assert len(beside.beside.loadgen_s) == len(beside.beside.ours_s) >= 7
    else:
        assert single.unavailable == beside.unavailable == loadgen.missing()


@pytest.mark.parametrize(("name", "says"), [("NOT_A_NUMBER", "NaN"), ("WRITING_LATER", "writes into")])
def test_what_is_wrong_is_put_under_no_load(server: Connection, settings: Settings, name: str, says: str) -> None:
    probe = CellProbe(server, cell(f"tests.faulty:{name}"), settings)
    with pytest.raises(CellEnded, match=says):
        probe.load(Scenario("camera", 0.1))
    probe.close()
