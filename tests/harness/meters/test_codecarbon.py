"""An estimate of energy: on request only, without threads or a network, labelled wherever it is shown, and deciding nothing."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.harness import timing
from plumbline.harness.facts import Energy
from plumbline.harness.meters import METERS, Unavailable, running
from plumbline.harness.meters import codecarbon as module
from plumbline.harness.meters.codecarbon import ASKED, CodeCarbon
from plumbline.harness.meters.running import Watch
from plumbline.harness.probe import examining
from plumbline.harness.rows import row_of
from plumbline.harness.studies.gate.processes import _joules
from plumbline.harness.verdicts.budget import Budget, held
from plumbline.harness.verdicts.choice import frontier
from plumbline.harness.verdicts.words import FAILED, INCONCLUSIVE
from plumbline.harness.views.report.matrix import shown
from plumbline.harness.views.table import matrix
from tests.box import Clock
from tests.harness.meters.test_devices import BUSY_S, INFERENCE_S
from tests.records import latency_of, record_of, replace


class Part:
    """Hardware, as CodeCarbon has found it: so many watts at rest, and as many when it is busy."""

    def __init__(self, clock: Clock, rest_w: float, busy_w: float) -> None:
        self._clock, self._rest_w, self._busy_w = clock, rest_w, busy_w
        self.started = False

    def start(self) -> None:
        self.started = True

    def description(self) -> str:
        return f"{type(self).__name__}({self._busy_w:g} W)"

    def measure_power_and_energy(self, last_duration: float) -> tuple[Any, Any]:
        assert self.started
        watts = self._rest_w if self._clock.now <= BUSY_S else self._busy_w
        return SimpleNamespace(W=watts), SimpleNamespace(kWh=watts * last_duration / 3.6e6)


class RAM(Part):
    """Memory."""


class CPU(Part):
    """A processor."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Its clock, of a CodeCarbon that is asked for and assumes 5 W of memory, and 1 or 10 W of a processor."""
    clock = Clock()

    def tracker(**how: object) -> Any:
        assert how["output_methods"] == [], "else it writes a file"
        return SimpleNamespace(_hardware=[RAM(clock, 5, 5), CPU(clock, 1, 10)], get_detected_hardware=dict)

    fake = SimpleNamespace(OfflineEmissionsTracker=tracker, __version__="3.3.2")
    monkeypatch.setitem(sys.modules, "codecarbon", fake)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setenv(ASKED, "1")
    return clock


def test_it_is_what_it_assumes_times_the_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "METERS", {"codecarbon": CodeCarbon})
    watch = Watch(5.0, clock=clock, time_of_day=clock, sleep=clock.advance, background=clock.background)
    clock.advance(BUSY_S - clock.now)
    (found,) = watch.run(lambda: clock.advance(INFERENCE_S), timing.nothing).values()
    assert (found.estimate, found.scope, found.rail, found.update_s) == (True, "machine", "RAM + CPU", 0.1)
    assert found.about.startswith("an estimate, not measured: CodeCarbon 3.3.2 by RAM(5 W), CPU(10 W)")
    assert found.idle_w == pytest.approx(6.0)
    assert found.running_w == pytest.approx(15.0)
    assert found.joules == pytest.approx(9.0 * INFERENCE_S, rel=1e-3)
    assert (found.updates or 0) >= 20


@pytest.mark.parametrize("said", [None, "", "0"])
def test_nobody_gets_one_unasked(said: str | None, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    if said is None:
        monkeypatch.delenv(ASKED)
    else:
        monkeypatch.setenv(ASKED, said)
    with pytest.raises(Unavailable, match=f"no estimate is asked for: {ASKED}=1"):
        CodeCarbon().open()


def test_no_package_is_the_reason(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(Unavailable, match="codecarbon is not installed: pip install 'plumbline\\[codecarbon\\]'"):
        CodeCarbon().open()


def test_the_doctor_knows_no_error_of_an_estimate(clock: Clock) -> None:
    (found,) = (each for each in examining._meters(Path("/nowhere"), "cpu") if each.name == "energy by codecarbon")
    assert found.found == "RAM + CPU: an estimate, whose error is not known"


GUESS = Energy("RAM + CPU", estimate=True, joules=0.5, interval=(0.4, 0.6), running_w=15.0)
READ = Energy("psys", joules=0.25, interval=(0.2, 0.3), running_w=9.0)


def of(**energy: Energy) -> Any:
    return record_of(latency=replace(latency_of(), energy=energy))


def test_where_a_meter_has_read_it_the_estimate_is_not_shown() -> None:
    """In whatever order a record has them, and though it is the lower one."""
    low = replace(GUESS, joules=0.01, interval=(0.005, 0.02))
    assert " 250 (200-300)" in matrix([of(codecarbon=low, rapl=READ)])
    assert list(METERS)[-1] == "codecarbon"


def test_it_is_labelled_in_the_table_and_in_the_report() -> None:
    record = of(codecarbon=GUESS)
    table = matrix([record])
    assert "≈500 (400-600)" in table
    assert "codecarbon, RAM + CPU (≈: an estimate)" in table
    assert "an estimate" not in matrix([of(rapl=READ)])
    row = row_of(record, "")
    assert (row.meter, row.energy_is_estimate) == ("codecarbon", True), "CSV and Parquet have both"
    assert shown(row, "joules").text.startswith("≈")


def test_it_is_weighed_against_nothing() -> None:
    low = replace(GUESS, joules=0.01, interval=(0.005, 0.02))
    guessed, measured = row_of(of(codecarbon=low), "a"), row_of(of(rapl=READ), "b")
    assert frontier([guessed, measured], "image_s", "joules") == [measured]
    assert frontier([guessed], "latency_s", "image_s") == [guessed], "its other figures count"


def test_it_decides_nothing() -> None:
    """A gate has no quantity of it, and a budget that it misses by far is not missed."""
    assert _joules({"codecarbon": GUESS, "rapl": READ}) == {"energy by rapl": 0.25}
    budget = Budget("b", {"energy": 1e-3})
    verdicts = [one.verdict for energy in (GUESS, READ) for one in held(budget, of(any=energy))]
    assert verdicts == [INCONCLUSIVE, FAILED]


def expected() -> None:
    """Skip where CodeCarbon is not installed; in `tox -e oracles` that is red."""
    try:
        import codecarbon as codecarbon
    except ImportError as error:
        reason = f"CodeCarbon is not installed: {error}"
        pytest.fail(reason) if "codecarbon" in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)


def test_the_real_one_asks_nobody_writes_nothing_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected()
    monkeypatch.setenv(ASKED, "1")
    monkeypatch.setenv("CODECARBON_FORCE_CPU_POWER", "40")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    before = threading.enumerate()
    meter = CodeCarbon()
    rail = meter.open()
    capfd.readouterr()
    shown = [meter.read() for _ in range(3)]
    assert (rail.unit, rail.name.partition(" + ")[0]) == ("J", "RAM")
    assert shown == sorted(shown) and shown[0] > 0
    assert (asked, threading.enumerate(), list(tmp_path.iterdir()), capfd.readouterr().err) == ([], before, [], "")
