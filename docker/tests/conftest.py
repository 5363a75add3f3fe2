"""An engine, the images in it, and what is taken away again at the end. An engine that is not there is red, not skipped."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = os.environ.get("BASE_IMAGE") or "python:3.12-slim-bookworm"
REVISION = "0123456789abcdef0123456789abcdef01234567"
LEFT_OUT = (".git", ".venv*", ".tox", ".*_cache", ".hypothesis", "runs", "__pycache__", "*.egg-info", "*.whl")
# Of a torch for processors alone: small, and another than that of constraints.txt, as a board's is
TORCH, TORCHVISION, TORCH_INDEX = "2.13.0+cpu", "0.28.0", "https://download.pytorch.org/whl/cpu"


@dataclass
class Done:
    """What became of a command: both outputs together, and its wall time."""

    code: int
    output: str
    seconds: float


def run(*command: str, given: str = "", **environment: str) -> Done:
    """Run a command to its end."""
    began = time.monotonic()
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    return Done(done.returncode, done.stdout, time.monotonic() - began)


@dataclass
class Engine:
    """Builds images from a copy of the checkout, and runs them without a network."""

    context: Path

    def build(self, name: str, *options: str, tag: str | None = None, **environment: str) -> Done:
        """Build an image by docker/build, with the revision REVISION."""
        given = {"BASE_IMAGE": BASE, "REVISION": REVISION, "TAG": tag or image(name), **environment}
        return run(str(self.context / "docker" / "build"), name, "--network", "host", *options, **given)

    def run(self, *arguments: str, given: str = "") -> Done:
        """Do `docker run` with these arguments."""
        return run("docker", "run", "--network", "none", *arguments, given=given)

    def inspect(self, tag: str) -> dict:
        """Return what the engine knows of an image."""
        return json.loads(run("docker", "image", "inspect", tag).output)[0]

    def fingerprint(self, tag: str) -> dict:
        """Return what an image says of itself."""
        return json.loads(self.run("--rm", tag, "cat", "/etc/plumbline-image.json").output)


def image(name: str) -> str:
    """Name the image of a Dockerfile as the tests build it."""
    return f"plumbline-test:{name}"


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Fail where there is none. Its images and volumes are removed at the end; the cache of its builds stays."""
    if shutil.which("docker") is None:
        pytest.fail("expected docker on the PATH, found none; install it, or run these tests where it is")
    if (asked := run("docker", "version")).code != 0:
        pytest.fail(f"expected a Docker engine that answers, got: {asked.output.strip().splitlines()[-1]}; start it")
    if run("docker", "image", "inspect", BASE).code != 0 and (pulled := run("docker", "pull", "--quiet", BASE)).code != 0:
        pytest.fail(f"expected the base image {BASE}, got: {pulled.output.strip()}; set BASE_IMAGE to one that is there")
    context = tmp_path_factory.mktemp("context") / "plumbline"
    shutil.copytree(ROOT, context, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    yield Engine(context)
    for kind, own in (
        ("container", "name=plumbline-test"),
        ("image", "reference=plumbline-test"),
        ("volume", "name=plumbline-test"),
    ):
        names = run("docker", kind, "ls", "--quiet", *(["--all"] if kind != "volume" else []), "--filter", own).output.split()
        if names:
            run("docker", kind, "rm", "--force", *(["--volumes"] if kind == "container" else []), *names)


@pytest.fixture(scope="session")
def plumbline(engine: Engine) -> str:
    """Build the image for x86 and JetPack 7; returns its name."""
    return built(engine, "plumbline")


@pytest.fixture(scope="session")
def agent(engine: Engine) -> str:
    """Build the agent's image; returns its name."""
    return built(engine, "agent")


@pytest.fixture(scope="session")
def wheelhouse(engine: Engine) -> Path:
    """Put torch and torchvision into the wheelhouse, for the Python of the base."""
    folder = engine.context / "docker" / "wheelhouse"
    asked = engine.run("--rm", BASE, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    assert asked.code == 0, asked.output
    options = ["--no-deps", "--only-binary", ":all:", "--retries", "0", "--extra-index-url", TORCH_INDEX, "--dest", str(folder)]
    there = ["--python-version", asked.output.strip(), "--platform", f"manylinux_2_28_{platform.machine()}"]
    wheels = [f"torch=={TORCH}", f"torchvision=={TORCHVISION}"]
    done = run(sys.executable, "-m", "pip", "download", "--quiet", *options, *there, *wheels)
    assert done.code == 0, done.output
    return folder


@pytest.fixture(scope="session")
def l4t(engine: Engine, wheelhouse: Path) -> str:
    """Build the image for JetPack 6 on a stand-in of its base, with torch from the wheelhouse; returns its name."""
    return built(engine, "l4t-r36", *arguments(TORCH=f"torch=={TORCH} torchvision=={TORCHVISION}"))


def arguments(**changed: str) -> list[str]:
    """Return the build arguments of the image for JetPack 6, with these changed, and without those that are empty."""
    given = {"TORCH": f"torch=={TORCH} torchvision=={TORCHVISION}", "EXPECTED_TORCH": TORCH, "EXPECTED_CUDA": "none", **changed}
    return [part for name, value in given.items() if value for part in ("--build-arg", f"{name}={value}")]


def built(engine: Engine, name: str, *options: str) -> str:
    """Build an image and print how long that took; returns its name."""
    done = engine.build(name, *options)
    assert done.code == 0, done.output[-6000:]
    size = engine.inspect(image(name))["Size"]
    print(f"\n{name}: built in {done.seconds:.0f} s, {size / 1e9:.2f} GB")
    return image(name)
