"""Keys of hosts: what a host shows, whether it is known, and keeping it. By OpenSSH's own tools and files."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from plumbline import PlumblineError
from plumbline.harness.session.elsewhere import ssh_options


class NoKey(PlumblineError, OSError):
    """A host that shows no key: it is not there, or no ssh listens."""


@dataclass(frozen=True)
class HostKey:
    """`line` is that of a known_hosts file, `fingerprint` what `ssh-keygen -l` says of it, `file` where it is to be kept."""

    address: str
    line: str
    fingerprint: str
    file: Path
    known: bool

    def keep(self) -> None:
        """Add it to the known ones."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self.file.read_text() if self.file.exists() else ""
        with self.file.open("a") as file:
            file.write(("\n" if before and not before.endswith("\n") else "") + self.line + "\n")


def look(host: str) -> HostKey:
    """Ask a host for its key, by the name, port and file of known ones that the ssh client would use. Raises NoKey."""
    asked = _ran(["ssh", *ssh_options(), "-G", host])
    told = dict(line.split(" ", 1) for line in asked.splitlines() if " " in line)
    name, port = told["hostname"], told["port"]
    for kind in ("ed25519", "ecdsa", "rsa"):
        scanned = subprocess.run(["ssh-keyscan", "-T", "10", "-p", port, "-t", kind, name], capture_output=True, text=True)
        lines = [line for line in scanned.stdout.splitlines() if not line.startswith("#")]
        if lines:
            break
    else:
        raise NoKey(f"{host} ({name}, port {port}) shows no key; see whether it is on, and sshd runs")
    file = Path(told["userknownhostsfile"].split()[0]).expanduser()
    fingerprint = _ran(["ssh-keygen", "-l", "-f", "-"], lines[0] + "\n").strip()
    listed = name if port == "22" else f"[{name}]:{port}"
    known = subprocess.run(["ssh-keygen", "-F", listed, "-f", str(file)], capture_output=True, text=True).stdout.split()
    kind, key = lines[0].split()[1:]
    if kind in known and key not in known:
        forget = f"ssh-keygen -R '{listed}' -f '{file}'"
        raise NoKey(
            f"{host} ({name}, port {port}) shows another key than the one that is known: {fingerprint}; find out why. If it is "
            f"the right one: {forget}, and again"
        )
    return HostKey(f"{name}, port {port}", lines[0], fingerprint, file, key in known)


def _ran(command: list[str], given: str = "") -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoKey(f"expected OpenSSH's client on the PATH, got no {command[0]}; install openssh-client") from error
    if done.returncode != 0:
        raise NoKey(done.stderr.strip() or f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout
