"""The image for x86 with CUDA, a CPU alone and JetPack 7, as it is built and run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import BASE, REVISION, ROOT, Engine, image, run

PYTHON = ROOT / ".venv" / "bin" / "python"
NARROW = ("--read-only", "--tmpfs", "/tmp", "--user", "1234:1234", "--memory", "4g", "--memory-swap", "4g")
ONE_CELL = (
    "pytest",
    "benchmarks/",
    "--tier",
    "smoke",
    "--model",
    "mlp",
    "--precision",
    "fp32",
    "--batch",
    "1",
    "--target",
    "cpu",
)


@pytest.fixture(scope="module")
def smoke(engine: Engine, plumbline: str) -> list[dict]:
    """Run it as another user, with 4 GB, no network, no home and a file system that cannot be written; returns the records."""
    done = engine.run("--name", "plumbline-test-smoke", *NARROW, "--env", "HOME=", plumbline)
    print(f"\nthe smoke tier: {done.seconds:.0f} s; {done.output.strip().splitlines()[-1].strip('= ')}")
    assert done.code == 0, done.output[-6000:]
    kept = engine.run("--rm", "--volumes-from", "plumbline-test-smoke", plumbline, "sh", "-c", "cat /runs/*/records.jsonl")
    return [json.loads(line) for line in kept.output.splitlines()]


def test_the_smoke_tier_leaves_its_records_in_a_volume(smoke: list[dict]) -> None:
    assert len(smoke) > 10
    assert {record["outcome"] for record in smoke} <= {"ok", "unavailable", "unsupported"}
    assert sum(record["outcome"] == "ok" for record in smoke) > 10
    assert {record["cell"]["runtime"] for record in smoke if record["outcome"] == "ok"} >= {"eager", "onnxruntime"}


def test_every_record_holds_what_the_image_says_of_itself(smoke: list[dict], engine: Engine, plumbline: str) -> None:
    said = engine.fingerprint(plumbline)
    assert said["base"] == BASE
    assert said["base_digest"].startswith("sha256:")
    assert said["revision"] == REVISION
    assert said["versions"]["torch"]
    for record in smoke:
        machine = record["machine"]
        assert machine["container"] == "docker"
        assert machine["image"] == {key: said[key] for key in ("base", "base_digest", "versions")}
        assert (record["revision"], machine["git_revision"]) == (REVISION[:12], REVISION)
        assert machine["torch"].partition("+")[0] == said["versions"]["torch"].partition("+")[0]
        assert machine["memory_limit_bytes"] == 4 << 30


def test_the_tools_have_their_names_in_it(engine: Engine, plumbline: str) -> None:
    done = engine.run("--rm", *NARROW, plumbline, "env", "-u", "HOME", *ONE_CELL)
    assert done.code == 0, done.output
    assert "1 records in /runs/" in done.output
    done = engine.run("--rm", *NARROW, plumbline, "plumbline", "show", "resnet20")
    assert done.code == 0, done.output
    assert "resnet20" in done.output
    done = engine.run("--rm", "--interactive", *NARROW, plumbline, "plumbline-probe")
    greeting = json.loads(done.output.splitlines()[0])
    assert (greeting["type"], greeting["machine"]["image"]["base"]) == ("Hello", BASE)


def test_it_holds_what_is_needed_alone(engine: Engine, plumbline: str) -> None:
    listed = engine.run("--rm", plumbline, "ls", "-A").output.split()
    expected = ["LICENSE", "README.md", "benchmarks", "constraints.txt", "harness", "models", "pyproject.toml", "src"]
    assert sorted(listed) == sorted(expected)
    script = "find /runs /cache /tmp -mindepth 1; stat -c '%a' /runs /cache; id -u"
    assert engine.run("--rm", plumbline, "sh", "-c", script).output.split() == ["1777", "1777", "10001"]
    assert engine.run("--rm", plumbline, "sh", "-c", "command -v uv").code != 0
    about = engine.inspect(plumbline)["Config"]
    assert set(about["Volumes"]) == {"/runs", "/cache"}
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(about["Env"])


DEVICES = """
[device.tiny]
name = "Tiny"
kind = "cpu"
matches = "Tiny"
usable_bytes = 12e8
source = "made up"
[device.tiny.mode.usual]
flop_per_s = { fp32 = 1e9 }
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="the session itself is this checkout's .venv, as the README makes it")
def test_a_stand_in_kills_what_does_not_fit(plumbline: str, tmp_path: Path) -> None:
    """In a container with 1.2 GB a net fits with 64 pictures, and not with 1,024."""
    (tmp_path / "devices.toml").write_text(DEVICES)
    target = f"like:tiny/docker:{plumbline}"
    asked = ("ceilings", "squeezenet1_1", "--device", "tiny", "--batch", "64,1024", "--search", target)
    done = run(str(PYTHON), "-m", "plumbline.harness", *asked, PLUMBLINE_DEVICES=str(tmp_path / "devices.toml"))
    assert done.code == 0, done.output
    assert re.search(r"64: \d+ MB, 1024: out of memory$", done.output, re.MULTILINE), done.output


def test_a_changed_source_installs_nothing_again(engine: Engine, plumbline: str) -> None:
    file = engine.context / "harness" / "cell.py"
    file.write_text(file.read_text() + "# changed\n")
    done = engine.build("plumbline", tag=image("changed"), REVISION=REVISION[::-1] + "+")
    print(f"\nbuilt again with a changed source: {done.seconds:.0f} s")
    assert done.code == 0, done.output
    assert done.seconds < 60
    assert engine.run("--rm", image("changed"), "tail", "-n", "1", "harness/cell.py").output == "# changed\n"
    assert engine.fingerprint(image("changed"))["revision"] == REVISION[::-1] + "+"
    layers, before = (engine.inspect(tag)["RootFS"]["Layers"] for tag in (image("changed"), plumbline))
    shared = sum(one == other for one, other in zip(layers, before))
    large = next(number for number, line in enumerate(_steps(engine.context)) if "uv pip install" in line)
    assert shared > large


def _steps(context: Path) -> list[str]:
    """Return the steps of the last stage that make a layer, each in one line, behind those of the base."""
    text = (context / "docker" / "plumbline.Dockerfile").read_text().rpartition("\nFROM")[2].replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(("RUN", "COPY", "WORKDIR"))]
