"""The page on extensions is a package that works; what breaks a contract is red."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from plumbline.harness.session.session import REPOSITORY
from tests.conftest import HOUR_S, announce

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
MOST_LINES = 30


def package(folder: Path, cache: Path, files: dict[str, str], entries: str) -> dict[str, str]:
    """Install a package by hand into a folder; the environment in which it is found."""
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").touch()
    for name, text in files.items():
        (folder / name).write_text(text)
    announce(folder, entries)
    return {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(cache.parent), "PATH": "/usr/bin:/bin"}


def check(python: str, environment: dict[str, str], *names: str) -> tuple[int, str]:
    told = subprocess.run(
        [python, "-m", "plumbline.harness", "check-plugin", *names],
        capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=HOUR_S,
    )  # fmt: skip
    return told.returncode, told.stdout + told.stderr


def of_page() -> tuple[dict[str, str], str]:
    """The files of the page, and its entry points in the form in which a package has them."""
    files = {text.splitlines()[0].removeprefix("# "): text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    entries = toml.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    return files, entries


@pytest.mark.slow
def test_the_page_is_a_package_that_keeps_to_every_contract(tmp_path: Path, cache: Path, python: str) -> None:
    files, entries = of_page()
    assert len(files) == 6
    assert all(len(text.splitlines()) < MOST_LINES for text in files.values())
    environment = package(tmp_path, cache, files, entries)
    code, told = check(python, environment)
    assert code == 0, told
    for plugin in ("runtime fx", "meter page_faults", "meter battery", "model tiny", "variant rounded", "variant penalised"):
        assert plugin in told
    assert told.count("  ok ") > 15
    assert "\nevery claim holds\n" in told
    trained = subprocess.run(
        [python, "-m", "plumbline.harness", "train", "small_cnn", "--variant", "penalised", "--out", str(tmp_path)],
        capture_output=True, text=True, env=environment | {"PLUMBLINE_LOCK": str(tmp_path / "lock")}, cwd=REPOSITORY,
        timeout=HOUR_S,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    weights = load_file(tmp_path / "digits_small_cnn_penalised.safetensors")["linear1.weight"]
    assert float((weights == 0).double().mean()) > 0.1


@pytest.mark.slow
def test_what_breaks_its_contract_is_red(tmp_path: Path, cache: Path, python: str) -> None:
    files, entries = of_page()
    deaf = '    options = {"layout": ("contiguous", "channels_last")}\n'  # and it goes on as it did
    broken = [
        ("mypackage/fx.py", "from plumbline.harness.runtimes", "import torch\nfrom plumbline.harness.runtimes"),
        ("mypackage/fx.py", '    libraries = ("torch",)\n', '    libraries = ("torch",)\n' + deaf),
        ("mypackage/fx.py", "torch.get_num_threads()}", 'torch.get_num_threads(), "layout": "contiguous"}'),
        ("mypackage/faults.py", 'unit = "1"', 'unit = "faults"'),
        ("mypackage/tiny.py", '"1", channels', '"1", 2 * channels'),
        ("mypackage/rounded.py", "copy.deepcopy(net)", "net"),
    ]
    for name, before, after in broken:
        assert before in files[name]
        files[name] = files[name].replace(before, after)
    code, told = check(python, package(tmp_path, cache, files, entries), "fx", "page_faults", "tiny", "rounded")
    assert code == 1
    for reason in (
        "reading it imports neither torch nor its libraries: it imports torch",
        "its unit is a base unit: expected one of s, byte,",
        "the formula gives",
        "the net that went in is another one now",
    ):
        assert reason in told
    assert re.search(r"^  red .*: asked for layout=channels_last, .* it has contiguous$", told, re.MULTILINE)
    assert re.search(r"\d+ claims are red", told)


def test_a_plugin_that_nobody_announces(tmp_path: Path, cache: Path, python: str) -> None:
    environment = package(tmp_path, cache, {}, "")
    code, told = check(python, environment, "nothing_of_that_name")
    assert code == 2
    assert "no plugin 'nothing_of_that_name'; expected the name of an entry point in one of the groups plumbline.runtimes" in told
    code, told = check(python, environment)
    assert (code, told.startswith("no installed package announces a runtime")) == (0, True)
