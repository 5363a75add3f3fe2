"""Whole cells on a board with an agent: the reference, the checks and the record are ours, execution and time are its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plumbline.harness import messages, record
from plumbline.harness.cell import Cell
from plumbline.harness.lock import lock_machine
from plumbline.harness.outcomes import FAILED, UNAVAILABLE, UNSUPPORTED, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.runtimes import RunConfig, Unsupported
from plumbline.harness.runtimes.agent import Agent
from plumbline.harness.runtimes.board import Opened, Part
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.places import BadPlace, Board
from plumbline.harness.settings import Settings
from plumbline.models import Layer
from tests.agent.agents import FILE, place
from tests.agent.test_parts import NANO, sysfs
from tests.conftest import Run
from tests.records import cell_of, replace

Bench = Callable[..., Run]
pytestmark = pytest.mark.usefixtures("own_lock")
CELL = cell_of(model="small_cnn", batch=4, target="nano@cuda", runtime="agent")


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return replace(settings, accuracy_images=8)


@contextmanager
def probe_at(
    folder: Path, python: str, command: list[str], cell: Cell, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CellProbe]:
    """A cell at a board that this command starts an agent on; the probe here has imported torch before."""
    monkeypatch.setattr(places.find(""), "command", (python, *places.find("").command[1:]))
    folder.mkdir(exist_ok=True)
    with (folder / "probe.log").open("wb") as log:
        connection = Connection(log, place=Board("nano", tuple(command)), lock_s=0.0)
        probe = CellProbe(connection, cell, settings)
        try:
            yield probe
            probe.close()
        finally:
            connection.close()


@pytest.mark.slow
def test_a_cell_by_trtexec_is_proved_here_and_timed_there(
    tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board"
    sysfs(board / "sys", NANO)
    longer = replace(quick, sampling_s=0.5, layers=True)
    with probe_at(tmp_path, python, place(board, fake=""), CELL, longer, monkeypatch) as probe:
        prepared, agreement = probe.prepared(), probe.agreement()
        assert prepared.options["backend"] == "trtexec" and prepared.options["version"] == "8.2.1"
        assert prepared.options["in_precision"] == 1.0
        assert prepared.options["opset"] == 13 and prepared.options["ir_version"] <= 8
        assert agreement.wrong is None and agreement.error > 0, "six digits are near enough to float64"
        accuracy = probe.accuracy()
        assert accuracy.top1 is not None and accuracy.images == 8
        latency = probe.latency()
        assert set(latency.model.samples_s) == {0.00125, 0.0012625, 0.001275} or max(latency.model.samples_s) < 0.00128
        assert latency.with_transfer.median_s == pytest.approx(latency.model.median_s + 0.25e-3, rel=1e-3)
        assert latency.first_s == pytest.approx(1.5e-3)
        assert latency.telemetry["power"].values[0] == 2.875 and latency.telemetry["power"].rate_hz == 5.0
        assert latency.disturbance["seconds"].value is not None
        memory = probe.memory()
        assert memory["cuda_allocated"].value == 266 << 20
        assert memory["weights"].value is not None and memory["process_peak"].value is not None
        machine = probe._connection.machine
        assert machine.torch is None and machine.libraries["trtexec"] == "8.2.1" and "torch.onnx" in machine.libraries
        assert machine.id and machine.git_revision, "a fingerprint, and the revision that measures"
        layers = probe.layers()
        assert layers is not None and layers.unavailable == "agent does not say where its time goes"
        with pytest.raises(CellEnded, match="agent times itself on its board, and takes no turns with others") as ended:
            probe.turn(1)
        assert ended.value.outcome == UNSUPPORTED
        assert probe.exit is not None and "load_1min" in probe.exit.state_before


def test_a_wrong_answer_is_red_and_has_no_time(
    tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with probe_at(tmp_path, python, place(tmp_path / "b", fake="wrong"), CELL, quick, monkeypatch) as probe:
        with pytest.raises(CellEnded, match="in a trial: expected 2 x 191 = 382, got 573") as ended:
            probe.latency()
        assert ended.value.outcome == UNAVAILABLE


def test_outputs_that_are_wrong_after_the_trial_are_red_too(
    tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial passes, and the net is wrong: its agreement is, and nothing is timed."""
    command = place(tmp_path / "b", fake="wrong but in the trial")
    with probe_at(tmp_path, python, command, CELL, quick, monkeypatch) as probe:
        assert probe.agreement().wrong is not None
        with pytest.raises(CellEnded, match="RMS error") as ended:
            probe.latency()
        assert ended.value.outcome == FAILED
        assert "latency" not in probe.facts


def test_an_overflow_is_red(tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with probe_at(tmp_path, python, place(tmp_path / "b", fake="overflow"), CELL, quick, monkeypatch) as probe:
        with pytest.raises(CellEnded, match="the outputs hold NaN or infinity") as ended:
            probe.agreement()
        assert ended.value.outcome == FAILED


def test_images_that_would_take_too_long_are_not_classified(
    tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool takes a second at least, for each of 500 digits."""
    cell, all_of_them = replace(CELL, batch=1), replace(quick, accuracy_images=None, time_limit_s=500.0)
    with probe_at(tmp_path, python, place(tmp_path / "b", fake="slow"), cell, all_of_them, monkeypatch) as probe:
        found = probe.accuracy()
        assert found.top1 is None and found.unavailable is not None
        assert "s there, more than half of the limit of 500 s; ask for fewer (--accuracy-images)" in found.unavailable


def test_half_precision_has_to_be_seen(tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    half = replace(CELL, precision="fp16")
    with probe_at(tmp_path, python, place(tmp_path / "a", fake=""), half, quick, monkeypatch) as probe:
        assert probe.prepared().options["in_precision"] == 1.0
    with probe_at(tmp_path, python, place(tmp_path / "b", fake="never half"), half, quick, monkeypatch) as probe:
        with pytest.raises(CellEnded, match=r"asked for fp16, agent executes 0\.0% of its MACs in that") as ended:
            probe.prepared()
        assert ended.value.outcome == FAILED


def _share(precision: str, formats: list[tuple[str, int]]) -> float:
    """What an agent's runtime says of a net of two layers, as TensorRT lists these formats, each with its outputs."""
    layers = [Layer("one", 10, 1000, 10), Layer("two", 10, 3000, 10)]
    there = Agent.__new__(Agent)
    parts = [
        Part(f"part {number}", "CaskConvolution", True, kind, [1, outputs]) for number, (kind, outputs) in enumerate(formats)
    ]
    there._opened = Opened(backend="trtexec", version="8.2.1", layers=parts)
    there._config = RunConfig(PRECISIONS[precision], "cuda", 1, 1)
    return there.share_in_precision([None], layers)


def test_what_a_builder_does_not_list_is_not_taken_for_half_precision() -> None:
    assert _share("fp16", [("float16", 100), ("float16", 300)]) == 1.0
    assert _share("fp16", [("float32", 100), ("float16", 300)]) == 0.75
    assert _share("fp16", [("float32", 100), ("float32", 300)]) == 0.0, "red"
    for listed in ([("float16", 100)], []):
        with pytest.raises(Unsupported, match=r"trtexec 8\.2\.1 shows .* of its MACs in fp16, and the rest in another"):
            _share("fp16", listed)
    assert _share("fp32", []) == _share("fp32", [("float32", 100)]) == 1.0, "there nothing else was allowed"
    assert _share("fp32", [("float32", 100), ("float16", 300)]) == 0.25, "red"


def test_a_file_that_the_board_does_not_read_is_unsupported(
    tmp_path: Path, python: str, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(CELL, runtime="agent+backend=trtexec+opset=17")
    with probe_at(tmp_path, python, place(tmp_path / "b", fake=""), newer, quick, monkeypatch) as probe:
        with pytest.raises(
            CellEnded, match=r"TensorRT 8\.2\.1 there reads opset 13 or lower, the file has 17; export it"
        ) as ended:
            probe.prepared()
        assert (ended.value.outcome, ended.value.axis) == (UNSUPPORTED, "runtime")


def test_an_agent_of_another_version_is_refused(tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "plumbline_agent.py"
    other.write_text(FILE.read_text().replace("AGENT = 1 ", "AGENT = 7 "))
    says = "expected an agent of version 1, got 7; copy agent/plumbline_agent.py of this revision to the board"
    with pytest.raises(BadPlace, match=says):
        _ = Board("nano", tuple(place(tmp_path / "b", file=other))).capabilities
    command = place(tmp_path / "b", file=other)
    with (
        probe_at(tmp_path, python, command, CELL, Settings(), monkeypatch) as probe,
        pytest.raises(CellEnded, match=f"the probe at nano did not start: {says}"),
    ):
        probe.prepared()


def test_a_board_where_somebody_measures_is_busy(tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    board = tmp_path / "b"
    command = place(board)
    with monkeypatch.context() as there:
        there.setenv("PLUMBLINE_LOCK", str(board / "lock"))
        lock = lock_machine(0, "ann@lab")
    with (
        lock,
        probe_at(tmp_path, python, command, CELL, Settings(), monkeypatch) as probe,
        pytest.raises(CellEnded, match=r"nano: another session \(ann@lab, since "),
    ):
        probe.prepared()


def test_a_board_says_what_it_can_run(tmp_path: Path) -> None:
    board = Board("nano", tuple(place(tmp_path / "b")))
    places._known["nano"] = board
    try:
        for cell, says in (
            (cell_of(target="nano", runtime="eager"), "a board with an agent runs ONNX files only: --runtime agent"),
            (cell_of(target="nano@cuda", runtime="agent"), "no CUDA device there"),
            (cell_of(target="nano", runtime="agent", precision="bf16"), "agent runs fp32, fp16, got bf16"),
            (cell_of(target="cpu", runtime="agent"), "it executes at a place with an agent"),
        ):
            found = matrix.impossible(cell)
            assert found is not None and says in found.reason
        assert matrix.impossible(cell_of(target="nano", runtime="agent")) is None
        ours = Settings(data=tmp_path, cache=tmp_path)
        assert board.settings(ours) == ours, "data, weights and cache are those of this machine"
    finally:
        del places._known["nano"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[place.a]\nagent = true\ncommand = []\n", "expected a command"),
        ("[place.a]\nagent = 'yes'\ncommand = ['x']\n", "Expected `bool`, got `str`"),
        ("[place.a]\nagent = true\ncommand = ['x']\ndata = '/d'\n", "an agent has no data, weights and cache"),
    ],
)
def test_a_board_that_is_described_wrongly_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "targets.toml").write_text(text)
    with pytest.raises(BadPlace, match=says):
        places.load(tmp_path / "targets.toml")


@pytest.mark.slow
def test_the_same_file_by_an_agent_and_directly(bench: Bench, tmp_path: Path) -> None:
    """ONNX Runtime here and by an agent, which this Python runs: the same outputs, the same top-1, a latency of its own."""
    command = place(tmp_path / "board", python=sys.executable)
    (tmp_path / "targets.toml").write_text(f"[place.board]\nagent = true\ncommand = {json.dumps(command)}\n")
    run = bench("--targets", str(tmp_path / "targets.toml"), "--tier", "smoke", "--model", "small_cnn", "--batch", "4",
                "--precision", "fp32", "--runtime", "agent,onnxruntime+opset=13", "--target", "cpu,board",
                "--inputs-seed", "7", "-k", "agent and board or not agent and cpu")  # fmt: skip
    assert run.code == 0, run.output
    there, here = (run.records[f"small_cnn-dense-{name}"] for name in
                   ("agent-fp32-b4-8px-board", "onnxruntime+opset=13-fp32-b4-8px-cpu"))  # fmt: skip
    assert (there.outcome, here.outcome) == ("ok", "ok")
    assert there.counts == here.counts
    assert there.agreement.error == pytest.approx(here.agreement.error, rel=0.01)
    assert there.accuracy.top1 == here.accuracy.top1
    assert there.prepared.artefact["sha256"] == here.prepared.artefact["sha256"], "the same exported file"
    assert there.prepared.options["backend"] == "onnxruntime" and there.prepared.options["tried"] == [
        "trtexec: there is no trtexec, neither /usr/src/tensorrt/bin/trtexec nor on the PATH"
    ]
    assert len(there.latency.model.samples_s) > 8
    assert there.machine.torch is None and there.machine.libraries["onnxruntime"] == here.machine.libraries["onnxruntime"]
    assert messages.decode(messages.encode(there), record.Record) == there


def test_a_command_that_starts_no_agent(tmp_path: Path) -> None:
    with pytest.raises(BadPlace, match="'nano' does not answer as a probe: the agent does not start: no-such-command"):
        _ = Board("nano", ("no-such-command",)).capabilities
    with pytest.raises(BadPlace, match=r"expected an agent of version 1, got .*Welcome to"):
        _ = Board("nano", ("echo", "Welcome to Ubuntu")).capabilities
    done = subprocess.run(Board("nano", ("false",)).starting("--capabilities"), capture_output=True, text=True)
    assert done.returncode == 1 and "the agent does not start: exit code 1" in done.stderr
