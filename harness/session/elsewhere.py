"""A place that is a container, another machine over ssh, or a container there: by the command line of docker and of OpenSSH.

The binaries, not libraries: what `~/.ssh/config` says of a host (ProxyJump, agents, certificates) holds.
The engine of docker is that of the machine.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from msgspec.structs import replace

from plumbline.harness.boot import BOOT
from plumbline.harness.environment import TREE
from plumbline.harness.session import shipping
from plumbline.harness.session.places import IN_FOLDER, BadPlace, Board, Place, Small
from plumbline.harness.settings import UNKNOWN, Settings
from plumbline.harness.target import HERE, At
from plumbline.texts import size

SCRIPT = Path(__file__).with_name("docker-run.sh")
AGENT = Path(__file__).resolve().parents[2] / "agent" / "plumbline_agent.py"
PYTHON = "python3"  # of a board
MODELS, REVISION = "models of the current folder", "a revision"
GIVEN = "/given"  # in a container: what the session has brought
# sh -c OF_REVISION sh FOLDER PATH ROOT COMMAND ...
OF_REVISION = f'cd "$1" && export PYTHONPATH="$2${{PYTHONPATH:+:$PYTHONPATH}}" {TREE}="$3" && shift 3 && exec "$@"'
KILLED = 137  # what docker run ends with where SIGKILL ended the container

# What stderr says where nothing answers, and what that means; the first that fits. Of ssh itself, which ends with 255:
SSH = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED":
        "its host key is another than the one that is known; plumbline trust {host} says more",
    "Host key verification failed":
        "its host key is not known yet; plumbline trust {host} shows its fingerprint and asks",
    "Could not resolve hostname":
        "no such host: {host} is neither in ~/.ssh/config nor in the DNS",
    "Connection refused":
        "nothing listens for ssh there (connection refused); see whether it has booted, and sshd runs",
    "Connection timed out|Operation timed out|banner exchange":
        "it does not answer (timed out); see whether it is on, and in this network",
    "No route to host|Network is unreachable":
        "there is no way to it (no route to host)",
    "Permission denied|Too many authentication failures":
        "it does not let this user in (permission denied); ssh-copy-id {host}, or name user and key in ~/.ssh/config",
}  # fmt: skip
# and of what it, or this machine, was to run:
THERE = {
    "permission denied while trying to connect to the Docker daemon|dial unix .*permission denied":
        "this user may not use docker there; sudo usermod -aG docker USER, and log in again",
    "Cannot connect to the Docker daemon":
        "docker's engine does not run there",
    "docker: command not found|docker: not found":
        "docker is not installed there",
    "plumbline-probe: (command )?not found|plumbline-probe\\W+executable file not found|plumbline-probe: No such":
        "plumbline-probe is not on the PATH there; install plumbline, or name the command in targets.toml",
    "its engine is on another machine":
        "docker's engine is on another machine; measure there by ssh:HOST/docker:{image}, or unset DOCKER_HOST",
    "No such image|Unable to find image|manifest unknown|repository does not exist":
        "there is no image {image} there; docker pull it, or docker build it",
    "invalid reference format":
        "{image} is no name of an image",
    "could not select device driver|[Uu]nknown .*runtime.* nvidia|nvidia-container-cli":
        "docker has no NVIDIA runtime there; install nvidia-container-toolkit, then sudo nvidia-ctk runtime configure",
    "[Nn]o space left on device":
        "its disk is full",
}  # fmt: skip


CONNECT_S = 10  # in which a host has to answer
ALIVE_S = 5  # between two questions whether it is still there; three without an answer, and the connection is lost


def ssh_options() -> list[str]:
    """Return the options of every call: nothing is asked, host keys are never waved through, one connection is shared."""
    folder = _socket_folder()
    options = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": f"{CONNECT_S}", "ServerAliveInterval": f"{ALIVE_S}",
        "ServerAliveCountMax": "3", "LogLevel": "INFO", "EscapeChar": "none", "ForwardAgent": "no", "ForwardX11": "no",
        "ControlMaster": "auto", "ControlPath": f"{folder}/plumbline-%C", "ControlPersist": "60",
    }  # fmt: skip
    return ["-T", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]


def _socket_folder() -> Path:
    """Return a folder of this user alone, whose name is short: a socket's path has 107 bytes, and ssh takes 57 of them."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and len(os.fsencode(runtime)) < 40 and os.access(runtime, os.W_OK):
        return Path(runtime)
    folder = Path(f"/tmp/plumbline-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.lstat().st_uid != os.getuid() or folder.lstat().st_mode & 0o077:
        raise BadPlace(f"expected {folder} to belong to this user alone; remove it, or set $XDG_RUNTIME_DIR")
    return folder


class Elsewhere(Place):
    """`where` says which machine and which image; see `Place`."""

    bring = "--data ROOT brings them"
    limits: tuple[str, ...] = ()  # options of docker run

    def __init__(self, name: str, where: At) -> None:
        super().__init__(name, ())
        self._host, self._image = where
        self._cuda = False
        self._there: dict[Path, str] = {}  # folders here, and where their copies are on that machine
        self._inside: dict[Path, str] = {}  # and in the container: a place that everybody may read, unlike a home
        self._root: Path | None = None  # the data root there
        self._folder: Path | None = None  # the current one here, in which models from outside are
        self._revision: shipping.Revision | None = None
        self._python: str | None = None  # of a nursery there, by which probes start at once

    @property
    def machine(self) -> str:
        return HERE if self._host is None else f"ssh:{self._host}"

    def starting(self, *arguments: str) -> list[str]:
        command = ["plumbline-probe", *arguments] if self._python is None else [self._python, *BOOT[1:], *arguments]
        if self._revision is not None:
            given = self._inside if self._image is not None else self._there
            root = Path(given[self._revision.root])
            path = ":".join(f"{root / each}" for each in self._revision.path)
            command = ["sh", "-c", OF_REVISION, "sh", f"{root / self._revision.folder}", path, f"{root}", *command]
        if self._image is not None:
            folder = [] if self._folder is None else ["--workdir", self._inside[self._folder]]
            mounts = [part for here, inside in self._inside.items() for part in ("--volume", f"{self._there[here]}:{inside}:ro")]
            flags = [*(["--cuda"] if self._cuda else []), *self.limits, *mounts, *folder]
            command = ["sh", "-c", SCRIPT.read_text(), "docker-run", *flags, self._image, *command]
        elif self._folder is not None:
            command = ["sh", "-c", IN_FOLDER, "sh", self._there[self._folder], *command]
        return command if self._host is None else self._ssh(f"exec {shlex.join(command)}")

    def _ssh(self, command: str) -> list[str]:
        assert self._host is not None
        return ["ssh", *ssh_options(), self._host, command]

    def nursery(self, modules: Sequence[str]) -> list[str] | None:
        """Return the command that makes a nursery of its Python; None for a container: each probe has its own."""
        if self._host is None or self._image is not None:
            return None
        return self._ssh(f"exec {shlex.join(['plumbline-probe', '--nursery', *modules])}")

    def start_by(self, python: str) -> None:
        """Start probes by a nursery's Python from now on; what they prepare may be kept beside it."""
        self._python, self.scratch = python, Path(python).parent

    def uses(self, device: str) -> None:
        """Give a container the GPUs: one that it was not given it does not see, and says that there is none."""
        if device != "cpu" and not self._cuda:
            self._cuda = True
            self.__dict__.pop("capabilities", None)

    def prepare(self, needed: shipping.Needed, say: Callable[[str], None], hold: shipping.Hold = nullcontext) -> None:
        self._root = self._folder = self._revision = self.root = None
        self._inside, self._there = {}, {}
        try:
            self._prepare(needed, say, hold)
        except shipping.NotShipped as error:
            raise BadPlace(f"target {self.name!r}: {self.explain(str(error), None)}") from error

    def _prepare(self, needed: shipping.Needed, say: Callable[[str], None], hold: shipping.Hold) -> None:
        inside = {folder: f"{GIVEN}/data/{folder.name}" for folder in needed.data}
        if needed.weights is not None:
            inside[needed.weights] = f"{GIVEN}/weights"
        here = {folder: str(folder) for folder in inside}
        there = here
        if self._host is not None:
            there = shipping.copy(inside, self._ssh, say, hold=hold, built_bytes=needed.built_bytes)
        self._inside, self._there = inside, there
        if needed.data and self._image is not None:
            self._root = Path(f"{GIVEN}/data")
        elif needed.data:
            self._root = Path(shipping.link({folder.name: self._there[folder] for folder in needed.data}, self._ssh))
        if files := shipping.files_of(Path.cwd(), needed.outside):
            folder = Path.cwd()
            copied = folder if self._host is None else shipping.copy_files(folder, files, self._ssh, say, MODELS, hold)
            self._folder, self._inside[folder], self._there[folder] = folder, f"{GIVEN}/models", str(copied)

        if (revision := needed.revision) is not None:
            root = revision.root
            copied = root if self._host is None else shipping.copy([root], self._ssh, say, REVISION, hold)[root]
            self._inside[root], self._there[root] = f"{GIVEN}/revision", str(copied)
            self._revision, self.root = revision, root

    def tidy(self) -> None:
        """Remove the files of a revision: every gate has others."""
        if self._revision is None:
            return
        there, self._revision = self._there[self._revision.root], None
        try:
            if self._host is not None:
                shipping.remove(there, self._ssh)
        except shipping.NotShipped as error:
            raise BadPlace(f"target {self.name!r}: {there} is not removed: {self.explain(str(error), None)}") from error

    def data(self, needed: shipping.Needed) -> list[str] | None:
        return [folder.name for folder in needed.data] or super().data(needed)

    def settings(self, settings: Settings) -> Settings:
        """Name the folders as they are called there, those that were brought; its cache is its own."""
        named = self._inside if self._image is not None else self._there
        weights = None if settings.weights not in named else Path(named[settings.weights])
        return replace(settings, data=self._root, weights=weights, cache=UNKNOWN)

    def explain(self, said: str, code: int | None) -> str:
        return _explained(said, code, self._host, self._image) or super().explain(said, code)

    def lost(self, code: int | None) -> str | None:
        return "connection lost" if self._host is not None and code == 255 else None


class Contained(Elsewhere):
    """A small device's place taken by a container here: with as much memory, no swap, and as many cores as that has.

    All processes in the container count, the probe's too. The kernel kills what asks for more. Raises UnknownDevice.
    """

    def __init__(self, name: str, device: str, image: str) -> None:
        super().__init__(name, At(None, image))
        small = Small(device)
        cpus = ("--cpuset-cpus", ",".join(map(str, small.cpus))) if small.cpus else ()
        self.limits = ("--memory", f"{small.bytes_}", "--memory-swap", f"{small.bytes_}", *cpus)
        self.remark, self._bytes = small.remark, small.bytes_

    def explain(self, said: str, code: int | None) -> str:
        if code == KILLED:
            return f"it was killed; {size(self._bytes)} may be less than a process takes that has loaded no net"
        return super().explain(said, code)


class BoardOverSsh(Board):
    """A board with an agent, over ssh: the agent of this revision is copied there once, and the board's own python3 starts it."""

    def __init__(self, name: str, host: str) -> None:
        super().__init__(name, ())
        self._host = host

    @property
    def machine(self) -> str:
        return f"ssh:{self._host}"

    def starting(self, *arguments: str) -> list[str]:
        self.command = self.command or self._copied()
        return super().starting(*arguments)

    def _copied(self) -> tuple[str, ...]:
        """Copy the agent there, under the digest of what is in it; returns the command that starts it. Raises BadPlace."""
        if not AGENT.is_file():
            advice = "name a command that starts it in targets.toml, with agent = true"
            raise BadPlace(f"target {self.name!r}: expected a checkout of plumbline, with {AGENT.name}; got none; {advice}")
        try:
            there = shipping.copy_files(AGENT.parent, [AGENT], self._ssh, lambda text: None, "the agent")
        except shipping.NotShipped as error:
            raise BadPlace(f"target {self.name!r} does not answer: {self.explain(str(error), None)}") from error
        return tuple(self._ssh(f"exec {PYTHON} {shlex.quote(f'{there}/{AGENT.name}')}"))

    def _ssh(self, command: str) -> list[str]:
        return ["ssh", *ssh_options(), self._host, command]

    def explain(self, said: str, code: int | None) -> str:
        return _explained(said, code, self._host, None) or super().explain(said, code)


def _explained(said: str, code: int | None, host: str | None, image: str | None) -> str | None:
    """Return the meaning of what was written to stderr, where it is known; ssh itself ends with 255."""
    for pattern, meaning in {**(SSH if host is not None and code in (255, None) else {}), **THERE}.items():
        if re.search(pattern, said):
            return meaning.format(host=host, image=image)
    return None
