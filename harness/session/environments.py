"""A Python environment for a side whose packages are others than those that are running, made by uv and kept by its content."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import Distribution, distributions, requires
from pathlib import Path
from typing import Any

from plumbline import PlumblineError
from plumbline.files import sha256

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The files that say which packages a project needs, the first that is there; and what holds their versions.
NEEDED, HELD = ("pyproject.toml", "requirements.txt"), ("constraints.txt",)
SAYING = (*NEEDED, *HELD)
DONE = ".complete"
# Run by a Python: of each package its version, where it comes from, and the first parts of its modules' names. What is run
# whenever Python starts (.pth) is no module of its own.
TELL = """
import json
from importlib.metadata import distributions
found = {}
for one in distributions():
    code = [file for file in one.files or [] if file.suffix in (".py", ".so", ".pyd", ".pth") and file.parts[0] != ".."]
    names = {None if file.suffix == ".pth" else file.parts[0].partition(".")[0] for file in code}
    found[one.name.lower()] = [one.version, one.read_text("direct_url.json"), sorted(names - {None}), None in names]
print(json.dumps(found))
"""
OURS = "plumbline"


class BadEnvironment(PlumblineError, RuntimeError):
    """An environment that cannot be made; the message has uv's words."""


def needed(files: Path) -> str:
    """Return what the files of a project say of the packages that it needs; two sides with the same text share an environment."""
    found = {name: (files / name).read_text(errors="replace") for name in (*NEEDED, *HELD) if (files / name).is_file()}
    if "pyproject.toml" in found:  # its version and the settings of its tools change often, and mean nothing here
        project = _project(found["pyproject.toml"])
        keys = ("requires-python", "dependencies", "optional-dependencies", "text")
        found["pyproject.toml"] = json.dumps({key: project.get(key) for key in keys})
    return json.dumps(found)


def _project(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text).get("project", {})
    except tomllib.TOMLDecodeError:
        return {"text": text}


def running(more: Sequence[str], cache: Path, say: Callable[[str], None]) -> str:
    """Return the Python of an environment with the packages of the running one, and `more`. Raises BadEnvironment."""
    if not more:
        return sys.executable
    return _made([requirement for found in distributions() if (requirement := _pinned(found))], [], more, cache, say)


def of_project(files: Path, more: Sequence[str], cache: Path, say: Callable[[str], None]) -> str:
    """Return the Python of an environment with the packages that a project needs, those of plumbline, and `more`.

    Raises BadEnvironment.
    """
    arguments: list[str] = []
    for name in NEEDED:
        if (files / name).is_file():
            arguments += ["--requirements", str(files / name)]
            break
    arguments += [part for name in HELD if (files / name).is_file() for part in ("--constraints", str(files / name))]
    own: set[str] = set()
    if (files / "pyproject.toml").is_file() and (project := _project((files / "pyproject.toml").read_text())).get("name") == OURS:
        own = set(map(_name, project.get("dependencies", [])))  # another revision of plumbline may need another version
    ours = [text for text in requires(OURS) or () if "extra ==" not in text and _name(text) not in own]
    return _made(ours, arguments, more, cache, say, needed(files))


def difference(base: str, head: str) -> tuple[set[str], set[str]]:
    """Return by which modules the packages of two Pythons differ, by first names, and the packages of which nobody can say that.

    Plumbline's own files are not compared: each side brings its own. Raises BadEnvironment.
    """
    old, new = _packages(base), _packages(head)
    changed = {name for name in {*old, *new} - {OURS} if old.get(name) != new.get(name)}
    modules, unknown = set[str](), set[str]()
    for name in changed:
        own = [module for side in (old, new) if name in side for module in side[name][2]]
        modules.update(own)
        if not own or any(side[name][3] for side in (old, new) if name in side):
            unknown.add(name)
    return modules, unknown


def path_of(python: str) -> list[str]:
    """Return where a Python looks for packages. Raises BadEnvironment."""
    return list(_told(python, "import json, sys; print(json.dumps([path for path in sys.path if path]))"))


def _packages(python: str) -> dict[str, Any]:
    return _told(python, TELL)


def _told(python: str, code: str) -> Any:
    done = subprocess.run([python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise BadEnvironment(
            f"{python} does not say which packages it has: {done.stderr.strip() or f'exit code {done.returncode}'}"
        )
    return json.loads(done.stdout)


def _name(requirement: str) -> str:
    """Return the normalised name in a requirement (PEP 503 and 508)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def _pinned(found: Distribution) -> str | None:
    """Return the requirement that gives this very distribution; None for plumbline itself, whose files are those of a side."""
    if found.name == OURS:
        return None
    direct = found.read_text("direct_url.json")
    return f"{found.name}=={found.version}" if direct is None else f"{found.name} @ {json.loads(direct)['url']}"


def _made(
    requirements: Sequence[str],
    arguments: Sequence[str],
    more: Sequence[str],
    cache: Path,
    say: Callable[[str], None],
    text: str = "",
) -> str:
    contents = [sha256(Path(name)) if Path(name).is_file() else name for name in more]
    parts = [platform.python_version(), sys.executable, sorted(requirements), text, contents]
    folder = cache / "gate" / "environments" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    if (folder / DONE).exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"making an environment: {', '.join(more) or 'what the revision needs'}")
    uv = _uv()
    _run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    _run([*install, *arguments, *requirements])
    if more:
        _run([*install, *more])
    (folder / DONE).touch()
    return python


def _uv() -> list[str]:
    if (found := shutil.which("uv")) is not None:
        return [found]
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return [str(beside)]
    raise BadEnvironment("the sides need other packages, and uv, which makes an environment of each, is not here; pip install uv")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise BadEnvironment(f"uv made no environment: {done.stderr.strip() or f'exit code {done.returncode}'}")
