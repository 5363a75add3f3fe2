"""A labgrid lab on loopback: its coordinator, an exporter, and boards that are servers of ssh."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

TOOLS = ("labgrid-coordinator", "labgrid-exporter", "labgrid-client")


def labgrid() -> dict[str, str]:
    """Where labgrid's commands are: in $PLUMBLINE_LABGRID, or on the PATH. Skips without, or fails where they were expected."""
    path = f"{os.environ.get('PLUMBLINE_LABGRID', '')}:{os.environ.get('PATH', '')}"
    found = {tool: shutil.which(tool, path=path) for tool in TOOLS}
    if not all(found.values()):
        reason = "expected labgrid in $PLUMBLINE_LABGRID or on the PATH, found none (tox -e fleet installs it)"
        pytest.fail(reason) if "labgrid" in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)
    return {tool: str(where) for tool, where in found.items()}


class Lab:
    """A lab with a place for each board, which has tags; in `folder` is what its coordinator knows after a restart."""

    def __init__(self, folder: Path, places: Mapping[str, Mapping[str, str]]) -> None:
        self.folder, self.tools = folder, labgrid()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._running: list[subprocess.Popen[bytes]] = []
        resources = "".join(f"{name}:\n  NetworkService:\n    address: 127.0.0.1\n    username: root\n" for name in places)
        (folder / "exported.yaml").write_text(resources)
        self._places = places
        self.start()
        for name, tags in places.items():
            self.client("-p", name, "create")
            self.client("-p", name, "add-match", f"here/{name}/NetworkService")
            self.client("-p", name, "set-tags", *(f"{key}={value}" for key, value in tags.items()))

    def restart(self) -> None:
        """Kill it and start it again, as a lab's host does that has rebooted. It writes its places every 15 s."""
        while not (self.folder / "places.yaml").exists():
            time.sleep(0.5)
        self.stop()
        self.start()

    def start(self) -> None:
        """Start it; raises RuntimeError where nothing is exported in ten seconds."""
        for command in (
            [self.tools["labgrid-coordinator"], "--listen", self.address],
            [self.tools["labgrid-exporter"], "--coordinator", self.address, "--name", "here", "exported.yaml"],
        ):
            with (self.folder / "log").open("ab") as log:
                self._running.append(subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log))
            for _ in range(200):
                with socket.socket() as trying:
                    if trying.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2]))) == 0:
                        break
                time.sleep(0.05)
        for _ in range(100):  # until the exporter has reported
            if self.client("resources").count("NetworkService") == len(self._places):
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()
        self._running.clear()

    def client(self, *arguments: str) -> str:
        """What labgrid-client writes."""
        environment = {**os.environ, "LG_COORDINATOR": self.address}
        command = [self.tools["labgrid-client"], *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    @property
    def holders(self) -> dict[str, str]:
        """Who has acquired what, HOST/USER."""
        rows = [line.split() for line in self.client("who").splitlines()[1:]]
        return {place: f"{host}/{user}" for user, host, place, *_ in rows}
