"""Places: a command in front of a probe, with folders, runtimes and a lock of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.harness import journal, messages, runtimes
from plumbline.harness.boot import BOOT
from plumbline.harness.session import matrix, places
from plumbline.harness.session.places import BadPlace, Place
from plumbline.harness.session.session import missing_data, needed
from plumbline.harness.settings import UNKNOWN, Settings
from plumbline.harness.target import HERE
from tests.conftest import Run, command, where
from tests.records import cell_of, replace

Bench = Callable[..., Run]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[place.a]\ncommand = []\n", "expected a command"),
        ("[place.cpu]\ncommand = ['x']\n", "a name that is no device"),
        ("[place.a]\ncomand = ['x']\n", "comand"),
        ("[place.a]\ncommand = 'x'\n", "Expected `array`, got `str`"),
        ("[plaice.a]\ncommand = ['x']\n", "plaice"),
        ("[place.a\n", "targets.toml: "),
    ],
)
def test_a_wrong_file_of_places_is_refused_by_its_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "targets.toml").write_text(text)
    with pytest.raises(BadPlace, match=says):
        places.load(tmp_path / "targets.toml")


def test_a_place_has_its_own_folders() -> None:
    ours = Settings(data=Path("/ours"), weights=Path("/ours/w"), cache=Path("/ours/c"), seed=3)
    there = Place("board", ("x",), data="/theirs").settings(ours)
    assert (there.data, there.weights, there.cache, there.seed) == (Path("/theirs"), None, UNKNOWN, 3)
    assert places.find(HERE).settings(ours) == ours


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of devices with one that has a core and 2 GB, one with too little memory for torch, and one of unknown memory."""
    device = '[device.{0}]\nname = "A {0}"\nkind = "cpu"\nmatches = "{0}"\nsource = "us"\n{1}\n'
    device += "[device.{0}.mode.usual]\nflop_per_s = {{ fp32 = 1e9 }}\n"
    more = {"tiny": "usable_bytes = 2e9\nvisible_bytes = 3e9\ncores = 1", "mote": "visible_bytes = 5e7", "blank": ""}
    path = tmp_path / "devices.toml"
    path.write_text("".join(device.format(*one) for one in more.items()))
    monkeypatch.setenv("PLUMBLINE_DEVICES", str(path))
    monkeypatch.setattr(places, "_known", {HERE: places.find(HERE)})


@pytest.mark.usefixtures("small")
def test_a_stand_in_has_the_memory_and_the_cores_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    first = min(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {first, first + 1})
    place = places.find("like:tiny")
    assert place.settings(Settings()).memory_limit_bytes == 2_000_000_000
    assert place.settings(Settings(memory_limit_bytes=10)).memory_limit_bytes == 10, "what was asked for is less"
    code = place.command[2].partition("import sys")[0] + "print(os.sched_getaffinity(0))"
    assert subprocess.run([*place.command[:2], code], capture_output=True, text=True).stdout.strip() == str({first})
    assert place.remark is not None and "A tiny (2.0 GB; cores: 1 wanted, 1 here), at the speed of this machine" in place.remark


@pytest.mark.usefixtures("small")
def test_a_stand_in_that_is_a_container_has_them_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = min(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {first, first + 1})
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" = run ] && printf "%s\\n" "$@" || echo unix:///a.sock\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = places.find("like:tiny/docker:own:1")
    given = subprocess.run(place.starting("--lock", "0", "ann"), capture_output=True, text=True, check=True).stdout.splitlines()
    options = {option: given[given.index(option) + 1] for option in ("--memory", "--memory-swap", "--cpuset-cpus")}
    assert options == {"--memory": "2000000000", "--memory-swap": "2000000000", "--cpuset-cpus": f"{first}"}
    assert given[-5:] == ["own:1", "plumbline-probe", "--lock", "0", "ann"]
    assert (place.machine, place.remark) == (HERE, places.find("like:tiny").remark)
    assert place.settings(Settings()).memory_limit_bytes is None, "the container has the limit"
    docker.write_text("#!/bin/sh\n[ $1 = run ] && exit 137\necho unix:///a.sock\n")
    with pytest.raises(BadPlace, match=r"it was killed; 50 MB may be less than a process takes that has loaded no net"):
        _ = places.find("like:mote/docker:own:1").capabilities


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("device", "says"), [("blank", "how much memory A blank has"), ("tinny", r"did you mean tiny\?.*PLUMBLINE_DEVICES")]
)
def test_a_device_that_nobody_has_described_has_no_stand_in(device: str, says: str) -> None:
    with pytest.raises(BadPlace, match=says):
        places.find(f"like:{device}")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_what_does_not_fit_there_does_not_fit_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    """In one session with this machine itself, which has the memory, and whose lock both share."""
    devices, file = os.environ["PLUMBLINE_DEVICES"], tmp_path / "run"
    asked = command(file, "--tier", "smoke", "--model", "mlp", "--runtime", "eager", "--precision", "fp32", "--batch", "1",
                    "--target", "cpu,like:tiny,like:mote")  # fmt: skip
    how = where(tmp_path, cache)
    done = subprocess.run(asked, capture_output=True, text=True, **{**how, "env": {**how["env"], "PLUMBLINE_DEVICES": devices}})
    found = {record.cell.target: record for record in journal.read(file)}
    assert {target: record.outcome for target, record in found.items()} == {
        "cpu": "ok", "like:tiny": "ok", "like:mote": "out_of_memory",
    }, done.stdout  # fmt: skip
    tiny, here = found["like:tiny"].latency, found["cpu"].latency
    assert tiny is not None and here is not None
    assert "at the speed of this machine" in tiny.remarks[-1] and not any("speed" in remark for remark in here.remarks)
    assert "limit 50000000 bytes" in (found["like:mote"].reason or "")


def test_folders_that_a_session_leaves_open_are_found_where_the_cell_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    found = Settings(seed=3).located()
    assert (found.data, found.weights, found.cache) == (tmp_path, tmp_path / "weights", tmp_path / "cache" / "plumbline")
    given = Settings(cache=tmp_path / "other")
    assert given.located() == given, "what was decided is not looked for"


def test_the_largest_file_that_is_built_is_known_beforehand() -> None:
    cells = [cell_of("resnet50", image_size=224, runtime=runtime) for runtime in ("eager", "onnxruntime")]
    assert [needed([cell], Settings()).built_bytes for cell in cells] == [0, 4 * 25_557_032]
    assert needed([*cells, cell_of("mlp", runtime="onnxruntime")], Settings()).built_bytes == 4 * 25_557_032


def test_what_a_place_can_run_is_asked_there(tmp_path: Path) -> None:
    told = replace(places.find(HERE).capabilities, cpu_flags=["theirs"], cuda="no GPU there", runtimes={"openvino": "none there"})
    (tmp_path / "told").write_bytes(messages.encode(told))
    board = Place("board", ("sh", "-c", f"cat {tmp_path / 'told'}"))
    assert board.capabilities == told
    places._known["board"] = board
    try:
        for target, runtime, says in (("board@cuda", "eager", "no GPU there"), ("board", "openvino", "none there")):
            found = matrix.impossible(cell_of(target=target, runtime=runtime))
            assert found is not None and found.reason == says
        assert matrix.impossible(cell_of(target="board")) is None
    finally:
        del places._known["board"]


def test_a_place_that_does_not_answer_says_why() -> None:
    with pytest.raises(BadPlace, match="target 'gone' does not answer as a probe: no route"):
        _ = Place("gone", ("sh", "-c", "echo no route >&2")).capabilities
    with pytest.raises(BadPlace, match="target 'gone' does not answer: expected a command 'no-such-command' on this machine"):
        _ = Place("gone", ("no-such-command",)).capabilities
    with pytest.raises(BadPlace, match="target 'gone' does not answer: '/' cannot be run on this machine: Permission denied"):
        _ = Place("gone", ("/",)).capabilities


def test_a_place_that_was_given_up_has_the_cells_of_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_known", {**places._known, "gone": Place("gone", ("sh", "-c", "echo no route >&2"))})
    tier = matrix.Tier("t", ({"model": ("small_cnn",), "target": ("cpu", "gone")},))
    assert matrix.places_of(tier, {}) == ["", "gone"]
    assert matrix.places_of(tier, {"target": ["gone@cuda"]}) == ["gone"]
    (silent,) = places.silent(["", "gone"]).items()
    assert silent[0] == "gone" and "no route" in str(silent[1])
    places.give_up("gone", "no route")
    options = {"target": ["gone"], "precision": ["fp32", "bf16", "int8-static"], "runtime": ["eager", "onnxruntime"]}
    cells = matrix.expand(tier, options)
    assert {(cell.runtime, cell.precision) for cell in cells} == {
        ("eager", "fp32"), ("eager", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "int8-static"),
    }, "what can be nowhere is left out, as it is of a place that answers"  # fmt: skip
    assert {str(matrix.impossible(cell)) for cell in cells} == {str(matrix.Impossible("unavailable", "target", "no route"))}


def test_capabilities_name_what_is_missing() -> None:
    found = runtimes.capabilities()
    assert found.cpus > 0
    assert set(found.runtimes) == {name for name in runtimes.known() if runtimes.missing(runtimes.find(name).adapter)}


@pytest.mark.slow
def test_a_probe_started_by_any_command_answers_the_same_cells(bench: Bench, tmp_path: Path, python: str) -> None:
    """Another place: its own home, data, cache and lock, reached by a shell; the same checks, records and table."""
    home = tmp_path / "there with spaces"
    home.mkdir()
    elsewhere = f"cd '{home}' && PLUMBLINE_LOCK='{home}/lock' XDG_CACHE_HOME='{home}' exec \"$0\" \"$@\""
    command = ["sh", "-c", elsewhere, python, *BOOT[1:]]
    (tmp_path / "targets.toml").write_text(f"[place.there]\ncommand = {json.dumps(command)}\n")
    run = bench("--targets", str(tmp_path / "targets.toml"), "--tier", "smoke", "--model", "small_cnn", "--batch", "1",
                "--precision", "fp32", "--runtime", "eager", "--target", "cpu,there")  # fmt: skip
    assert run.code == 0, run.output
    here, there = (run.records[f"small_cnn-dense-eager-fp32-b1-8px-{target}"] for target in ("cpu", "there"))
    assert (here.outcome, there.outcome) == ("ok", "ok")
    assert here.counts == there.counts
    assert here.machine.id == there.machine.id, "it is the same machine after all"
    assert here.machine.torch == there.machine.torch is not None
    assert (home / "plumbline" / "training").is_dir(), "it has trained its own weights"
    assert (home / "lock").exists(), "and has taken its own lock"
    assert (there.prepared.weights.kind, there.accuracy.floor) == ("trained", here.accuracy.floor)


@pytest.mark.slow
def test_a_clock_that_is_wrong_and_data_that_are_missing_are_said(bench: Bench, tmp_path: Path, python: str) -> None:
    """Before the first cell; and the cell is measured all the same."""
    source = "from plumbline.harness.probe import server; server.clock_s = lambda: 0.0; server.entry()"
    (tmp_path / "targets.toml").write_text(f"[place.there]\ncommand = {json.dumps([python, '-c', source])}\n")
    model = "plumbline.harness.studies.smallest:SMALLEST"
    run = bench("--targets", str(tmp_path / "targets.toml"), "--tier", "smoke", "--model", model, "--batch", "1",
                "--precision", "fp32", "--runtime", "eager", "--target", "there")  # fmt: skip
    assert run.code == 0, run.output
    assert "there has no mnist: no accuracy on them there; name a folder there that has them" in run.output
    assert re.search(r"the clock of there is \d+\.\d h behind the one here; no figure", run.output)
    (record,) = run.records.values()
    assert record.state_before["clock_ahead"].value < -1e9
    assert "clock" in record.state_before
    assert record.started_at > "2026", "by the clock here"


@pytest.mark.slow
def test_one_machine_by_two_names_and_another_one_by_the_same_name(bench: Bench, tmp_path: Path, python: str) -> None:
    """A target that comes twice is measured once; a run is not resumed on a board that took the place of another."""

    def known(first: str) -> None:
        source = "from plumbline.harness import machine; from plumbline.harness.probe import server; {}; server.entry()"
        one, two = (json.dumps([python, "-c", source.format(patch)]) for patch in (first, "pass"))
        (tmp_path / "targets.toml").write_text(f"[place.one]\ncommand = {one}\n[place.two]\ncommand = {two}\n")

    known("pass")
    model = "plumbline.harness.studies.smallest:SMALLEST"
    options = ("--targets", str(tmp_path / "targets.toml"), "--tier", "smoke", "--model", model, "--batch", "1", "--precision",
               "fp32", "--runtime", "eager", "--target", "one,two,one")  # fmt: skip
    run = bench(*options)
    assert run.code == 0, run.output
    assert sorted(record.cell.target for record in run.records.values()) == ["one", "two"]
    known("machine.cpu_model = lambda: 'another board'")
    again = bench(*options, "--batch", "2", "--resume", str(run.folder))
    assert again.code == pytest.ExitCode.TESTS_FAILED
    assert "was measured on another machine or with other software (cpu_model: " in again.output
    assert len(again.records) == 3, "the other one is what it was"


def test_the_folders_of_a_data_root_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path))
    assert Place("there", BOOT).capabilities.data == ["mnist"]
    assert missing_data([cell_of(model="small_cnn", image_size=28)], ["mnist"]) == []
    assert missing_data([cell_of(model="small_cnn", image_size=28)], []) == ["mnist"]
    assert missing_data([cell_of(model="small_cnn", image_size=8)], []) == [], "digits are embedded"
    assert missing_data([cell_of(model="small_cnn", image_size=28)], None) == []


def test_a_place_where_somebody_measures_is_busy(bench: Bench, tmp_path: Path) -> None:
    said = json.dumps({"type": "Busy", "reason": "ann measures here"})
    flags = json.dumps({"cpu_flags": [], "cuda": None, "runtimes": {}, "cpu_model": "x", "cpus": 1})
    script = f"import sys; print({flags!r} if '--capabilities' in sys.argv else {said!r})"
    (tmp_path / "targets.toml").write_text(f"[place.there]\ncommand = {json.dumps([sys.executable, '-c', script])}\n")
    run = bench("--targets", str(tmp_path / "targets.toml"), "--tier", "smoke", "--model", "mlp", "--target", "there")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "ann measures here" in run.output
