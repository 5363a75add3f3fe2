"""Pythons that start at once: forks of one process that has imported what all of them import.

A probe imports torch for ten seconds of a processor, and a gate starts dozens of them. `Nursery.python` is an executable that
takes the arguments of an ordinary Python and behaves like one, with its own folder, environment, files and exit code; its work
is done by a fork of the nursery's process. What is not asked for as `-c` or `-m`, or with other variables that an interpreter or
a library reads when it is loaded, is done by an ordinary Python.

The process imports nothing of plumbline, whose files may be those of a revision: this file runs as a script there. A fork may
take its packages from elsewhere ($PLUMBLINE_PACKAGES), if what was imported before (`Nursery.imported`) is the same there.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

PACKAGES = "PLUMBLINE_PACKAGES"  # of a fork: the path on which it looks for packages, instead of the nursery's
READ_WHEN_LOADED = ("ATEN_", "CUDA_", "CXX", "GOMP_", "KMP_", "LD_", "MKL_", "OMP_", "ONEDNN_", "PYTHON", "TORCH_")
# Of these, what a fork can take up or does without, and what scikit-learn sets in whoever imports it.
KEPT = ("PYTHONPATH", "PYTHONUNBUFFERED", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
# Runs a file in a Python that may have no plumbline; nothing of that file's folder is on its path.
SCRIPT = (
    "import runpy, sys; sys.path[:] = filter(None, sys.path); del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
)

# Runs in a Python without site-packages: 0.03 s. What is in braces is filled in. {link} leads to {real}, whose path may have a
# space, and cannot stand behind #!; a shell in between would add to the environment.
LAUNCHER = """#!{link} -IS
import json, os, signal, socket, sys
loaded = {{key: value for key, value in os.environ.items() if key.startswith({prefixes!r}) and key not in {kept!r}}}
if loaded != {loaded!r} or sys.argv[1:2] not in (["-c"], ["-m"]):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
nursery = socket.socket(socket.AF_UNIX)
nursery.connect({address!r})
told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode("utf-8", "surrogateescape")
socket.send_fds(nursery, [len(told).to_bytes(8, "big")], [0, 1, 2])
nursery.sendall(told)
answers = nursery.makefile("rb")
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(answers.readline() or b"1")
if code < 0:
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def serving(modules: Sequence[str], real: str = sys.executable) -> list[str]:
    """Return the command by which a Python becomes a nursery that imports these modules first."""
    return [real, "-c", SCRIPT, __file__, *modules]


class Nursery:
    """The process and its executable; `close` ends it and all that it has started.

    `command` runs `serve`, here or on another machine, where its executable is then. `environment` is its own and that of what it
    starts; `log` gets what it writes to stderr. Raises RuntimeError where it does not start.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = os.environ, log: IO[bytes] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={key: value for key, value in environment.items() if key not in KEPT},
        )
        assert self._process.stdout is not None
        word, *told = self._process.stdout.readline().decode().split() or [""]
        if word != "ready":
            raise RuntimeError(f"the nursery did not start: exit code {self._process.wait()}")
        self.python, self.imported = told[0], frozenset(told[1:])  # the first parts of the names of its modules

    def close(self) -> None:
        """By a signal, too: its input has no end while a fork of this process, for which nobody has waited, holds the pipe."""
        self._process.terminate()
        self._process.communicate()


def serve(*modules: str) -> None:
    """Import the modules, then fork an attendant for each launcher that comes, until the pipe to who started this is closed."""
    usual = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="plumbline-", dir="/tmp" if any(map(str.isspace, usual)) else usual))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        _serve(folder, modules)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(folder: Path, modules: Sequence[str]) -> None:
    address, python, link = folder / "nursery", folder / "python", folder / "real"
    real, prefixes = sys.executable, READ_WHEN_LOADED
    loaded = {key: value for key, value in os.environ.items() if key.startswith(prefixes) and key not in KEPT}
    link.symlink_to(real)
    python.write_text(LAUNCHER.format(link=link, real=real, address=f"{address}", prefixes=prefixes, kept=KEPT, loaded=loaded))
    python.chmod(0o700)
    sys.executable = str(python)  # what is started from here starts at once, too
    for name in modules:
        import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    print("ready", python, *{name.partition(".")[0] for name in sys.modules}, flush=True)
    while 0 not in select.select([listener.fileno(), 0], [], [])[0]:
        connection, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # attendants that have ended
                pass
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            listener.close()
            try:
                attend(connection)
            finally:
                os._exit(1)
        connection.close()


def attend(connection: socket.socket) -> None:
    """Fork the worker; tell its launcher how it ends, and end it when the launcher is gone."""
    die_with_parent(signal.SIGKILL)
    os.setsid()
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    told = b""
    while len(told) < int.from_bytes(length, "big"):
        told += connection.recv(1 << 16)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    worker = os.fork()
    if worker == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        connection.close()
        for end in (read, write):
            os.close(end)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os._exit(work(*json.loads(told.decode("utf-8", "surrogateescape"))))
    for file in files:
        os.close(file)
    connection.sendall(b"%d\n" % worker)
    if connection.fileno() in select.select([connection.fileno(), read], [], [])[0]:
        os.kill(worker, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(OSError):  # the launcher is gone
        connection.sendall(b"%d\n" % code)
    os._exit(0)


def work(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Do what Python does with these arguments. Returns the exit code."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # those of before have looked at other files, and still think that they can seek in them
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    kind, name, *rest = arguments
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = environment[PACKAGES].split(os.pathsep) if PACKAGES in environment else sys.path
    sys.path[:] = [folder if kind == "-m" else "", *paths, *own]
    code: Any = 0
    try:
        if kind == "-m":
            sys.argv = [name, *rest]
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *rest]
            exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - the process boundary: what an interpreter does
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code if isinstance(code, int) else int(code is not None)


def die_with_parent(by: signal.Signals) -> None:
    """Linux: have the kernel send this signal when the parent dies, so that nothing is left to disturb the next session."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    serve(*sys.argv[1:])
    os._exit(0)
