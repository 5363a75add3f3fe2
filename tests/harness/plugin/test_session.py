"""`pytest benchmarks/` as a user runs it, in processes of its own."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import psutil
import pytest

from plumbline.harness import journal, messages, record
from plumbline.harness.boot import BOOT
from plumbline.harness.lock import lock_machine
from plumbline.harness.machine import cuda_device
from plumbline.harness.session.session import REPOSITORY, without_paths
from tests.conftest import HOUR_S, Run, command, where
from tests.faulty import SAYS_THAT_IT_WAITS
from tests.records import record_of, replace

Bench = Callable[..., Run]
QUICK = ("--tier", "smoke", "--model", "small_cnn", "--runtime", "eager", "--batch", "1", "--target", "cpu")
NO_CUDA = pytest.mark.skipif(cuda_device() is None, reason="this machine may have a CUDA device")


def test_a_session_measures_records_and_shows(bench: Bench, tmp_path: Path) -> None:
    """One cell a test; a record each, valid by the schema; pytest-benchmark's JSON holds the same samples."""
    run = bench(*QUICK, "--benchmark-json", str(tmp_path / "benchmark.json"), "--seed", "5")
    assert run.code == 0, run.output
    assert set(run.records) == {f"small_cnn-dense-eager-{precision}-b1-8px-cpu" for precision in ("fp32", "bf16", "fp16")}
    kept = run.records["small_cnn-dense-eager-fp32-b1-8px-cpu"]
    assert kept.outcome == "ok"
    assert kept.accuracy.seed == 5
    assert kept.counts.macs == 337_536
    assert 0 < kept.bound.seconds < kept.latency.model.median_s
    assert kept.bound.device.startswith("this machine")
    assert kept.latency.on_device is None, "which only an accelerator has"
    assert kept.weights.training["recipe"]["epochs"] == len(kept.weights.training["curves"]) == 20
    assert "[3/3] small_cnn-dense-eager-fp16-b1-8px-cpu  ok" in run.output
    assert "evaluation matrix" in run.output
    assert run.output.count("\nsmall_cnn  ") == 3

    text = (tmp_path / "benchmark.json").read_text()
    replayed = {entry["extra_info"]["cell"]: entry for entry in json.loads(text)["benchmarks"]}
    assert set(replayed) == set(run.records)
    for cell, entry in replayed.items():
        samples = run.records[cell].latency.model.samples_s
        assert entry["stats"]["data"] == pytest.approx(samples, abs=1e-12)
        assert entry["extra_info"]["fingerprint"] == run.records[cell].machine.id
        assert entry["extra_info"]["target"] == "cpu"

    kept_as = (run.folder / journal.NAME).read_text()
    for secret in (str(Path.home()), str(Path.cwd()), f'"{platform.node()}"', f'"{getpass.getuser()}"'):
        assert secret not in kept_as, "a record tells nothing about the person"


@pytest.mark.slow
def test_a_budget_is_red_where_it_is_missed_or_undecided(bench: Bench, tmp_path: Path) -> None:
    """The cell is right and was timed all the same, and so its record says."""
    budgets, junit = tmp_path / "budgets.toml", tmp_path / "junit.xml"
    budgets.write_text('[loose]\np99 = "10 s"\nmemory = "90 GB"\n[tight]\nmacs = 1000\nmemory = "90 GB"\nenergy = "1 J"\n')
    asked = (*QUICK, "--precision", "fp32", "--budgets", str(budgets), "--budget")
    run = bench(*asked, "loose", "--junitxml", str(junit))
    assert run.code == 0, run.output
    (kept,) = run.records.values()
    assert len(kept.latency.model.samples_s) >= 662
    properties = {one.get("name"): one.get("value") for one in ElementTree.parse(junit).iter("property")}
    assert (properties["budget: p99"] or "").startswith("passed: p99 at most 1e+04 ms: "), properties
    run = bench(*asked, "tight", folder="tight")
    assert run.code == 1, run.output
    assert (
        "over budget: MACs at most 1000: 3.375e+05, 33653.6% above it; undecided: energy at most 1000 mJ: it is unknown"
        in run.output
    )
    assert [kept.outcome for kept in run.records.values()] == ["ok"]
    run = bench(*asked, "tihgt", folder="none")
    assert run.code == 4 and "no budget 'tihgt' (did you mean tight?); known: loose, tight" in run.output


def test_benchmark_only_measures_cells_and_leaves_out_the_rest(bench: Bench, tmp_path: Path) -> None:
    own = tmp_path / "test_own.py"
    own.write_text("def test_plain():\n    assert False\n")
    run = bench(*QUICK, "--precision", "fp32", "--benchmark-only", str(own))
    assert run.code == 0, run.output
    assert "1 passed, 1 deselected" in run.output


def test_other_batches_refer_to_one_accuracy(bench: Bench) -> None:
    run = bench("--tier", "smoke", "--model", "small_cnn", "--precision", "bf16", "--target", "cpu")
    first, second = (run.records[f"small_cnn-dense-eager-bf16-b{batch}-8px-cpu"].accuracy for batch in (8, 1))
    assert first.measured_by is None
    assert second.measured_by == "small_cnn-dense-eager-bf16-b8-8px-cpu"
    assert second.top1 == first.top1
    assert first.loss is not None


@pytest.mark.slow
def test_what_goes_wrong_is_red_and_the_rest_goes_on(bench: Bench) -> None:
    """Every fault ends its own cell with its own outcome; a wrong model is not timed; the good ones are measured."""
    expected = {
        "KILLED": ("crashed", "SIGKILL"), "SEGMENTATION": ("crashed", "SIGSEGV"),
        "OVERDUE": ("timed_out", "agreement took it beyond the limit of 4000 s"),
        "HUNGRY": ("out_of_memory", "limit 3221225472 bytes"), "RAISING": ("failed", "this builder never builds"),
        "NOT_A_NUMBER": ("failed", "NaN"), "RANDOM": ("failed", "between two calls"), "SWAPPED": ("failed", "RMS error"),
        "MISCOUNTED": ("failed", "'macs': 704"), "GOOD": ("ok", None),
    }  # fmt: skip
    models = ",".join(f"tests.faulty:{name}" for name in expected)
    run = bench("--tier", "smoke", "--model", models, "--precision", "fp32", "--batch", "1", "--target", "cpu",
                "--time-limit", "4000", "--memory-limit", "3GiB")  # fmt: skip
    assert run.code == 1
    assert "9 failed, 1 passed" in run.output
    for name, (outcome, says) in expected.items():
        kept = run.records[f"tests.faulty:{name}-dense-eager-fp32-b1-8px-cpu"]
        assert kept.outcome == outcome, kept
        assert (kept.latency is not None) == (outcome == "ok")
        if says is not None:
            assert says in kept.reason


@pytest.mark.slow
def test_what_a_tier_only_counts_is_checked_and_shown(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        '[[tier.default.cells]]\nmodel = ["tests.faulty:GOOD"]\nimage_size = [8]\ntarget = ["cpu"]\n'
        '[[tier.default.counted]]\nmodel = ["vgg16", "tests.faulty:MISCOUNTED"]\ntarget = ["cpu"]\n'
    )
    run = bench("--matrix", str(tmp_path / "m.toml"))
    assert run.code == 1
    assert "1 failed, 2 passed" in run.output
    large = run.records["vgg16-dense-eager-fp32-b1-224px-cpu"]
    assert (large.outcome, large.counts.parameters, large.latency) == ("ok", 138_357_544, None)
    assert run.records["tests.faulty:MISCOUNTED-dense-eager-fp32-b1-8px-cpu"].outcome == "failed"
    assert "counted, not timed" in run.output


@pytest.mark.slow
def test_a_tier_may_say_that_a_cell_need_not_fit(bench: Bench, tmp_path: Path) -> None:
    cells = '[[tier.default.cells]]\nmodel = ["tests.faulty:HUNGRY", "tests.faulty:GOOD"]\ntarget = ["cpu"]\n'
    text = f"[tier.default]\nmay_not_fit = true\n{cells}"
    (tmp_path / "m.toml").write_text(text)
    run = bench("--matrix", str(tmp_path / "m.toml"), "--memory-limit", "3GiB")
    assert run.code == 0
    assert "1 passed, 1 xfailed" in run.output
    assert run.records["tests.faulty:HUNGRY-dense-eager-fp32-b1-8px-cpu"].outcome == "out_of_memory"


@pytest.mark.slow
def test_the_impossible_is_skipped_unless_it_was_named(bench: Bench, tmp_path: Path) -> None:
    text = '[[tier.default.cells]]\nmodel = ["tests.faulty:GOOD"]\nimage_size = [8, 9]\ntarget = ["cpu"]\n'
    (tmp_path / "m.toml").write_text(text)
    run = bench("--matrix", str(tmp_path / "m.toml"), "-rs")
    assert run.code == 0
    assert "1 passed, 1 skipped" in run.output
    assert "takes images of 8 pixels, got 9" in run.output
    assert run.records["tests.faulty:GOOD-dense-eager-fp32-b1-9px-cpu"].outcome == "unsupported"
    named = bench("--matrix", str(tmp_path / "m.toml"), "--image-size", "9", folder="named")
    assert named.code == 1
    assert "1 failed" in named.output


@NO_CUDA
def test_a_session_that_measured_nothing_is_red(bench: Bench, tmp_path: Path) -> None:
    text = '[[tier.default.cells]]\nmodel = ["mlp"]\ntarget = ["cuda"]\n'
    (tmp_path / "m.toml").write_text(text)
    run = bench("--matrix", str(tmp_path / "m.toml"))
    assert run.code == 1
    assert "1 skipped" in run.output
    assert "nothing was measured" in run.output
    named = bench(
        "--target", "cuda", "--model", "mlp", "--runtime", "eager", "--precision", "fp32", "--batch", "1", folder="named"
    )
    assert named.code == 1
    assert "1 failed" in named.output
    assert "no CUDA device" in named.output


@pytest.mark.slow
def test_resume_runs_what_is_missing_or_not_ok(bench: Bench, tmp_path: Path) -> None:
    run = bench(*QUICK)
    lines = (run.folder / journal.NAME).read_text().splitlines()
    broken = json.loads(lines[1])
    broken.update(outcome="crashed", reason="a thunderstorm")
    (run.folder / journal.NAME).write_text(f"{lines[0]}\n{json.dumps(broken)}\n" + lines[2][:100])  # and half a line
    again = bench(*QUICK, "--resume", str(run.folder))
    assert again.code == 0, again.output
    assert "2 passed, 1 deselected" in again.output
    assert {kept.outcome for kept in again.records.values()} == {"ok"}
    (seed,) = {kept.settings.inputs_seed for kept in again.records.values()}  # the pictures with which it began
    assert f"inputs: seed {seed} (--inputs-seed repeats them)" in run.output
    assert f"inputs: seed {seed} " in again.output
    assert len((run.folder / journal.NAME).read_text().splitlines()) == 4
    done = bench(*QUICK, "--resume", str(run.folder))
    assert done.code == 0
    assert "3 deselected" in done.output

    reseeded = bench(*QUICK, "--resume", str(run.folder), "--seed", "7", "--batch", "2")
    assert reseeded.code == pytest.ExitCode.USAGE_ERROR
    assert "with other settings (seed: 0 then, 7 now)" in reseeded.output

    kept = again.records
    other = [
        replace(one, machine=replace(one.machine, cpu_model="another"), outcome="failed", reason="x") for one in kept.values()
    ]
    (run.folder / journal.NAME).write_text("".join(messages.encode(one).decode() + "\n" for one in other))
    refused = bench(*QUICK, "--resume", str(run.folder))
    assert refused.code == pytest.ExitCode.USAGE_ERROR
    assert "another machine" in refused.output
    assert "cpu_model: 'another' then" in refused.output


@pytest.mark.slow
def test_ctrl_c_leaves_a_whole_journal_and_a_table(tmp_path: Path, cache: Path) -> None:
    """Interrupted in the middle of a cell: the cells before it are kept and shown, and no process stays behind."""
    folder = tmp_path / "run"
    options = ("--tier", "smoke", "--model", "tests.faulty:GOOD,tests.faulty:SLEEPING", "--precision", "fp32", "--batch", "1")
    process = subprocess.Popen(
        command(folder, *options, "--target", "cpu"),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
        **where(tmp_path, cache),
    )
    until(lambda: (tmp_path / SAYS_THAT_IT_WAITS).exists(), process)
    assert (folder / journal.NAME).read_text().count("\n") == 1
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=HOUR_S)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "evaluation matrix" in output
    kept = journal.read(folder)
    assert [(one.cell.model, one.outcome) for one in kept] == [("tests.faulty:GOOD", "ok")]
    jsonschema.validate(messages.plain(kept[0]), record.schema())
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("plumbline-*")) == []  # the probe's scratch


@pytest.mark.slow
def test_a_killed_session_leaves_nothing_running(tmp_path: Path, cache: Path) -> None:
    options = ("--tier", "smoke", "--model", "tests.faulty:SLEEPING", "--precision", "fp32", "--batch", "1", "--target", "cpu")
    process = subprocess.Popen(command(tmp_path / "run", *options), stdout=subprocess.DEVNULL, **where(tmp_path, cache))
    until(lambda: (tmp_path / SAYS_THAT_IT_WAITS).exists(), process)
    assert len(processes_of(tmp_path)) == 3  # pytest, the server, the cell
    process.kill()
    process.wait()
    until(lambda: not processes_of(tmp_path))
    assert list(tmp_path.glob("plumbline-*")) == []


@pytest.mark.slow
def test_a_probe_told_twice_to_stop_still_removes_its_scratch(tmp_path: Path, cache: Path) -> None:
    """Its pipe ends and, while it removes its folder, the signal comes that its parent is dead."""
    with subprocess.Popen(BOOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **where(tmp_path, cache)) as probe:
        assert probe.stdin is not None and probe.stdout is not None
        assert probe.stdout.readline()  # it serves
        (scratch,) = tmp_path.glob("plumbline-*")
        for number in range(20000):
            (scratch / str(number)).touch()
        probe.stdin.close()
        until(lambda: len(list(scratch.glob("*"))) < 20000)
        probe.terminate()
    assert not scratch.exists()


def until(came: Callable[[], bool], process: subprocess.Popen[str] | subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something has come, while the process that it is to come from runs; how long that takes is no matter."""
    hangs = time.monotonic() + HOUR_S / 6
    while not came():
        assert process is None or process.poll() is None
        assert time.monotonic() < hangs
        time.sleep(0.01)


def processes_of(tmp_path: Path) -> list[str]:
    """The command lines of all processes that were started with this TMPDIR."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(tmp_path) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def test_one_session_at_a_time(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    with lock_machine(0, "ann@desk"):
        run = bench(*QUICK)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "another session (ann@desk, since " in run.output
    assert "--wait SECONDS" in run.output


def test_pytest_n_is_refused_with_the_reason(bench: Bench) -> None:
    run = bench(*QUICK, "-n", "2")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "would ruin all of their numbers" in run.output


def test_plan_runs_nothing_and_names_every_impossible_cell(bench: Bench, tmp_path: Path) -> None:
    text = '[[tier.default.cells]]\nmodel = ["resnet20", "resnet50"]\nimage_size = [32, 224]\ntarget = ["cpu"]\n'
    (tmp_path / "m.toml").write_text(text)
    run = bench("--matrix", str(tmp_path / "m.toml"), "--plan")
    assert run.code == 0
    assert "tier default: 3 cells to measure, about" in run.output
    assert "resnet20-dense-eager-fp32-b1-224px-cpu  unsupported: resnet20 takes images of 32 pixels, got 224" in run.output
    assert not run.folder.exists()


def test_what_options_name_together_and_cannot_be_is_said(bench: Bench) -> None:
    options = ("--model", "mlp", "--runtime", "eager,onnxruntime", "--precision", "fp32,bf16", "--batch", "1", "--target", "cpu")
    run = bench("--tier", "smoke", *options, "--plan")
    assert run.code == 0
    assert "left out, as they cannot be: 1 of the cells that the options name together (onnxruntime runs fp32, " in run.output
    assert "tier smoke: 3 cells to measure" in run.output


def test_k_and_node_ids_work(bench: Bench, python: str) -> None:
    by_word = bench("--tier", "smoke", "--target", "cpu", "-k", "mlp and bf16", "--collect-only", "-q")
    assert by_word.output.count("test_cell[") == 2
    node = "benchmarks/test_cells.py::test_cell[mlp-dense-eager-bf16-b1-8px-cpu]"
    process = subprocess.run(
        [python, "-m", "pytest", node, "--tier", "smoke", "--target", "cpu", "--collect-only", "-q"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stdout.count("test_cell[") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tier", "huge"), "no tier 'huge'; known: smoke, default"),
        (("--model", "resnet5O"), "--model: no model 'resnet5O' (did you mean resnet"),
        (("--variant", "sparsed"), "--variant: no variant 'sparsed' (did you mean sparse"),
        (("--precision", "fp61"), "--precision: no precision 'fp61'; known: fp32, bf16, fp16"),
        (("--target", "tpu"), "--target: no target 'tpu'; known: cpu, cuda"),
        (("--batch", "many"), "--batch: expected a whole number, got 'many'"),
        (("--matrix", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("--data", "/no/such/folder"), "--data: expected a folder, got '/no/such/folder'"),
        (("--time-limit", "-1"), "expected a number > 0, got '-1'"),
        (("--memory-limit", "lots"), "expected bytes, as 2GiB or 500MB, got 'lots'"),
        (("--resume", "/no/such/run"), "'/no/such/run' holds no run"),
    ],
)
def test_a_wrong_option_names_the_known_ones(bench: Bench, options: tuple[str, ...], says: str) -> None:
    run = bench(*options)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert says in run.output


def test_a_run_directory_that_cannot_be_written_is_said_before_the_first_cell(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = bench(*QUICK, "--run-dir", str(tmp_path / "file" / "run"))
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "cannot hold a run: Not a directory" in run.output
    assert "importing torch" not in run.output


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None, reason="mounts a small file system")
def test_a_full_disk_is_said_before_the_first_cell(bench: Bench, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]).returncode:
        pytest.skip("this container may not mount")
    try:
        run = bench(*QUICK, "--run-dir", str(small / "run"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "No space left on device" in run.output


def test_a_disk_that_fills_up_midway_loses_nothing_before(tmp_path: Path) -> None:
    """Known truth: the kernel lets this process write no more than 8 KiB."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from plumbline.harness import journal\n"
        "from tests.records import cell_of, record_of\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); journal.ROOM = 100\n"
        "kept = journal.Journal(Path(sys.argv[1])); resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "for number in range(100): kept.append(record_of(cell_of(str(number))))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    kept = [one.cell.model for one in journal.read(tmp_path)]
    assert kept == [str(number) for number in range(len(kept))] and 2 < len(kept) < 20
    assert (
        f"RunError: the record of {len(kept)}-dense-eager-fp32-b1-8px-cpu could not be written: No space left on device"
        in ended.stderr
    )
    assert (tmp_path / journal.NAME).read_text().endswith("\n")


def test_a_reason_has_no_paths() -> None:
    text = "RuntimeError: unable to mmap 102 bytes from file </home/ann/.cache/plumbline/w.safetensors>: a/b 1/2 (12)"
    assert without_paths(text) == "RuntimeError: unable to mmap 102 bytes from file <w.safetensors>: a/b 1/2 (12)"


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    first = journal.Journal(tmp_path)
    first.append(record_of())
    first.close()
    with pytest.raises(journal.RunError, match="holds a run already; continue it with --resume"):
        journal.Journal(tmp_path)


def test_a_test_may_ask_for_fewer_axes(tmp_path: Path, python: str) -> None:
    """It gets the distinct rows; and axes that it parametrizes itself are left alone."""
    (tmp_path / "test_own.py").write_text(
        "import pytest\n"
        "def test_formula(model, image_size):\n"
        "    assert model.formula(image_size)\n"
        "@pytest.mark.parametrize('batch', [3])\n"
        "def test_mine(batch):\n"
        "    assert batch == 3\n"
    )
    process = subprocess.run(
        [python, "-m", "pytest", "-p", "plumbline.harness.plugin", str(tmp_path), "-v", "--tier", "smoke"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("test_formula[") == 5
    assert "test_formula[mixer_s16-32px]" in process.stdout
    assert "6 passed" in process.stdout
