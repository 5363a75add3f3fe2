"""Places over ssh: a real sshd on loopback, its keys and faults, and what a session makes of them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from plumbline.harness.cli import main
from plumbline.harness.facts import Latency
from plumbline.harness.lock import Busy, lock_machine
from plumbline.harness.nursery import KEPT, READ_WHEN_LOADED
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.session import client, elsewhere, places, shipping
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.elsewhere import Elsewhere
from plumbline.harness.session.places import BadPlace
from plumbline.harness.session.shipping import Needed
from plumbline.harness.settings import Settings
from plumbline.harness.target import at
from tests.agent.agents import alive
from tests.conftest import Run
from tests.records import cell_of, replace

Bench = Callable[..., Run]
SMALLEST = cell_of(model="plumbline.harness.studies.smallest:SMALLEST", image_size=8, target="ssh:board")  # trains nothing
QUICK = Settings(sampling_s=0.05, warmup_s=0.02)
ENDLESS = replace(QUICK, sampling_s=60.0, min_samples=10**9, max_samples=10**9)
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Server:
    """An sshd of this test alone; `config` is the client's."""

    def __init__(self, folder: Path, home: Path, python: str = sys.executable, name: str = "board") -> None:
        self.folder, self.home, self._python, self._name = folder, home, python, name
        for name in ("host_key", "other_host_key", "user_key", "other_user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.known, self.config = folder / "known_hosts", folder / "client"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.write_config()
        self.trust()

    def start(self, key: str = "host_key") -> None:
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        probe = bin_folder / "plumbline-probe"
        if not probe.exists():
            source = "from plumbline.harness.probe.server import entry; entry()"
            loaded = [f"{key}={os.environ[key]}" for key in os.environ if key.startswith(READ_WHEN_LOADED) and key not in KEPT]
            probe.write_text(f"#!/bin/sh\nexec {shlex.join(['env', *loaded, self._python])} -c '{source}' \"$@\"\n")
            probe.chmod(0o755)
        (self.folder / "sshd").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.folder / 'authorized'}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f'SetEnv "PATH={bin_folder}:/usr/bin:/bin" "XDG_CACHE_HOME={self.home}" "TMPDIR={self.home}"'
            f' "PLUMBLINE_LOCK={self.home / "lock"}"\n'
        )
        assert SSHD is not None
        Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.folder / "sshd")], stderr=log)
        for _ in range(200):
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.folder / "sshd.log").read_text())

    def write_config(self, key: str = "user_key", host: str = "127.0.0.1") -> None:
        self.config.write_text(
            f"Host {self._name}\n  HostName {host}\n  Port {self.port}\n  IdentityFile {self.folder / key}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.known}\n  GlobalKnownHostsFile /dev/null\n"
        )

    def trust(self, key: str = "host_key") -> None:
        kind, value = (self.folder / f"{key}.pub").read_text().split()[:2]
        self.known.write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            for session in sessions_of(self._process.pid):  # one that was stopped does not end by itself
                with contextlib.suppress(ProcessLookupError):
                    os.kill(session, signal.SIGKILL)
            self._process.terminate()
            self._process.wait()
        self._process = None


@contextmanager
def reached(folder: Path, servers: Mapping[str, Server]) -> Iterator[str]:
    """Make an ssh that knows servers by their names; yields the path on which it is found, and stops them in the end."""
    folder.mkdir()
    (folder / "config").write_text("".join(f'Include "{server.config}"\n' for server in servers.values()))
    (folder / "ssh").write_text(f"#!/bin/sh\nexec '{shutil.which('ssh')}' -F '{folder / 'config'}' \"$@\"\n")
    (folder / "ssh").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    try:
        yield path
    finally:
        for name, server in servers.items():
            close = ["ssh", *elsewhere.ssh_options(), "-O", "exit", name]
            subprocess.run(close, capture_output=True, env={**os.environ, "PATH": path})
            server.stop()


def needed(expected: str) -> None:
    """Skip without an sshd; fail where what takes one was expected."""
    if SSHD is None:
        reason = "expected sshd (Debian: openssh-server), found none"
        pytest.fail(reason) if expected in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str) -> Iterator[Server]:
    """The probe there starts at once."""
    needed("sshd")
    home = tmp_path / "home there"
    home.mkdir()
    folder = tmp_path / "sshd"
    folder.mkdir()
    server = Server(folder, home, python)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with reached(tmp_path / "client", {"board": server}) as path:
        monkeypatch.setenv("PATH", path)
        yield server


@pytest.fixture
def board(sshd: Server) -> Elsewhere:
    return elsewhere_of("ssh:board")


def elsewhere_of(name: str) -> Elsewhere:
    where = at(name)
    assert where is not None
    return Elsewhere(name, where)


# -- commands ---------------------------------------------------------------------------------------------------


def test_a_container_gets_what_it_needs_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-run.sh hands a stand-in for docker these arguments."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\nfor each; do printf "%s\\n" "$each"; done\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    place = elsewhere_of("docker:own:1")

    def given(*arguments: str) -> list[str]:
        return subprocess.run(place.starting(*arguments), capture_output=True, text=True, check=True).stdout.splitlines()

    assert given("--lock", "0", "ann")[-5:] == ["own:1", "plumbline-probe", "--lock", "0", "ann"]
    assert "--gpus" not in given()
    data = tmp_path / "with space" / "mnist"
    data.mkdir(parents=True)
    (tmp_path / "own_nets.py").touch()
    place.uses("cuda:1")
    place.prepare(Needed((data,), None, ("own_nets:plain", "timm:resnet18")), print)
    found = given()
    assert found[found.index("--gpus") + 1] == "all"
    assert f"{data}:/given/data/mnist:ro" in found
    assert f"{tmp_path}:/given/models:ro" in found
    assert found[found.index("--workdir") + 1] == "/given/models"
    assert found[found.index("--network") + 1] == "none"
    assert place.settings(Settings(data=data.parent, cache=tmp_path)).data == Path("/given/data")
    place.prepare(Needed(), print)
    assert "--workdir" not in given(), "what another model needed is forgotten"
    assert place.settings(Settings(data=data.parent, cache=tmp_path)).data is None, "what is not mounted is not there"


@pytest.mark.parametrize(
    ("told", "variable", "refused"),
    [
        ("ssh://ann@orin", "", True),
        ("tcp://10.0.0.7:2375", "", True),
        ("unix:///run/user/1000/docker.sock", "", False),
        ("tcp://127.0.0.1:2375", "", False),
        ("", "ssh://ann@orin", True),
        ("", "", False),
    ],
)
def test_an_engine_on_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, variable: str, refused: bool
) -> None:
    """The script looks at the machine it runs on: its lock, its folders, whether it is a Jetson."""
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n[ $1 = run ] && echo ran && exit\n[ -n '{told}' ] && echo '{told}'\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", variable)
    place = elsewhere_of("docker:own:1")
    ran = subprocess.run(place.starting(), capture_output=True, text=True)
    assert ran.stdout == ("" if refused else "ran\n")
    says = "docker's engine is on another machine; measure there by ssh:HOST/docker:own:1, or unset DOCKER_HOST"
    assert (says in place.explain(ran.stderr, ran.returncode)) == refused


def test_a_container_is_asked_what_it_can_run_with_the_gpus_that_it_will_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which target comes first does not matter."""
    told = {"cpu_flags": [], "cuda": "no GPU", "runtimes": {}, "cpu_model": "x", "cpus": 1}
    docker = tmp_path / "docker"
    without, with_gpus = json.dumps(told), json.dumps({**told, "cuda": None})
    docker.write_text(f"#!/bin/sh\ncase \"$*\" in *--gpus*) echo '{with_gpus}';; *) echo '{without}';; esac\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(places, "_known", dict(places._known))
    assert places.of("docker:own:1").capabilities.cuda == "no GPU"
    assert places.of("docker:own:1@cuda").capabilities.cuda is None
    assert places.of("docker:own:1").capabilities.cuda is None


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (
            "Unable to find image 'x:1' locally\ndocker: Error response from daemon: No such image: x:1.",
            "there is no image x:1 there",
        ),
        ("docker: invalid reference format.", "x:1 is no name of an image"),
        (
            'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
            "no NVIDIA runtime there",
        ),
        ("docker: Error response from daemon: Unknown runtime specified nvidia.", "no NVIDIA runtime there"),
        ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "docker's engine does not run there"),
        ("docker: permission denied while trying to connect to the Docker daemon socket", "this user may not use docker there"),
        ("docker: command not found", "docker is not installed there"),
        ("PermissionError: [Errno 13] Permission denied: '/cache/plumbline'", "Permission denied: '/cache/plumbline'"),
        ("something nobody has seen before", "something nobody has seen before"),
        ("", "it wrote nothing, exit code 3"),
    ],
)
def test_what_docker_says_becomes_a_sentence(said: str, means: str) -> None:
    place = elsewhere_of("docker:x:1")
    assert means in place.explain(said, 3)


# -- over ssh ---------------------------------------------------------------------------------------------------


def test_each_way_to_fail_is_a_sentence(sshd: Server, board: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        subprocess.run(["ssh", *elsewhere.ssh_options(), "-O", "exit", "board"], capture_output=True)
        with pytest.raises(BadPlace) as error:
            _ = board.capabilities
        return str(error.value)

    sshd.known.write_text("")
    assert "its host key is not known yet; plumbline trust board" in reason()
    sshd.trust("other_host_key")
    assert "its host key is another than the one that is known" in reason()
    sshd.trust()
    sshd.write_config(key="other_user_key")
    assert "it does not let this user in (permission denied)" in reason()
    sshd.write_config(host="no-such-host.invalid")
    assert "no such host: board is neither in ~/.ssh/config nor in the DNS" in reason()
    sshd.write_config()
    monkeypatch.setattr(elsewhere, "CONNECT_S", 1)
    sshd.signal(signal.SIGSTOP)
    assert "it does not answer (timed out)" in reason()
    sshd.signal(signal.SIGCONT)
    (sshd.folder / "bin" / "plumbline-probe").rename(sshd.folder / "bin" / "gone")
    assert "plumbline-probe is not on the PATH there" in reason()
    sshd.stop()
    assert "nothing listens for ssh there (connection refused)" in reason()


def test_a_key_is_shown_and_kept_if_it_is_the_right_one(sshd: Server, capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    sshd.known.write_text("")
    right = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")], capture_output=True, text=True
    ).stdout.split()[1]

    def trust(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["plumbline", "trust", "board", *options])
        return main()

    assert trust() == 1, "nobody is there to be asked"
    assert right in capsys.readouterr().out
    assert trust("--fingerprint", "SHA256:other") == 1
    assert sshd.known.read_text() == ""
    assert trust("--fingerprint", right) == 0
    assert trust() == 0
    assert "is known already" in capsys.readouterr().out


def test_a_key_that_has_changed_is_not_taken_beside_the_old_one(sshd: Server, capsys: pytest.CaptureFixture[str],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    sshd.trust("other_host_key")
    before = sshd.known.read_text()
    monkeypatch.setattr(sys, "argv", ["plumbline", "trust", "board"])
    assert main() == 2
    assert "shows another key than the one that is known" in capsys.readouterr().err
    assert sshd.known.read_text() == before


def test_two_that_copy_the_same_at_once_do_not_get_in_the_way(sshd: Server, board: Elsewhere, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    digest, files, total = shipping._digest(folder, remember=False)
    for _ in range(2):  # the second one finds that it is there only when it has it, too
        shipping._send(folder, "a", files, digest, total, board._ssh, print)
    there = sshd.home / "plumbline" / "shipped"
    assert [path.name for path in there.iterdir()] == [digest]
    assert [path.name for path in (there / digest).iterdir()] == ["x"]


def test_folders_are_copied_once_and_checked(sshd: Server, board: Elsewhere, tmp_path: Path) -> None:
    root, lines = tmp_path / "data here", list[str]()
    for name, content in (("a/x.bin", b"x" * 1000), ("a/sub folder/y", b"y"), ("b/z", b"z")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    needed = Needed((root / "a", root / "b"), None, ())
    board.prepare(needed, lines.append)
    there = board.settings(Settings(data=root)).data
    assert there is not None
    assert (there / "a" / "sub folder" / "y").read_bytes() == b"y"
    assert (there / "b" / "z").read_bytes() == b"z"
    assert "copying a: 1 kB of 1 kB" in lines
    lines.clear()
    board.prepare(needed, lines.append)
    assert not [line for line in lines if line.startswith("copying")], "it is there"
    lines.clear()
    (root / "b" / "z").write_bytes(b"changed")
    board.prepare(needed, lines.append)
    assert [line.partition(":")[0] for line in lines if line.startswith("copying")] == ["copying b"]
    assert board.settings(Settings(data=root)).data != there, "what another session reads stays as it is"


def test_what_arrives_damaged_or_not_at_all_is_not_used(sshd: Server, board: Elsewhere, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    needed = Needed((folder,), None, ())
    monkeypatch.setattr(shipping, "DIGEST", f"{shipping.DIGEST} | tr 0-9 1-90")
    with pytest.raises(BadPlace, match="it arrived damaged"):
        board.prepare(needed, print)
    monkeypatch.setattr(shipping, "SPARE_BYTES", 1 << 60)
    with pytest.raises(BadPlace, match=r"'ssh:board': its disk is full: a takes 1 B, and \d.* are free in .*/plumbline/shipped;"):
        board.prepare(needed, print)


def test_a_disk_has_to_have_room_for_all_of_it_and_for_what_is_built_there(
    sshd: Server, board: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first byte is copied; what is there already takes no more."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(name.encode() * 1000)
    wanted = Needed((tmp_path / "a", tmp_path / "b"), built_bytes=10**18)
    says = r"its disk is full: a takes 1 kB, b takes 1 kB, the largest file that is built there takes \d+.0 GB, and .+ are free"
    with pytest.raises(BadPlace, match=says):
        board.prepare(wanted, print)
    assert list((sshd.home / "plumbline" / "shipped").iterdir()) == []
    board.prepare(replace(wanted, built_bytes=0), print)
    board.prepare(wanted, print)


@pytest.mark.parametrize("spare", [0, -(1 << 30)])
def test_a_disk_that_is_full_keeps_nothing_that_is_not_whole(
    sshd: Server, board: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """It is found out before the first byte; or, where others fill it meanwhile, in the middle."""
    disk = sshd.home / "plumbline"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        folder = tmp_path / "pictures"
        folder.mkdir()
        (folder / "small").write_bytes(b"x")
        (folder / "x").write_bytes(bytes(3_000_000))
        monkeypatch.setattr(shipping, "SPARE_BYTES", spare)
        with pytest.raises(BadPlace, match=r"its disk is full: pictures takes 3 MB, and 1 MB are free in .*/shipped;"):
            board.prepare(Needed((folder,)), print)
        assert list((disk / "shipped").iterdir()) == []
        assert board.settings(Settings(data=tmp_path)).data is None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_models_of_the_current_folder_go_along(
    sshd: Server, board: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "my project"
    (here / "nets" / "__pycache__").mkdir(parents=True)
    (here / "nets" / "small.py").write_text("def make(): ...\n")
    (here / "other.py").write_text("")
    (here / "a.onnx").write_bytes(b"onnx")
    (here / "a.onnx.data").write_bytes(b"numbers")
    monkeypatch.chdir(here)
    found = shipping.files_of(here, ["nets.small:make+data=cifar10", "a.onnx", "timm:resnet18", "not_here:make"])
    assert found == [here / "nets", here / "other.py", here / "a.onnx", here / "a.onnx.data"]
    board.prepare(Needed((), None, ("nets.small:make", "a.onnx")), print)
    listing = board.starting()[-1]
    there = subprocess.run(
        [*board.starting()[:-1], listing.replace("plumbline-probe", "find .")], capture_output=True, text=True
    ).stdout
    assert sorted(there.split()) == [".", "./a.onnx", "./a.onnx.data", "./nets", "./nets/small.py", "./other.py"]
    with pytest.raises(shipping.NotShipped, match="expected an ONNX file named from the current folder"):
        shipping.files_of(here, ["../outside.onnx"])


@pytest.mark.slow
def test_the_same_table_from_another_machine(sshd: Server, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench("--tier", "smoke", "--model", SMALLEST.model, "--batch", "1", "--precision", "fp32", "--runtime", "eager",
                "--target", "cpu,ssh:board")  # fmt: skip
    assert run.code == 0, run.output
    here, there = run.records.values()
    assert (here.cell.target, there.cell.target) == ("cpu", "ssh:board")
    assert (here.outcome, there.outcome) == ("ok", "ok")
    assert here.counts == there.counts


# Runs what a container would, without one: it knows one image, and links volumes of GIVEN. The lock stays that of the test.
DOCKER = """#!/bin/sh
[ "$1" = run ] || exit 1
shift
while :; do
  case $1 in
    --env) case $2 in PLUMBLINE_LOCK=*) ;; *) export "$2" ;; esac; shift 2 ;;
    --volume)
      to=${2#*:} && to=${to%:ro}
      case $to in */given/*) mkdir -p "${to%/*}" && ln -sfn "${2%%:*}" "$to" ;; esac
      shift 2 ;;
    --workdir) cd "$2" && shift 2 ;;
    --pull | --network | --shm-size | --user) shift 2 ;;
    --*) shift ;;
    *) break ;;
  esac
done
[ "$1" = own:1 ] || { echo "docker: Error response from daemon: No such image: $1" >&2; exit 125; }
shift
exec "$@"
"""


@pytest.fixture
def docker(sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for docker on the other machine, and on no path of this one."""
    file = sshd.folder / "bin" / "docker"
    file.write_text(DOCKER)
    file.chmod(0o755)
    monkeypatch.setattr(elsewhere, "GIVEN", str(tmp_path / "given"))


@pytest.mark.slow
def test_a_container_on_another_machine_gives_the_same_table(sshd: Server, docker: None, bench: Bench) -> None:
    run = bench("--tier", "smoke", "--model", SMALLEST.model, "--batch", "1", "--precision", "fp32", "--runtime", "eager",
                "--target", "cpu,ssh:board/docker:own:1")  # fmt: skip
    assert run.code == 0, run.output
    here, there = run.records.values()
    assert (here.cell.target, there.cell.target) == ("cpu", "ssh:board/docker:own:1")
    assert (there.outcome, there.counts) == ("ok", here.counts)
    assert "ssh:board/docker:own:1 has no mnist" in run.output


def test_a_container_on_another_machine_gets_what_was_copied_there(
    sshd: Server, docker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "my project"
    (here / "root" / "mnist").mkdir(parents=True)
    (here / "root" / "mnist" / "x").write_bytes(b"x")
    (here / "own_nets.py").touch()
    monkeypatch.chdir(here)
    place = elsewhere_of("ssh:board/docker:own:1")
    with (tmp_path / "log").open("ab") as log:
        connection = Connection(log, place=place, lock_s=0.0)
        place.prepare(Needed((here / "root" / "mnist",), None, ("own_nets:make",)), print, connection.holding)
    data = place.settings(Settings(data=here / "root")).data
    assert data == tmp_path / "given" / "data"
    *ssh, command = place.starting()
    listing = command.replace("plumbline-probe", f"find -L . {data} -type f")
    found = subprocess.run([*ssh, listing], capture_output=True, text=True)
    assert found.stdout.split() == ["./own_nets.py", f"{data}/mnist/x"], found.stderr


def test_an_image_that_is_missing_on_another_machine_is_said(sshd: Server, docker: None) -> None:
    with pytest.raises(BadPlace, match=r"'ssh:board/docker:gone:1' does not answer as a probe: there is no image gone:1 there"):
        _ = elsewhere_of("ssh:board/docker:gone:1").capabilities


def test_a_board_on_which_somebody_measures_names_them(sshd: Server, board: Elsewhere, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("PLUMBLINE_LOCK", str(sshd.home / "lock"))
    held = lock_machine(0, "ann@desk")
    try:
        with (tmp_path / "log").open("wb") as log, pytest.raises(Exception, match=r"another session \(ann@desk, since .* UTC"):
            Connection(log, place=board, lock_s=0.0).start()
    finally:
        held.release()


@pytest.mark.slow
def test_nothing_is_copied_beside_a_measurement(sshd: Server, board: Elsewhere, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Two sessions race for a board: the second one copies nothing, and the first one has the lock while it copies."""
    monkeypatch.setenv("PLUMBLINE_LOCK", str(sshd.home / "lock"))
    folder, told = tmp_path / "mnist", list[str]()
    folder.mkdir()
    (folder / "x").write_bytes(b"x")

    def watch(text: str) -> None:
        if text.startswith("copying"):
            with pytest.raises(Busy, match=r"another session \("):
                lock_machine(0, "bob@desk")
            told.append(text)

    with (tmp_path / "log").open("ab") as log:
        connection = Connection(log, place=board, lock_s=0.0)
        held = lock_machine(0, "ann@desk")
        with pytest.raises(Busy, match=r"ssh:board: another session \(ann@desk"):
            board.prepare(Needed((folder,)), watch, connection.holding)
        held.release()
        assert list((sshd.home / "plumbline" / "shipped").iterdir()) == []
        board.prepare(Needed((folder,)), watch, connection.holding)
        assert told == ["copying mnist: 1 B of 1 B"]
        lock_machine(0, "bob@desk").release()
        monkeypatch.setattr(connection, "holding", None)
        board.prepare(Needed((folder,)), watch, connection.holding)  # it is there, and no lock is taken


@pytest.mark.slow
@pytest.mark.parametrize("loss", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_connection_ends_the_cell_there_and_the_next_one_runs(
    sshd: Server, board: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: signal.Signals
) -> None:
    """A hang-up, and a network that falls silent: each side finds out for itself."""
    monkeypatch.setattr(elsewhere, "ALIVE_S", 1)
    board.silence_s = 4.0
    with (tmp_path / "log").open("ab") as log:
        connection = Connection(log, place=board, lock_s=0.0)
        probe = CellProbe(connection, SMALLEST, ENDLESS)
        probe.agreement()
        working = at_work(sshd)
        assert len(working) >= 3, "the probe, its listener and the cell"
        os.kill(session_of(sshd), loss)
        with pytest.raises(CellEnded, match="connection lost") as lost:
            probe.latency()
        assert lost.value.outcome == "crashed"
        again = CellProbe(connection, SMALLEST, QUICK)
        again.agreement()
        assert isinstance(again.latency(), Latency)
        assert all_end(working), "what ran there has made room"
        connection.close()
    assert list(sshd.home.glob("plumbline-*")) == []


@pytest.mark.slow
def test_a_cell_of_a_silent_session_is_ended_there(sshd: Server, board: Elsewhere, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Its ssh is there, and answers; nothing is heard of the session itself."""
    monkeypatch.setattr(client, "BEATS", 1e-3)
    board.silence_s = 1.0
    with (tmp_path / "log").open("ab") as log:
        connection = Connection(log, place=board, lock_s=0.0)
        probe = CellProbe(connection, SMALLEST, ENDLESS)
        with pytest.raises(CellEnded, match="nothing was heard of the session for 1 s"):
            probe.latency()
        connection.close()
    with FileLock(sshd.home / "lock", timeout=10):
        assert list(sshd.home.glob("plumbline-*")) == []


@pytest.mark.slow
def test_a_session_that_is_killed_leaves_nothing_there(sshd: Server, board: Elsewhere, tmp_path: Path) -> None:
    """As Ctrl-C does it."""
    with (tmp_path / "log").open("ab") as log:
        connection = Connection(log, place=board, lock_s=0.0)
        probe = CellProbe(connection, SMALLEST, QUICK)
        probe.prepared()
        working = at_work(sshd)
        assert len(working) >= 3, "the probe, its listener and the cell"
        connection.kill()
    assert all_end(working)


def session_of(sshd: Server) -> int:
    """The process of sshd that serves our connection."""
    assert sshd._process is not None
    return sessions_of(sshd._process.pid)[-1]


def sessions_of(sshd: int) -> list[int]:
    return list(map(int, subprocess.run(["pgrep", "-P", str(sshd)], capture_output=True, text=True).stdout.split()))


def at_work(sshd: Server) -> set[int]:
    """The probe there, which has the lock, its listener and its cell."""
    everyone = set(map(int, filter(str.isdigit, os.listdir("/proc"))))
    (probe,) = (pid for pid in everyone if str(sshd.home / "lock") in open_files(pid))
    return {pid for pid in everyone if session_id(pid) == session_id(probe)}


def open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(each.path) for each in os.scandir(f"/proc/{pid}/fd")}
    except OSError:  # it has ended
        return set()


def session_id(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def all_end(pids: set[int]) -> bool:
    """Whether they do, in ten seconds."""
    for _ in range(200):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def test_a_place_that_nobody_knows_is_said() -> None:
    with pytest.raises(BadPlace, match=r"no target 'nowhere'; known: cpu, cuda, cuda:1, docker:IMAGE, ssh:HOST"):
        places.find("nowhere")
