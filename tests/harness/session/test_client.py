"""The session's end of the pipe, on a fake connection: what is asked, and what an ending means."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
from msgspec import Raw

from plumbline.harness import timing
from plumbline.harness.devices import BadDevices, Peaks
from plumbline.harness.machine import Machine
from plumbline.harness.messages import Answer, Compress, Ended, Exited, Open, Response, Train
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.session.client import QUIET_S, CellProbe, Connection, ahead, compressed, examined, trained
from plumbline.harness.session.places import Place
from plumbline.harness.settings import UNKNOWN, Settings
from plumbline.harness.statistics import paired_ratio
from tests.fake import PEAKS, FakeConnection
from tests.records import accuracy_of, cell_of, latency_of, replace

KILLED = Exited("cell", None, "SIGKILL", process_peak_bytes=7)


def probe_of(connection: FakeConnection, **more: object) -> CellProbe:
    return CellProbe(connection, cell_of(), Settings(), **more)  # type: ignore[arg-type]


def test_each_fact_is_asked_once_and_kept() -> None:
    connection = FakeConnection()
    probe = probe_of(connection)
    for _ in range(2):
        probe.counts()
        probe.agreement()
        probe.latency()
    assert connection.asked() == ["agreement", "latency"]
    assert sum(isinstance(message, Open) for message in connection.sent) == 1
    assert list(probe.facts) == ["counts", "prepared", "agreement", "latency"]


def test_an_accuracy_that_another_batch_has_shown_is_not_asked_for() -> None:
    connection = FakeConnection()
    probe = probe_of(connection, accuracy=accuracy_of(0.9, measured_by="another"))
    probe.agreement()
    assert probe.accuracy().measured_by == "another"
    assert connection.asked() == ["agreement"]
    (opened,) = (message for message in connection.sent if isinstance(message, Open))
    assert not opened.compare_with_parent


def test_a_cell_that_is_impossible_starts_nothing() -> None:
    connection = FakeConnection()
    with pytest.raises(CellEnded, match="never"):
        probe_of(connection, refusal=CellEnded("unsupported", "never")).latency()
    assert connection.sent == []


@pytest.mark.parametrize(
    ("ending", "outcome", "says"),
    [
        ([Exited("cell", None, "SIGSEGV")], "crashed", "killed by SIGSEGV during agreement"),
        ([Exited("cell", None, "SIGKILL", timed_out=True)], "timed_out", "agreement took it beyond the limit of 300 s"),
        ([Exited("cell", None, "SIGKILL", out_of_memory=True)], "out_of_memory", "killed by the kernel for memory during"),
        ([Ended("failed", "so"), Exited("cell", 1)], "failed", "agreement: so"),
        ([Ended("unsupported", "no", "precision"), Exited("cell", 1)], "unsupported", "agreement: no"),
        ([Exited("cell", 3)], "crashed", "exit code 3 during agreement"),
        ([Ended("failed", "so"), Exited("artefact", 1)], "failed", "building: so"),
        ([], "crashed", "the probe server died"),
        ([Answer(Raw(b'{"error":null}'))], "crashed", "the answer to agreement is not what was expected"),
    ],
)
def test_how_a_process_ends_is_a_typed_outcome(ending: list[Response], outcome: str, says: str) -> None:
    probe = probe_of(FakeConnection(dies_at="agreement", ending=ending))
    with pytest.raises(CellEnded, match=says) as caught:
        probe.agreement()
    assert caught.value.outcome == outcome
    probe.close()
    with pytest.raises(CellEnded, match="has ended"):
        probe.latency()


def test_resident_processes_take_turns_and_drift_cancels() -> None:
    """Two probes at two ends of a ratio; the machine is slower in every round, and their ratio does not notice."""
    slowness = [1.0]

    def turn(seconds: float) -> float:
        slowness[0] *= 1.02
        return seconds * slowness[0]

    base, head = (probe_of(FakeConnection(turn=partial(turn, seconds))) for seconds in (2e-3, 1e-3))
    taken = timing.interleave({"base": partial(base.turn, 5), "head": partial(head.turn, 5)}, rounds=40)
    found = paired_ratio(taken["base"], taken["head"])
    assert found.pairs == 40
    assert found.median == pytest.approx(2, rel=0.021), "but for the drift within a round"
    assert max(taken["base"]) > 2 * min(taken["base"]), "each for itself shows the drift"


@pytest.mark.parametrize(("there", "says"), [(105.0, 0.0), (96.0, 0.0), (115.0, 0.0), (200.0, 90.0), (40.0, -60.0), (94.0, -6.0)])
def test_a_clock_is_wrong_only_if_the_way_does_not_explain_it(there: float, says: float) -> None:
    """Asked at 100 s, answered at 110 s; 5 s more are let pass."""
    assert ahead(there, 100.0, 110.0) == says


def test_a_training_elsewhere_gets_the_folders_of_that_place() -> None:
    """Not those of the machine that asks."""
    place = Place("board", ("x",), data="/theirs")
    connection = FakeConnection(dies_at="", ending=[Ended("failed", "so"), Exited("train", 1)])
    connection.place = place
    with pytest.raises(CellEnded, match=r"^so$"):
        trained(connection, Train(cell_of(target="board"), Settings(data=Path("/ours"), cache=Path("/ours/cache"))))
    (request,) = connection.sent
    assert isinstance(request, Train)
    assert (request.settings.data, request.settings.cache) == (Path("/theirs"), UNKNOWN)


FAST = replace(PEAKS, macs_per_s={"fp32": 1e12})


def test_a_bound_comes_from_the_peaks_of_the_machine() -> None:
    connection = FakeConnection()
    bound = probe_of(connection).bound()
    assert (bound.seconds, bound.measured_again, bound.device) == (1e-6, False, "a machine")
    assert connection.asked() == ["latency", "work", "peaks"]


@pytest.mark.parametrize(("again", "holds"), [(FAST, True), (PEAKS, False)])
def test_peaks_that_do_not_allow_for_a_latency_are_measured_again(again: Peaks, holds: bool) -> None:
    connection = FakeConnection(latency=latency_of(1e-7), peaks_anew=again)
    probe = probe_of(connection)
    bound = probe.bound()
    assert bound.measured_again
    assert bound.allows(probe.latency()) is holds
    assert connection.asked()[-1] == "peaks_anew"


@pytest.mark.parametrize(
    ("accelerator", "target", "says"),
    [
        (None, "cuda", "nothing says which device this is"),
        ("a new GPU, driver 1", "cuda", "no peaks of 'a new GPU, driver 1'"),
        ("NVIDIA Jetson Nano Developer Kit", "cuda:1", "its first GPU only"),
    ],
)
def test_a_device_that_is_not_described_has_no_bound_and_says_why(accelerator: str | None, target: str, says: str) -> None:
    connection = FakeConnection(machine=Machine(accelerator=accelerator))
    bound = CellProbe(connection, cell_of(target=target), Settings()).bound()
    assert bound.seconds is None
    assert says in bound.missing[0]
    assert connection.asked() == ["latency", "work", "gpu"]


@pytest.mark.parametrize("target", ["cuda", "cuda:1"])
def test_a_cell_is_held_to_its_own_gpu(target: str) -> None:
    """CUDA counts from the fastest one; that of the first slot may be much slower, and would make it red."""
    machine = Machine(accelerator="NVIDIA GeForce RTX 3070, driver 570.1")
    connection = FakeConnection(machine=machine, gpu="NVIDIA H100 80GB HBM3")
    bound = CellProbe(connection, cell_of(target=target), Settings()).bound()
    assert bound.device is not None and bound.device.startswith("H100")


def test_a_device_of_the_file_is_held_to_its_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = FakeConnection(machine=Machine(accelerator="NVIDIA Jetson AGX Xavier"))
    bound = CellProbe(connection, cell_of(target="cuda"), Settings()).bound()
    assert bound.seconds == 1000 / (1410e9 / 2)
    assert "the size of the last cache" in bound.missing[0]
    monkeypatch.setenv("PLUMBLINE_DEVICES", str(tmp_path / "mine.toml"))
    with pytest.raises(BadDevices, match=r"mine.toml: cannot be read"):
        CellProbe(connection, cell_of(target="cuda"), Settings()).bound()


def test_training_and_compressing_take_as_long_as_they_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A place that says nothing meanwhile does not hang; what is examined there has the time limit of a cell."""
    seen: list[float] = []
    monkeypatch.setattr(Connection, "start", lambda self: None)
    monkeypatch.setattr(CellProbe, "_once", lambda self, fact, request: seen.append(self._connection.patience_s))
    with (tmp_path / "log").open("wb") as log:
        connection = Connection(log)
        trained(connection, Train(cell_of(), Settings()))
        examined(connection, Settings(time_limit_s=7.0), "cpu")
        compressed(connection, Compress(cell_of(), Settings(), "out"))
    assert seen == [math.inf, 7.0 + QUIET_S, math.inf]
