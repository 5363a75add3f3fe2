"""The probe: a fresh process for each cell, and a typed outcome however it ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline import models
from plumbline.files import sha256
from plumbline.harness.cell import Cell
from plumbline.harness.messages import PROTOCOL
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.probe.process import run_forked, run_spawned
from plumbline.harness.probe.server import make_room
from plumbline.harness.session.client import PROBE, CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.harness.verdicts.audit import claims
from plumbline.models.layers import macs
from plumbline.models.registry import REGISTRY
from tests.conftest import HOUR_S
from tests.records import replace


def cell(model: str, precision: str = "fp32", batch: int = 1) -> Cell:
    return Cell(model, "dense", "eager", precision, batch, 8, "cpu")


def faulty(name: str) -> Cell:
    return cell(f"tests.faulty:{name}")


def ask_all(probe: CellProbe) -> None:
    probe.counts()
    probe.agreement()
    probe.accuracy()
    probe.latency()
    probe.memory()
    probe.close()


def end_of(server: Connection, settings: Settings, name: str) -> CellEnded:
    with pytest.raises(CellEnded) as caught:
        ask_all(CellProbe(server, faulty(name), settings))
    return caught.value


@pytest.mark.parametrize(
    ("name", "wrong"), [("REMEMBERING", "pictures"), ("HOARDING", "pictures"), ("CHOOSY", None), ("WEARY", "the")]
)
def test_a_net_that_remembers_its_pictures_or_changes_is_found(
    server: Connection, settings: Settings, name: str, wrong: str | None
) -> None:
    """They sleep for pictures that they do not know: 5 ms, where the net takes some microseconds. What depends on them may."""
    probe = CellProbe(server, faulty(name), replace(settings, audit=True))
    probe.latency()
    found = probe.audit()
    probe.close()
    assert found is not None and (found.change > found.tolerance) == (name == "WEARY")
    assert [claim.text.partition(" ")[0] for claim in claims(found) if not claim.holds] == [wrong] * (wrong is not None)
    assert CellProbe(server, faulty(name), settings).audit() is None


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_what_is_audited_keeps_its_outputs(server: Connection, settings: Settings, runtime: str) -> None:
    probe = CellProbe(server, replace(cell("small_cnn"), runtime=runtime), replace(settings, audit=True))
    found = probe.audit()
    probe.close()
    assert found is not None and found.rounds >= 7
    assert set(found.ratios) == {"rotating", "zeros", "denormals", "consumed"}
    assert found.change <= found.tolerance
    assert all(ratio > 0 and interval is not None for ratio, interval in found.ratios.values())


def test_what_a_runtime_keeps_is_seen_from_outside(server: Connection, settings: Settings) -> None:
    """ONNX Runtime's arena takes nothing for a second inference; the first one's activations are at least its largest output."""
    probe = CellProbe(server, Cell("small_cnn", "dense", "onnxruntime", "fp32", 256, 8, "cpu"), settings)
    memory = probe.memory()
    probe.close()
    assert memory["inference"].value is None
    assert (memory["first_inference"].value or 0) >= 256 * 32 * 8 * 8 * 4


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system does not tell of two things at once")
def test_what_nobody_waits_for_is_killed(tmp_path: Path) -> None:
    """A connection that is lost closes the pipe from which requests come."""
    read, write = os.pipe()
    assert run_forked(lambda: 3, "job", HOUR_S, read).code == 3

    def work() -> int:
        os.close(write)
        (tmp_path / "pid").write_text(str(os.getpid()))
        return _endless()

    threading.Timer(0.5, os.close, [write]).start()
    with pytest.raises(SystemExit, match="the session has hung up"):
        run_forked(work, "job", HOUR_S, read)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
    os.close(read)


def test_a_good_cell_is_checked_and_measured(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, cell("small_cnn", batch=3), settings)
    ask_all(probe)
    assert probe.prepared().parameters == probe.counts().parameters == 38_282
    agreement = probe.agreement()
    assert agreement.same_function
    assert agreement.repeatable
    assert agreement.pictures == "digits"
    accuracy = probe.accuracy()
    assert (accuracy.data, accuracy.images, accuracy.of) == ("digits", 100, 500)
    assert accuracy.top1 is not None
    assert accuracy.top1 >= 0.95
    assert accuracy.top5 == 1.0
    found = probe.latency()
    assert min(found.model.samples_s) > 0
    assert found.first_s > 0
    memory = probe.memory()
    assert memory["weights"].value == 4 * 38_282
    assert (memory["process_peak"].value or 0) > (memory["process_base"].value or 0) > 10**7
    assert probe.exit is not None and probe.exit.code == 0


def _small() -> list[str]:
    """The registered models of less than a GMAC that have a formula."""
    formulas = {name: models.find(name).formula(models.find(name).image_size) for name in REGISTRY.names()}
    return [name for name, formula in formulas.items() if formula is not None and macs(formula) < 1e9]


@pytest.mark.slow
@pytest.mark.parametrize("model", [*_small(), "timm:mobilenetv2_100", "torchvision:alexnet", "torchvision:shufflenet_v2_x0_5"])
def test_seeded_nets_agree_in_bf16_with_room_to_spare(server: Connection, settings: Settings, model: str) -> None:
    """Nets that amplify rounding errors, as untrained ones do, would make this a lottery.

    That grows with the depth of a net, which the size of the pictures leaves as it is.
    """
    found = models.find(model)
    image_size = next(
        size for size in (*range(min(64, found.image_size), found.image_size), found.image_size) if size in found.sizes
    )
    probe = CellProbe(server, Cell(found.name, "dense", "eager", "bf16", 4, image_size, "cpu"), settings)
    agreement = probe.agreement()
    probe.close()
    assert agreement.error < 0.9 * agreement.tolerance
    assert agreement.same_function


def test_weights_in_bf16_take_half_the_bytes(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, cell("mlp", precision="bf16"), settings)
    assert probe.memory()["weights"].value == 2 * probe.counts().parameters
    assert probe.accuracy().loss is not None
    probe.close()


def test_arithmetic_in_software_is_marked_and_timed_a_few_times(server: Connection, settings: Settings) -> None:
    from plumbline.harness.machine import cpu_flags
    from plumbline.harness.precisions import PRECISIONS

    probe = CellProbe(server, cell("small_cnn", precision="fp16"), settings)
    found = probe.latency()
    probe.close()
    assert found.emulated == PRECISIONS["fp16"].emulated("cpu", cpu_flags())
    assert (len(found.model.samples_s) == settings.emulated_samples) == found.emulated


@pytest.mark.parametrize(
    ("name", "outcome", "says"),
    [
        ("KILLED", "crashed", "killed by SIGKILL during agreement"),
        ("SEGMENTATION", "crashed", "killed by SIGSEGV during agreement"),
        ("RAISING", "failed", "this builder never builds"),
        ("EXITING", "failed", "SystemExit: 3"),
        ("REAL_TIME", "crashed", "killed by (SIG|signal )"),
        ("NOT_A_NUMBER", "failed", "NaN"),
        ("NOT_A_NUMBER_LATER", "failed", "NaN"),
        ("NARROW", "failed", r"expected outputs of shape \(1, 10\), got \(1, 9\)"),
    ],
)
def test_a_model_that_goes_wrong_ends_its_own_cell(
    server: Connection, settings: Settings, name: str, outcome: str, says: str
) -> None:
    end = end_of(server, settings, name)
    assert end.outcome == outcome
    assert re.search(says, end.reason)
    good = CellProbe(server, faulty("GOOD"), settings)  # the next cell is unharmed
    assert good.agreement().same_function
    good.close()


def test_a_cell_over_its_time_limit_is_ended(server: Connection, settings: Settings) -> None:
    """The alarm rings in the first call, as if the limit had passed then."""
    end = end_of(server, replace(settings, time_limit_s=4000.0), "OVERDUE")
    assert end.outcome == "timed_out"
    assert "agreement took it beyond the limit of 4000 s" in end.reason


def _endless() -> int:
    return len(select.select([], [], []))


def test_the_time_of_a_process_is_limited() -> None:
    """The limit itself, on work that would never end: however slow the machine is, it strikes in the middle."""
    end = run_forked(_endless, "job", 0.01)
    assert (end.timed_out, end.signal, end.code) == (True, "SIGKILL", None)
    spawned = run_spawned([sys.executable, "-c", "import select; select.select([], [], [])"], "job", (0, 1), 0.01)
    assert (spawned.timed_out, spawned.signal) == (True, "SIGKILL")
    assert run_forked(lambda: 3, "job", HOUR_S).code == 3
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # nothing strikes later


def test_a_cell_over_its_memory_limit_is_ended(server: Connection, settings: Settings) -> None:
    end = end_of(server, replace(settings, memory_limit_bytes=3 << 30), "HUNGRY")
    assert end.outcome == "out_of_memory"
    assert "limit 3221225472 bytes" in end.reason


@pytest.mark.parametrize("mebibytes", [1, 100, 600, 700])
def test_a_small_memory_limit_is_not_taken_for_a_failure(server: Connection, settings: Settings, mebibytes: int) -> None:
    """Whichever allocation fails, torch's, oneDNN's or the mapping of a file: there was not enough memory."""
    limited = replace(settings, memory_limit_bytes=mebibytes << 20)
    big = Cell("mlp+width=9000", "dense", "eager", "fp32", 1, 28, "cpu")
    with pytest.raises(CellEnded) as caught:
        CellProbe(server, big, limited).agreement()
    assert caught.value.outcome == "out_of_memory", caught.value.reason


def test_a_memory_limit_above_what_is_needed_does_not_matter(server: Connection, settings: Settings) -> None:
    limited = replace(settings, memory_limit_bytes=1500 << 20)
    probe = CellProbe(server, cell("small_cnn"), limited)
    ask_all(probe)
    assert (probe.memory()["process_peak"].value or 0) < 1500 << 20


def test_what_was_learned_before_the_end_is_kept(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, faulty("KILLED"), settings)
    probe.counts()
    with pytest.raises(CellEnded):
        probe.agreement()
    assert probe.counts().parameters == 650
    assert probe.prepared().weights.kind == "trained"
    assert probe.exit is not None and (probe.exit.process_peak_bytes or 0) > 10**7
    with pytest.raises(CellEnded, match="has ended"):
        probe.latency()


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("GOOD", (True, True)),
        ("SWAPPED", (False, True)),
        ("CONSTANT", (False, True)),
        ("RANDOM", (False, False)),
        ("PERTURBED", (False, True)),
    ],
)
def test_agreement_is_red_for_every_kind_of_wrong_output(
    server: Connection, settings: Settings, name: str, holds: tuple[bool, bool]
) -> None:
    """Swapped classes, a constant answer, chance, outputs a thousandth too large: none passes in fp32."""
    probe = CellProbe(server, faulty(name), settings)
    agreement = probe.agreement()
    probe.close()
    assert (agreement.same_function, agreement.repeatable) == holds


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("name", "repeatable"), [("GOOD", True), ("JITTERY", False)])
def test_two_calls_must_agree_in_every_precision(
    server: Connection, settings: Settings, name: str, repeatable: bool, precision: str
) -> None:
    """A hundredth of the spread of noise is below what rounding explains, and still no two calls may differ by it."""
    probe = CellProbe(server, replace(faulty(name), precision=precision), settings)
    agreement = probe.agreement()
    probe.close()
    assert agreement.repeatable == repeatable


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1.0001), ("fp16", 1.1), ("bf16", 1.2)])
@pytest.mark.parametrize("tensor", ["conv1.weight", "conv2.weight", "linear1.weight", "linear2.weight"])
def test_a_perturbed_layer_is_seen(server: Connection, settings: Settings, tensor: str, precision: str, scale: float) -> None:
    """The cell loads weights of which one layer is not the reference's."""
    from safetensors.torch import load_file, save_file

    probe = CellProbe(server, cell("small_cnn", precision), settings)
    used = probe.prepared().weights.sha256
    probe.close()
    trained = (settings.cache / "training").glob("digits_small_cnn-8px-*/weights.safetensors")
    (path,) = (path for path in trained if sha256(path) == used)  # other tests train variants of it
    whole = path.read_bytes()
    state = load_file(path)
    try:
        save_file({**state, tensor: state[tensor] * scale}, path)  # the reference of the good ones is kept by the server
        probe = CellProbe(server, cell("small_cnn", precision), settings)
        agreement = probe.agreement()
        probe.close()
    finally:
        path.write_bytes(whole)
    assert not agreement.same_function


def test_a_wrong_formula_is_seen(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, faulty("MISCOUNTED"), settings)
    counts = probe.counts()
    parameters = probe.prepared().parameters
    probe.close()
    assert counts.formula != counts.flop_counter
    assert parameters != counts.parameters
    assert not counts.formula_holds
    assert counts.differing == {"linear": [[11 * 65, 11 * 64], [10 * 65, 10 * 64]]}


def test_counting_starts_no_process_of_the_cell(server: Connection, settings: Settings) -> None:
    """Counts need no weights; they can be asked for before and after the cell's process is there."""
    probe = CellProbe(server, cell("mlp+width=64"), settings)
    before = probe.counts()
    assert set(probe.facts) == {"counts"}
    probe.close()
    late = CellProbe(server, cell("mlp+width=64"), settings)
    late.prepared()
    assert late.counts() == before
    late.close()


def test_a_model_that_needs_another_input_shape_fails_with_torchs_reason(server: Connection, settings: Settings) -> None:
    with pytest.raises(CellEnded, match=r"same reduction dim|shapes cannot be multiplied") as caught:
        CellProbe(server, replace(faulty("OTHER_SHAPE"), image_size=9), settings).counts()
    assert caught.value.outcome == "failed"


@pytest.mark.slow
def test_the_probe_works_where_nothing_can_be_forked(tmp_path: Path, python: str, settings: Settings) -> None:
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log, command=[python, *PROBE[1:], "--no-fork"])
        probe = CellProbe(server, faulty("GOOD"), settings)
        assert probe.agreement().same_function
        probe.close()
        assert probe.exit is not None and probe.exit.code == 0
        with pytest.raises(CellEnded) as caught:
            CellProbe(server, faulty("SEGMENTATION"), settings).agreement()
        server.close()
    assert caught.value.outcome == "crashed"
    assert "SIGSEGV" in caught.value.reason


@pytest.mark.slow
def test_a_server_that_dies_is_started_again(tmp_path: Path, python: str, settings: Settings) -> None:
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log, command=[python, *PROBE[1:]])
        probe = CellProbe(server, faulty("GOOD"), settings)
        probe.prepared()
        process = server._process
        assert process is not None
        process.kill()
        process.wait()  # the kernel ends the cell's process with it, a moment later
        with pytest.raises(CellEnded, match="the probe server died") as caught:
            ask_all(probe)
        assert caught.value.outcome == "crashed"
        again = CellProbe(server, faulty("GOOD"), settings)
        assert again.agreement().same_function
        again.close()
        server.close()


def test_a_probe_that_cannot_start_says_why(tmp_path: Path, settings: Settings) -> None:
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log, command=["sh", "-c", "echo no torch here >&2; exit 3"])
        with pytest.raises(CellEnded, match="did not start: no torch here"):
            CellProbe(server, faulty("GOOD"), settings).prepared()


@pytest.mark.parametrize(
    "hello", ['{"type": "Hello", "protocol": 99, "new": {}}', '{"hello": {"torch": "2.15.0"}, "protocol": 1}', "{}", "[]"]
)
def test_a_probe_of_another_version_is_refused_by_name(tmp_path: Path, settings: Settings, hello: str) -> None:
    got = json.loads(hello)["protocol"] if "protocol" in hello else None
    with (tmp_path / "probe.log").open("wb") as log:
        server = Connection(log, command=["sh", "-c", f"echo '{hello}'; cat"])
        with pytest.raises(
            CellEnded, match=rf"expected a probe that speaks protocol {PROTOCOL}, got {got}; install the same"
        ) as caught:
            CellProbe(server, faulty("GOOD"), settings).prepared()
    assert (caught.value.outcome, caught.value.axis) == ("unavailable", "target")


def test_folders_go_until_there_is_room_the_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / "net").write_bytes(b"net")
    free = {3: 10, 2: 20, 1: 30}
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free[len(list(tmp_path.iterdir()))]))
    assert make_room(folders, 10) == folders
    assert make_room(folders, 20) == folders[1:]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["b", "c"]
