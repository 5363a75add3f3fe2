"""What is packed for a machine without a network (docker/offline/pack.py), and that the suite starts without what is left out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from plumbline.harness.probe.server import _versions

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def packer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pack", ROOT / "docker" / "offline" / "pack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MIB = 1 << 20
SIZES = {"scipy": 35 * MIB, "openvino": 56 * MIB, "onnxruntime": 23 * MIB, "torchao": 3 * MIB, "onnx": 9 * MIB, "timm": 17 * MIB}


@pytest.mark.parametrize(
    ("limit", "dropped"),
    [
        (143, []),
        (142, ["openvino"]),
        (87, ["openvino"]),
        (64, ["openvino", "onnxruntime"]),
        (63, ["openvino", "onnxruntime", "torchao"]),
        (52, ["openvino", "onnxruntime", "torchao", "onnx"]),
    ],
)
def test_what_serves_a_gpu_least_is_left_out_until_the_rest_fits(packer: ModuleType, limit: int, dropped: list[str]) -> None:
    kept, left_out = packer.fitting(SIZES, limit * MIB)
    assert left_out == dropped
    assert sorted([*kept, *dropped]) == sorted(SIZES)
    assert sum(SIZES[name] for name in kept) <= limit * MIB


def test_what_cannot_be_spared_is_not_left_out(packer: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"expected 51\.0 MiB of wheels, got 52\.0 MiB that cannot be spared.*scipy 35\.0 MiB"):
        packer.fitting(SIZES, 51 * MIB)


def test_what_comes_with_torch_is_there(packer: ModuleType) -> None:
    ours = ["numpy==2.4.6", "nvidia-cublas==13.1", "cuda-bindings==13.5", "triton==3.9", "hf_xet==1.8", "typing_extensions==4.16"]
    wanted = ["torch==2.15.0", "scipy==1.17", *ours, "onnx-ir==1.1"]
    assert packer.lacking(wanted, ["torch==2.15.0", "numpy==2.3.0", "typing-extensions==4.1"]) == ["scipy==1.17", "onnx-ir==1.1"]


def packed(packer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sizes: dict[str, int]) -> Path:
    """Run the packer with wheels of these sizes instead of downloaded ones, and return the tar."""
    monkeypatch.setattr(packer, "WHEELS", tmp_path / "docker" / "offline" / "wheels")
    monkeypatch.setattr(packer, "ROOT", tmp_path)
    monkeypatch.setattr(packer, "resolved", lambda python, machine, *what, given="": [given or f"{python} {machine}"])

    def download(requirements: list[str], python: str, machine: str) -> None:
        assert (requirements, python, machine) == (["3.12 aarch64"], "3.12", "aarch64")
        packer.WHEELS.mkdir(parents=True)
        for name, size in sizes.items():
            with (packer.WHEELS / f"{name}-1.0-py3-none-any.whl").open("wb") as file:
                file.truncate(size)

    monkeypatch.setattr(packer, "download", download)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "tracked").write_text("1")
    (tmp_path / "stray").write_text("2")
    subprocess.run(["git", "-C", str(tmp_path), "add", "tracked"], check=True)
    options = ["--python-version", "3.12", "--platform", "aarch64", "-o", str(tmp_path / "gpu.tar")]
    monkeypatch.setattr(sys, "argv", ["pack.py", *options])
    packer.main()
    return tmp_path / "gpu.tar"


def test_the_tar_has_what_git_tracks_and_the_wheels_that_fit_and_the_rest_is_named(
    packer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = packed(packer, monkeypatch, tmp_path, {"openvino": 60 * MIB, "scipy": 30 * MIB, "py_cpuinfo2": 1000})
    with tarfile.open(file) as tar:
        assert tar.getnames() == [
            "tracked",
            "docker/offline/wheels/py_cpuinfo2-1.0-py3-none-any.whl",
            "docker/offline/wheels/scipy-1.0-py3-none-any.whl",
        ]
    said = capsys.readouterr().out
    assert "left out: openvino, 60.0 MiB; unavailable there: the runtime openvino\n" in said
    assert "2 wheels, 30.0 MiB, for Python 3.12 on aarch64\n" in said


EVERYTHING = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import plumbline.harness, plumbline.models
for package in (plumbline.harness, plumbline.models):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
if "onnx" not in sys.argv:
    from plumbline.harness.runtimes.export import prepare
    prepare()
"""


@pytest.mark.slow
@pytest.mark.parametrize("left", [[], ["onnx"]])
def test_the_suite_starts_without_what_is_left_out(packer: ModuleType, left: list[str]) -> None:
    """Every module is imported where none of those can be; with onnx, a net is exported without ONNX Runtime."""
    gone = [name for name in packer.SPARE if name != "onnx" or left]
    done = subprocess.run([sys.executable, "-c", EVERYTHING, *gone], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_fingerprint_names_the_libraries_that_are_there() -> None:
    assert dict(_versions("numpy", "no-such-library")) == {"numpy": importlib.metadata.version("numpy")}
