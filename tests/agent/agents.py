"""The agent as tests want it: started under the oldest Python that there is, and spoken to in its own messages."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy
import onnx
from onnx import TensorProto, helper

FILE = Path(__file__).parents[2] / "agent" / "plumbline_agent.py"
FAKE = Path(__file__).with_name("fake_trtexec.py")


@cache
def oldest_python() -> str:
    """Python 3.6 where one starts, the one of JetPack 4; else the one that runs the tests."""
    installed = map(str, (Path.home() / ".pyenv" / "versions").glob("3.6.*/bin/python"))
    for python in (*installed, shutil.which("python3.6")):
        if python is not None and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return sys.executable


def module() -> Any:
    """The agent, imported here."""
    spec = importlib.util.spec_from_file_location("plumbline_agent", FILE)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def trtexec(folder: Path, behaviour: str = "") -> Path:
    """A trtexec that answers as that of TensorRT 8.2.1 does, and computes with ONNX Runtime; `behaviour` is its fault."""
    folder.mkdir(exist_ok=True)
    script = folder / "trtexec"
    line = shlex.join([sys.executable, str(FAKE), "--behaviour", behaviour])
    script.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    script.chmod(0o755)
    return script


def place(folder: Path, python: str | None = None, file: Path = FILE, fake: str | None = None, **variables: str) -> list[str]:
    """The command that starts an agent in a folder of its own; with `fake`, on a board that has a trtexec with that behaviour."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    (folder / "dev").mkdir(exist_ok=True)
    own = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "PLUMBLINE_LOCK": str(folder / "lock"),
        "PLUMBLINE_SYSFS": str(folder / "sys"),
        "PLUMBLINE_DEV": str(folder / "dev"),
    }
    if fake is not None:
        trtexec(folder / "bin", fake)
        (folder / "dev" / "nvhost-gpu").touch()
    return ["env", *(f"{key}={value}" for key, value in {**own, **variables}.items()), python or oldest_python(), str(file)]


class Talk:
    """A conversation with an agent."""

    def __init__(self, command: list[str], log: IO[bytes] | None = None) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.hello = self.receive()[0]

    def send(self, kind: str, body: bytes = b"", **fields: Any) -> None:
        assert self.process.stdin is not None
        message = {"type": kind, **fields, **({"body": len(body)} if body else {})}
        self.process.stdin.write(json.dumps(message).encode() + b"\n" + body)
        self.process.stdin.flush()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        assert self.process.stdout is not None
        message = json.loads(self.process.stdout.readline())
        return message, self.process.stdout.read(message.get("body", 0))

    def ask(self, kind: str, body: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        self.send(kind, body, **fields)
        return self.receive()

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        answer, _ = self.ask("File", data, sha256=digest)
        assert answer == {"type": "Answer", "value": True}, answer
        return digest

    def open(self, digest: str, images: Any, **fields: Any) -> dict[str, Any]:
        usual = {"backend": "usual", "precision": "fp32", "device": "cuda", "input": "images", "outputs": ["outputs"]}
        more = {"shape": list(images.shape), "dynamic": True}
        return self.ask("Open", images.tobytes(), sha256=digest, **{**usual, **more, **fields})[0]

    def hang_up(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def talk(command: list[str]) -> Iterator[Talk]:
    conversation = Talk(command)
    try:
        yield conversation
    finally:
        conversation.hang_up()
        conversation.process.wait(30)


def matrix(opset: int = 13, ir_version: int = 7, factor: float = 2.0) -> bytes:
    """An ONNX file that multiplies rows of four numbers by a diagonal."""
    node = helper.make_node("MatMul", ["images", "matrix"], ["outputs"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("images", "outputs")]
    diagonal = onnx.numpy_helper.from_array(numpy.eye(4, dtype=numpy.float32) * numpy.float32(factor), "matrix")
    graph = helper.make_graph([node], "matrix", ends[:1], ends[1:], [diagonal])
    opsets = [helper.make_opsetid("com.example", 99), helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


def rows() -> Any:
    return numpy.arange(8, dtype=numpy.float32).reshape(2, 4)


def ask_time(conversation: Talk, **fields: Any) -> dict[str, Any]:
    usual: Mapping[str, Any] = {"warmup_s": 0.02, "sampling_s": 0.05, "min_samples": 8, "max_samples": 100, "median_within": 0.01}
    return conversation.ask("Time", b"", **{**usual, **fields})[0]


def alive(pid: int) -> bool:
    """Whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, **variables}
