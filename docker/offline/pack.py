#!/usr/bin/env python3
"""Collect in docker/offline/wheels what a machine that has torch and torchvision, but no network, lacks to run this suite.

    docker/offline/pack.py [--python-version 3.12] [--platform aarch64] [-o gpu.tar]

Its Python and processor are those of this machine, or as named. With `-o` the wheels and all files that git tracks become a tar.
There: tar xf gpu.tar && docker/offline/run
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "docker" / "offline" / "wheels"
LIMIT_BYTES = 64 << 20  # of all wheels together
THERE = ("torch", "torchvision")  # with all that they want
USELESS = ("hf-xet",)  # it downloads
# What the suite runs without, and what is then `unavailable`, by the distribution; what serves a GPU least is left out first.
SPARE = {
    "openvino": "the runtime openvino",
    "onnxruntime": "the runtime onnxruntime, and int8-static of tensorrt",
    "torchao": "integers in torch",
    "onnx": "whatever is an ONNX file: the runtimes onnxruntime, openvino and tensorrt",
}
# By processor, the glibc 2.x that its machines have: Debian 10, Ubuntu 20.04; and Ubuntu 22.04, as on a Jetson with JetPack 6.
LIBC = {"x86_64": 28, "aarch64": 35}


def lacking(wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    """Return the requirements (`name==version`) of distributions that are not there, and that are of use."""
    gone = {name_of(line) for line in there} | set(USELESS)
    return [line for line in wanted if name_of(line) not in gone and not name_of(line).startswith(("nvidia-", "cuda-", "triton"))]


def fitting(sizes: Mapping[str, int], limit: int = LIMIT_BYTES) -> tuple[list[str], list[str]]:
    """Split distributions into those that are packed and those that are left out: of SPARE in its order, until the rest fits.

    `sizes` and `limit` are in bytes. Raises SystemExit where what cannot be spared is more than that.
    """
    kept, dropped = dict(sizes), []
    for name in SPARE:
        if sum(kept.values()) > limit and name in kept:
            dropped.append(name)
            del kept[name]
    if (whole := sum(kept.values())) > limit:
        largest = ", ".join(f"{name} {shown(kept[name])}" for name in sorted(kept, key=kept.__getitem__, reverse=True)[:3])
        sys.exit(f"expected {shown(limit)} of wheels, got {shown(whole)} that cannot be spared; the largest: {largest}")
    return list(kept), dropped


def name_of(requirement: str) -> str:
    """Return the normal form of the name of a requirement or a wheel (PyPA, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>;\[ ]", requirement, maxsplit=1)[0]).lower()


def shown(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def resolved(python: str, machine: str, *what: str, given: str = "") -> list[str]:
    """Return what a requirement or a project brings along on that Python and processor, in the versions of constraints.txt."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        sys.exit("expected uv beside this Python or on the PATH, found none; pip install uv")
    quiet = ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    target = ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_{LIBC[machine]}"]
    command = [uv, "pip", "compile", *quiet, *target, "--constraint", str(ROOT / "constraints.txt"), *what]
    return subprocess.run(command, input=given, check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT).stdout.split("\n")[:-1]


def download(requirements: Iterable[str], python: str, machine: str) -> None:
    """Fetch the wheels into WHEELS, for that Python and processor."""
    old = [f"manylinux{year}_{machine}" for year in (2014, 2010, 1)]
    tags = [f"--platform={tag}" for tag in (*(f"manylinux_2_{minor}_{machine}" for minor in range(LIBC[machine], 4, -1)), *old)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(WHEELS)]
    subprocess.run([*command, f"--python-version={python}", *tags, *requirements], check=True)


def pack(file: Path) -> None:
    """Write the wheels, and the files that git tracks, into one tar."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(file, "w") as tar:
        for name in [*tracked.split("\0")[:-1], *(str(path.relative_to(ROOT)) for path in sorted(WHEELS.iterdir()))]:
            tar.add(ROOT / name, name, recursive=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="a tar of the wheels and of all files that git tracks")
    parser.add_argument(
        "--python-version", default=".".join(platform.python_version_tuple()[:2]), help="that of the other machine"
    )
    parser.add_argument("--platform", default=platform.machine(), choices=tuple(LIBC), help="its processor")
    asked = parser.parse_args()
    target = (asked.python_version, asked.platform)
    ours = resolved(*target, "pyproject.toml", "--extra", "openvino", "--extra", "torchao", "--group", "tests")
    theirs = resolved(*target, "-", given="\n".join(THERE))
    shutil.rmtree(WHEELS, ignore_errors=True)
    download(lacking(ours, theirs), *target)
    wheels = {name_of(path.name.partition("-")[0]): path for path in WHEELS.iterdir()}
    sizes = {name: path.stat().st_size for name, path in wheels.items()}
    kept, dropped = fitting(sizes)
    for name in dropped:
        print(f"left out: {name}, {shown(sizes[name])}; unavailable there: {SPARE[name]}")
        wheels[name].unlink()
    print(
        f"{len(kept)} wheels, {shown(sum(sizes[name] for name in kept))}, for Python {asked.python_version} on {asked.platform}"
    )
    if asked.output is not None:
        pack(asked.output)
        print(f"{asked.output}: {shown(asked.output.stat().st_size)}; there: tar xf {asked.output.name} && docker/offline/run")


if __name__ == "__main__":
    main()
