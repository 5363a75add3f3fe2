"""The images for JetPack 6 and for the agent, what is refused, the services of the compose file, and the sets for aarch64."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import BASE, REVISION, ROOT, TORCH, TORCHVISION, Engine, arguments, image, run
from test_plumbline import NARROW, ONE_CELL

SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
ON_A_BOARD = ("jetpack7", "jetpack6", "agent")


def test_the_agent_answers_and_says_what_it_is(engine: Engine, agent: str) -> None:
    done = engine.run("--rm", *NARROW, agent)
    assert (done.code, done.output.split()[0]) == (0, "plumbline-agent"), done.output
    assert engine.run("--rm", *NARROW, agent, "plumbline-agent", "--version").output == done.output
    said = engine.fingerprint(agent)
    assert (said["base"], said["revision"]) == (BASE, REVISION)
    assert engine.inspect(agent)["Config"]["User"] == "10001:10001"


def test_torch_of_a_wheelhouse_stays(engine: Engine, l4t: str, wheelhouse: Path) -> None:
    versions = engine.fingerprint(l4t)["versions"]
    assert (versions["torch"], versions["torchvision"].partition("+")[0]) == (TORCH, TORCHVISION)
    assert "cuda" not in versions
    done = engine.run("--rm", *NARROW, l4t, "plumbline", "show", "resnet20")
    assert done.code == 0, done.output
    script = "find /runs /cache /tmp -mindepth 1; find / -xdev -name 'torch*.whl' 2>/dev/null"
    assert engine.run("--rm", l4t, "sh", "-c", script).output == ""
    assert engine.inspect(l4t)["Config"]["User"] == "10001:10001"


def test_a_replaced_torch_ends_the_build(engine: Engine, l4t: str, wheelhouse: Path) -> None:
    """As an install does for whose sake torch is replaced. The other torch is a wheel of a few files."""
    other = TORCH.partition("+")[0] + "+cu130"  # the torchvision that is there admits it, too
    version = f"__version__ = '{other}'\ncuda = '13.0'\n"
    wheel = _wheel(wheelhouse, "torch", other, {"torch/__init__.py": "", "torch/version.py": version})
    done = engine.build("l4t-r36", *arguments(REQUIREMENTS=f"torch=={other}"), tag=image("swapped"))
    wheel.unlink()
    assert done.code != 0
    words = f"after the last install: expected torch {TORCH} with CUDA none, got torch {other} with CUDA 13.0"
    assert words in done.output, done.output[-3000:]


CUDA_WRONG = f"after the install of TORCH: expected torch {TORCH} with CUDA 12.6, got torch {TORCH} with CUDA none"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"TORCH": ""}, "expected --build-arg TORCH="),
        ({"EXPECTED_TORCH": ""}, "expected --build-arg EXPECTED_TORCH="),
        ({"EXPECTED_CUDA": ""}, "expected --build-arg EXPECTED_CUDA="),
        ({"EXPECTED_CUDA": "12.6"}, CUDA_WRONG),
    ],
)
def test_an_argument_left_out_or_wrong_is_said(engine: Engine, l4t: str, changed: dict[str, str], words: str) -> None:
    done = engine.build("l4t-r36", *arguments(**changed), tag=image("refused"))
    assert done.code != 0
    said = {re.sub(r"^#\d+ [\d.]+ ", "", line) for line in done.output.splitlines()}
    assert len([line for line in said if line.startswith(words)]) == 1, done.output[-3000:]


def test_an_image_that_does_not_exist_is_said_in_a_sentence(engine: Engine) -> None:
    done = engine.build("agent", BASE_IMAGE="local/not-there:1")
    assert (done.code, done.output.count("\n")) == (2, 1), done.output
    assert done.output.startswith("docker/build: expected a base image, got 'local/not-there:1', which is not here")
    done = engine.build("jetson")
    assert (done.code, done.output) == (
        2,
        "docker/build: expected the name of an image (agent l4t-r36 plumbline), got 'jetson'\n",
    )
    done = engine.run("--rm", "--pull", "never", "plumbline-test:not-there")
    assert done.code == 125
    assert "No such image: plumbline-test:not-there" in done.output


def test_no_engine_is_said_in_a_sentence(engine: Engine) -> None:
    done = engine.build("agent", DOCKER_HOST="unix:///not-there.sock")
    assert (done.code, done.output.count("\n")) == (2, 1), done.output
    assert "expected a Docker engine that answers, got none" in done.output


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_the_compose_file_runs(engine: Engine, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """By its equivalent `docker run`, without what only a GPU or a board has."""
    service = SERVICES[name]
    assert ("deploy" in service, service.get("runtime") == "nvidia") == (name == "cuda", name in ON_A_BOARD)
    fixture = {"docker/plumbline.Dockerfile": "plumbline", "docker/l4t-r36.Dockerfile": "l4t", "docker/agent.Dockerfile": "agent"}
    tag = request.getfixturevalue(fixture[service["build"]["dockerfile"]])
    declared = set(re.findall(r"^ARG (\w+)", (ROOT / service["build"]["dockerfile"]).read_text(), re.MULTILINE))
    assert set(service["build"]["args"]) <= declared
    command = {"plumbline": ONE_CELL, "l4t": ("plumbline", "show", "resnet20"), "agent": ()}
    done = engine.run("--rm", *flags(service, tmp_path), tag, *command[fixture[service["build"]["dockerfile"]]])
    assert done.code == 0, done.output


def flags(service: dict, folder: Path) -> list[str]:
    """Return the options of `docker run` that a service stands for; a key that is not known here is red."""
    known = {"build", "image", "deploy", "runtime", "pull_policy", "network_mode", "init", "read_only", "tmpfs", "volumes"}
    assert set(service) <= {*known, "group_add", "environment"}
    assert (service["network_mode"], service["init"], service["read_only"], service["pull_policy"]) == (
        "none",
        True,
        True,
        "never",
    )
    options = ["--init", "--read-only", "--pull", "never"]
    for path in service["tmpfs"]:
        options += ["--tmpfs", path]
    for volume in service["volumes"]:
        source, _, rest = volume.partition(":")
        if source.startswith("/"):  # of the machine: a folder of this test instead
            own = folder / source.strip("/").replace("/", "-")
            own.mkdir()
            own.chmod(0o1777)
            source = str(own)
        else:
            source = f"plumbline-test-{source}"
        options += ["--volume", f"{source}:{rest}"]
    for group in service.get("group_add", ()):
        options += ["--group-add", group]
    for variable, value in service.get("environment", {}).items():
        options += ["--env", f"{variable}={value}"]
    return options


@pytest.mark.parametrize(("board", "python"), [("JetPack 6", "3.10"), ("JetPack 7", "3.12")])
def test_the_set_for_a_board_resolves_from_wheels(board: str, python: str, tmp_path: Path) -> None:
    done = resolve(board, python, tmp_path, "")
    assert done.code == 0, done.output
    assert re.search(r"^onnxruntime==", done.output, re.MULTILINE)
    if board == "JetPack 7":
        wanted = re.search(r"^torch==\S+ ; python_full_version >= '3.11'", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert wanted
        assert wanted[0].split()[0] in done.output.split()


def test_what_has_no_wheel_for_a_board_is_red(tmp_path: Path) -> None:
    done = resolve("JetPack 7", "3.12", tmp_path, "mlcommons-loadgen")
    assert done.code != 0
    assert "mlcommons-loadgen" in done.output


def resolve(board: str, python: str, folder: Path, more: str) -> object:
    """Resolve our requirements for aarch64 from wheels alone, under the constraints of the board's Dockerfile."""
    text = (ROOT / "constraints.txt").read_text()
    if board == "JetPack 6":
        dropped = re.search(r'grep -vE "(.*)" constraints.txt', (ROOT / "docker" / "l4t-r36.Dockerfile").read_text())
        assert dropped
        kept = [line for line in text.splitlines() if not re.search(dropped[1], line)]
        assert 0 < len(text.splitlines()) - len(kept) < 40
        text = "\n".join(kept)
    constraints, extra = folder / "constraints.txt", folder / "more.txt"
    constraints.write_text(text)
    extra.write_text(more)
    platform = ["--only-binary", ":all:", "--python-platform", "aarch64-manylinux_2_28", "--python-version", python]
    files = [str(ROOT / "pyproject.toml"), str(extra), "--constraint", str(constraints)]
    return run("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *platform, *files)


def _wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Make a wheel without requirements; returns its path."""
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, text in files.items():
            wheel.writestr(inside, text)
    return path


def test_torch_of_an_extra_index_without_cuda_is_preferred(tmp_path: Path) -> None:
    """By the options of the Dockerfile: a version with +cpu is the newer one, and wants nothing of NVIDIA's."""
    options = ["--index-strategy", "unsafe-best-match"]
    assert f'--index "${{EXTRA_INDEX}}" {" ".join(options)}' in (ROOT / "docker" / "plumbline.Dockerfile").read_text()
    found = re.search(r"^torch==(\S+) ; python_full_version >= '3.11'", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    wheel = _wheel(folder, "torch", f"{found[1]}+cpu", {"torch/__init__.py": ""})
    (folder / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
    target = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_28"]
    given = [str(ROOT / "pyproject.toml"), "--constraint", str(ROOT / "constraints.txt"), *target]
    for more, version, nvidia in ((["--index", str(folder.parent), *options], f"{found[1]}+cpu", False), ([], found[1], True)):
        done = run("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *given, *more)
        assert done.code == 0, done.output
        assert f"torch=={version}" in done.output.split()
        assert ("nvidia-" in done.output) == nvidia
