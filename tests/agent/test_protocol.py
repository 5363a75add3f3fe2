"""The agent by itself, under the oldest Python that there is: its messages, and every way in which there is no answer."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from plumbline.harness import messages
from plumbline.harness.lock import Busy, lock_machine
from plumbline.harness.machine import Machine
from plumbline.harness.runtimes import board
from tests.agent import agents
from tests.agent.agents import FILE, alive, ask_time, matrix, module, oldest_python, place, rows, talk

OPENED = "Opened"


def test_it_imports_the_standard_library_alone() -> None:
    tree = ast.parse(FILE.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert found - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}, "these two where ONNX Runtime is asked for"
    outermost = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    assert not outermost & {"numpy", "onnxruntime"}


def test_it_says_what_it_is_and_what_it_reads(tmp_path: Path) -> None:
    with talk(place(tmp_path, fake="")) as agent:
        assert agent.hello["agent"] == board.AGENT == module().AGENT
        assert set(agent.hello["machine"]) <= set(Machine.__struct_fields__), "the words of a fingerprint"
        here = messages.convert(agent.hello["machine"], Machine)
        assert here.cores_allowed >= 1 and here.memory_bytes > 1 << 28
        assert here.libraries == {"plumbline agent": str(board.AGENT), "trtexec": "8.2.1"} or "onnxruntime" in here.libraries
        assert agent.hello["backends"]["trtexec"] == {"version": "8.2.1", "reads": [13, 8]}
        assert agent.hello["cuda"] is None
    with talk(place(tmp_path / "bare")) as agent:
        assert agent.hello["backends"]["trtexec"] == {"version": None, "reads": None}
        assert agent.hello["cuda"].startswith("no CUDA device there")


def test_an_inference_timed_by_trtexec(tmp_path: Path) -> None:
    with talk(place(tmp_path, fake="")) as agent:
        opened = agent.open(agent.keep(matrix()), rows())
        assert (opened["type"], opened["backend"], opened["version"]) == (OPENED, "trtexec", "8.2.1"), opened
        assert opened["first_s"] == pytest.approx(1.5e-3)
        assert [(one["operator"], one["format"], one["outputs"]) for one in opened["layers"]] == [
            ("MatrixMultiply", "float32", [2, 4])
        ]
        answer, data = agent.ask("Run", (rows() + 1).tobytes())
        assert answer["shapes"] == [[2, 4]]
        assert numpy.array_equal(numpy.frombuffer(data, numpy.float32).reshape(2, 4), 2 * (rows() + 1))
        timed = ask_time(agent, warmup_s=0.02, sampling_s=0.1)
        model, whole = timed["model"], timed["with_transfer"]
        assert min(model["samples_s"]) >= 1.2499e-3
        assert max(model["samples_s"]) <= 1.2751e-3, "what was slow in the warm-up is not among them"
        assert len(model["samples_s"]) == len(whole["samples_s"]) == pytest.approx(66, abs=3)
        assert whole["samples_s"][0] == pytest.approx(model["samples_s"][0] + 0.25e-3)
        assert model["warmup"] > 5
        assert "events of the GPU" in timed["remarks"][0]
        memory = agent.ask("Memory")[0]["value"]
        assert memory["cuda_allocated"]["values"] == [266 << 20]
        assert memory["process_peak"]["values"][0] > 1 << 20
        assert memory["inference"]["unavailable"].startswith("trtexec says")


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    times = []
    for _ in range(2):
        with talk(place(tmp_path, fake="")) as agent:
            assert agent.open(agent.keep(matrix()), rows())["type"] == OPENED
        (engine,) = (tmp_path / "cache" / "plumbline" / "agent").glob("*.engine")
        times.append(engine.stat().st_mtime_ns)
    assert times[0] == times[1]


def test_a_file_is_kept_by_its_digest_and_checked(tmp_path: Path) -> None:
    with talk(place(tmp_path)) as agent:
        digest = "0" * 64
        answer, _ = agent.ask("File", b"damaged", sha256=digest)
        assert (answer["type"], answer["outcome"]) == ("Ended", "crashed")
        assert "arrived damaged" in answer["reason"]
        assert agent.ask("Has", sha256=digest)[0]["value"] is False
        assert agent.ask("Has", sha256=agent.keep(matrix()))[0]["value"] is True


@pytest.mark.parametrize(
    "fault",
    [
        "a.shutil.disk_usage = lambda folder: type('Usage', (), {'free': 3 << 20})()",
        # every write fails as on a full disk; the file itself is an ordinary one, as the agent removes it
        "import errno, tempfile; make = tempfile.NamedTemporaryFile\n"
        "class Full:\n"
        "    def __init__(self, **how): self.file = make(**how); self.name = self.file.name; self.close = self.file.close\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): self.close()\n"
        "    def write(self, data): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "a.tempfile.NamedTemporaryFile = Full\n",
    ],
    ids=["known before", "while it is written"],
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, fault: str) -> None:
    *variables, python, _ = place(tmp_path)
    source = f"import sys\nsys.path.insert(0, {str(FILE.parent)!r})\nimport plumbline_agent as a\n{fault}\nsys.exit(a.main([]))"
    with talk([*variables, python, "-c", source]) as agent:
        answer, _ = agent.ask("File", matrix(), sha256="0" * 64)
        assert (answer["type"], answer["outcome"], answer["axis"]) == ("Ended", "unavailable", "target")
        assert answer["reason"].startswith("its disk is full: the ONNX file takes 0.0 MiB, and ")
        assert agent.ask("State")[0]["type"] == "Answer", "and it reads on where the next message begins"
        assert list((tmp_path / "cache" / "plumbline" / "agent").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (matrix(opset=14), "TensorRT 8.2.1 there reads opset 13 or lower, the file has 14; export it for an older one"),
        (matrix(ir_version=9), "TensorRT 8.2.1 there reads IR version 8 or lower, the file has 9; export it for an older one"),
        (b"no model at all", "the file is no ONNX model: "),
    ],
)
def test_a_file_that_the_board_cannot_read_is_one_sentence(tmp_path: Path, file: bytes, says: str) -> None:
    with talk(place(tmp_path, fake="")) as agent:
        ended = agent.open(agent.keep(file), rows(), backend="trtexec")
        assert (ended["type"], ended["outcome"]) == ("Ended", "unsupported")
        assert ended["reason"].startswith(says)


@pytest.mark.parametrize(
    ("behaviour", "outcome", "says"),
    [
        ("no operator", "unsupported", "TensorRT 8.2.1 cannot run it: ModelImporter.cpp:773: While parsing node number 0"),
        ("no memory", "out_of_memory", "Error Code 2: OutOfMemory"),
        ("kill the worker", "(crashed|out_of_memory)", "what ran it (has died|was killed) there"),
        ("other format", "crashed", "trtexec 8.2.1 wrote something else than expected: KeyError"),
    ],
)
def test_what_goes_wrong_there_is_told(tmp_path: Path, behaviour: str, outcome: str, says: str) -> None:
    import re

    with talk(place(tmp_path, fake=behaviour)) as agent:
        ended = agent.open(agent.keep(matrix()), rows(), backend="trtexec")
        assert ended["type"] == "Ended" and re.fullmatch(outcome, ended["outcome"]), ended
        assert re.search(says, ended["reason"]), ended
        assert agent.ask("State")[0]["type"] == "Answer"


def test_what_is_timed_is_what_was_checked(tmp_path: Path) -> None:
    with talk(place(tmp_path, fake="other when timed")) as agent:
        assert agent.open(agent.keep(matrix()), rows())["type"] == OPENED
        ended = ask_time(agent)
        assert (ended["type"], ended["outcome"]) == ("Ended", "failed")
        assert ended["reason"] == "what trtexec timed gave other outputs than what was checked before"


def test_nothing_there_runs_it(tmp_path: Path) -> None:
    python = oldest_python()
    with talk(place(tmp_path, python=python)) as agent:
        ended = agent.open(agent.keep(matrix()), rows())
        assert ended["reason"].startswith("nothing there runs it: trtexec: there is no trtexec, neither /usr/src/tensorrt/bin/")
        assert "; onnxruntime: " in ended["reason"]


def test_a_message_that_it_does_not_know(tmp_path: Path) -> None:
    with talk(place(tmp_path)) as agent:
        assert agent.ask("Dance", b"12345")[0]["reason"] == "no message 'Dance' is known to this agent"
        assert agent.ask("Run", b"12345")[0]["reason"] == "asked to run, but nothing is open"
        assert agent.ask("State")[0]["value"]["load_1min"]["unit"] == "1"


def test_a_hang_up_ends_what_runs_there(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    agent = agents.Talk(place(tmp_path, fake="hang", FAKE_TRTEXEC_PID=str(note)))
    agent.send("Open", rows().tobytes(), sha256=agent.keep(matrix()), backend="trtexec", precision="fp32", device="cuda",
               input="images", outputs=["outputs"], shape=[2, 4], dynamic=True)  # fmt: skip
    for _ in range(600):
        if note.exists() and note.read_text():
            break
        time.sleep(0.05)
    running = int(note.read_text())
    assert alive(running)
    agent.hang_up()
    agent.process.wait(30)
    for _ in range(200):
        if not alive(running):
            break
        time.sleep(0.05)
    assert not alive(running), "the trtexec that it has started is gone"
    assert list((tmp_path / "tmp").iterdir()) == [], "and nothing is left behind"


def test_the_lock_is_the_one_of_the_harness_and_names_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    with lock_machine(0, "ann@lab"):
        busy = agents.Talk([*place(tmp_path), "--lock", "0", "ben@desk"])
        assert busy.hello["type"] == "Busy"
        assert "another session (ann@lab, since " in busy.hello["reason"]
        busy.hang_up()
        assert busy.process.wait(30) == 1
    with talk([*place(tmp_path), "--lock", "0", "ben@desk"]) as agent:
        assert agent.hello["type"] == "Hello"
        with pytest.raises(Busy, match=r"another session \(ben@desk, since .* UTC, process \d+\) is measuring"):
            lock_machine(0, "ann@lab")
    lock_machine(5, "ann@lab").release()


def test_what_timing_adds_is_printed() -> None:
    done = subprocess.run([oldest_python(), str(FILE), "--overhead"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a timed iteration: ")
    assert done.stdout.rstrip().endswith("(limit 20 us)")


def test_whoever_starts_it_by_hand_is_told_what_it_is() -> None:
    done = subprocess.run([oldest_python(), str(FILE)], input="hello\n", capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "a probe starts this agent (docs/agent.md)" in done.stderr
