"""What is made of a lab's command line: a labgrid-client of this test stands for it (the real one: test_labgrid.py)."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.cli import main
from plumbline.harness.session import lab, places
from plumbline.harness.session.lab import Lab, Listed
from plumbline.harness.session.places import BadPlace
from plumbline.harness.target import BadTarget, Target, in_lab
from tests.conftest import Run

Bench = Callable[..., Run]

# Its state is a file: places with tags, holder and whether others have reserved them; `fails` says which command fails, and how.
CLIENT = """
import json, os, sys, time
from pathlib import Path

file, arguments = Path(os.environ["FAKE_LAB"]), sys.argv[1:]
def keep():
    new = file.with_name(f"state.{os.getpid()}")
    new.write_text(json.dumps(state))
    new.replace(file)

state = json.loads(file.read_text())
me = os.environ.get("LG_HOSTNAME", "desk") + "/" + os.environ.get("LG_USERNAME", "ann")
name = arguments.pop(arguments.index("-p") + 1) if "-p" in arguments else None
command = [word for word in arguments if not word.startswith("-")][0]
state["calls"].append([command, *filter(None, [name])])
keep()
if command in state["fails"]:
    sys.exit(state["fails"][command])
if command == "places":
    for each, (tags, holder, _) in state["places"].items():
        shown = ", ".join(f"{key}={value}" for key, value in tags.items())
        print(f"Place '{each}':\\n  tags: {shown}\\n  matches:\\n    here/{each}/NetworkService\\n  acquired: {holder}")
elif command == "reserve":
    state["wanted"] = [word for word in arguments if "=" in word]
    print("export LG_TOKEN=TOKEN")
elif command == "wait":
    def fits(each):
        tags, holder, reserved = state["places"][each]
        return not holder and not reserved and {*state["wanted"]} <= {f"name={each}", *(f"{k}={v}" for k, v in tags.items())}
    while not (free := [each for each in state["places"] if fits(each)]):
        time.sleep(0.05)
        state = json.loads(file.read_text())
    print(f"owner: {me}\\ntoken: TOKEN\\nstate: waiting\\nowner: {me}\\nstate: allocated\\nallocations:\\n  main: {free[0]}")
elif command == "acquire":
    state["places"][name][1] = me
elif command == "release-from":
    if state["places"][name][1] is None:
        sys.exit(f"labgrid-client: Error: place {name} is not acquired")
    if state["places"][name][1] == arguments[-1]:
        state["places"][name][1] = None
if command != "wait":
    keep()
"""


class Fake:
    """The lab of a test: orin-1, orin-2 and nano-1."""

    def __init__(self, file: Path) -> None:
        self._file = file
        orin = {"board": "orin", "gib": "8"}
        self.write(
            places={"orin-1": [orin, None, False], "orin-2": [orin, None, False], "nano-1": [{"board": "nano"}, None, False]},
            fails={}, calls=[],
        )  # fmt: skip

    def write(self, **fields: Any) -> None:
        new = self._file.with_name("state.new")
        new.write_text(json.dumps({**(self.state if self._file.exists() else {}), **fields}))
        new.replace(self._file)

    def held(self, name: str, holder: str | None, reserved: bool = False) -> None:
        listed = self.state["places"]
        listed[name][1:] = [holder, reserved]
        self.write(places=listed)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    @property
    def holders(self) -> dict[str, str]:
        return {name: holder for name, (_, holder, _) in self.state["places"].items() if holder}

    @property
    def calls(self) -> list[list[str]]:
        calls: list[list[str]] = self.state["calls"]
        return calls


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "client.py").write_text(CLIENT)
    (tools / "labgrid-client").write_text(
        f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(tools / "client.py")])} "$@"\n'
    )
    (tools / "labgrid-client").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LAB", str(tmp_path / "state.json"))
    for variable, value in (("LG_HOSTNAME", "desk"), ("LG_USERNAME", "ann")):
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(places, "_known", dict(places._known))
    return Fake(tmp_path / "state.json")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a lab that is not closed would leave to the next test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def said() -> list[str]:
    return []


# -- how it is written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "device"),
    [
        ("lab:board=orin+gib=8", ("board=orin", "gib=8"), "cpu"),
        ("lab:board=orin@cuda:1", ("board=orin",), "cuda:1"),
        ("lab:orin-1", ("name=orin-1",), "cpu"),
    ],
)
def test_a_lab_is_asked_by_tags_or_by_a_name(text: str, wanted: tuple[str, ...], device: str) -> None:
    target = Target.parse(text)
    assert (in_lab(target.place), target.device) == (wanted, device)
    assert Target.parse(target.name) == target


@pytest.mark.parametrize(
    "text", ["lab:", "lab:board=", "lab:=orin", "lab:board=orin+", "lab:board=orin+gib", "lab:b=1", "lab:@cuda"]
)
def test_what_asks_a_lab_for_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadTarget, match=r"expected lab:NAME or lab:TAG=VALUE\+TAG=VALUE, as lab:board=orin\+gib=8; got 'lab:"):
        Target.parse(text)


def test_a_file_of_places_names_no_lab(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text('[place."lab:orin-1"]\ncommand = ["true"]\n')
    with pytest.raises(BadPlace, match="'lab:orin-1': expected a command, and a name that is no device"):
        places.load(tmp_path / "targets.toml")


def test_a_matrix_cannot_ask_a_lab() -> None:
    with pytest.raises(BadPlace, match=r"'lab:board=orin': a lab hands a board out to who asks on the command line; .* --target"):
        places.find("lab:board=orin")


# -- what a board is called here --------------------------------------------------------------------------------


def test_a_place_of_the_lab_is_that_of_the_file_or_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_known", dict(places._known))
    (tmp_path / "targets.toml").write_text('[place.orin-1]\ncommand = ["ssh", "10.0.0.7", "plumbline-probe"]\n')
    places.load(tmp_path / "targets.toml")
    assert [lab.place_of(name) for name in ("orin-1", "orin-2", "cpu")] == ["orin-1", "ssh:orin-2", "ssh:cpu"]
    for name in ("rack 1/orin", "orin@cuda", "-oProxyCommand=x"):
        with pytest.raises(
            BadPlace, match=r"expected the lab to name a place of targets.toml or a host for ssh, got '.*'; rename"
        ):
            lab.place_of(name)


def test_places_are_read() -> None:
    text = (
        "Place 'orin-1':\n  comment: tags: none\n  tags: board=orin, gib=8\n  matches:\n    lab/orin-1/NetworkService\n"
        "  acquired: vm/root\n  acquired resources:\n    lab/orin-1/NetworkService/NetworkService\n  created: x\n"
        "Place 'bare':\n  matches:\n  acquired: None\n  acquired resources:\n"
    )
    assert lab.parse(text) == [Listed("orin-1", frozenset({"board=orin", "gib=8"}), "vm/root"), Listed("bare", frozenset(), None)]
    assert lab.parse("") == []


# -- handing out ------------------------------------------------------------------------------------------------


def test_a_board_is_reserved_acquired_and_given_back(fake: Fake, said: list[str]) -> None:
    taken = Lab(said.append)
    assert taken.hand_out(["lab:board=orin+gib=8@cuda", "cpu"]) == ["ssh:orin-1@cuda", "cpu"]
    assert fake.holders == {"orin-1": "desk/ann"}
    assert fake.calls[-1] == ["cancel-reservation"], "one that stays keeps the place for a minute after it was released"
    taken.close()
    taken.close()
    assert fake.holders == {}
    assert fake.calls[-1] == ["release-from", "orin-1"]
    assert said == [
        "the lab has handed out orin-1 for board=orin gib=8; should this session be killed: "
        "labgrid-client -p orin-1 release-from desk/ann",
        "orin-1 is given back to the lab",
    ]


@pytest.mark.parametrize(
    ("targets", "boards"),
    [
        (["lab:board=orin", "lab:board=orin@cuda"], ["ssh:orin-1", "ssh:orin-1@cuda"]),
        (["lab:board=orin", "lab:board=orin"], ["ssh:orin-1", "ssh:orin-2"]),
        (["lab:board=orin", "lab:orin-1", "lab:orin-1"], ["ssh:orin-2", "ssh:orin-1", "ssh:orin-1"]),
        (["cpu"], ["cpu"]),
    ],
)
def test_another_device_is_the_same_board_and_the_same_again_another(
    fake: Fake, said: list[str], targets: list[str], boards: list[str]
) -> None:
    taken = Lab(said.append)
    assert taken.look_up(targets) == boards
    assert fake.holders == {}
    try:
        assert taken.hand_out(targets) == boards
    finally:
        taken.close()
    assert fake.holders == {}


def test_what_a_run_was_measured_on_it_gets_again(fake: Fake, said: list[str]) -> None:
    taken = Lab(said.append)
    assert taken.look_up(["lab:board=orin"], {"ssh:orin-2"}) == ["ssh:orin-2"]
    assert taken.hand_out(["lab:board=orin"], {"ssh:orin-2"}) == ["ssh:orin-2"]
    taken.close()
    fake.held("orin-2", "desk/bob")
    with pytest.raises(BadPlace, match="no board with board=orin is free: orin-2 is held by desk/bob"):
        Lab(said.append).hand_out(["lab:board=orin"], {"ssh:orin-2"})


def test_who_waits_is_told_for_whom(fake: Fake, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "HANDS_OUT_S", 0.2)
    fake.held("orin-1", "desk/bob")
    fake.held("orin-2", None, reserved=True)
    taken = Lab(said.append, wait_s=60.0)
    free = threading.Timer(1.0, lambda: fake.held("orin-1", None))
    free.start()
    try:
        assert taken.hand_out(["lab:board=orin"]) == ["ssh:orin-1"]
    finally:
        free.join()
        taken.close()
    assert said[0] == "waiting for a board with board=orin: orin-2 is reserved, orin-1 is held by desk/bob"


@pytest.mark.parametrize(("wait_s", "words"), [(0.0, "is free: "), (0.3, r"is free in 0\.3 s: ")])
def test_what_is_held_for_good_is_said_and_how_to_free_it(
    fake: Fake, said: list[str], monkeypatch: pytest.MonkeyPatch, wait_s: float, words: str
) -> None:
    monkeypatch.setattr(lab, "HANDS_OUT_S", 0.1)
    for name, holder in (("orin-1", "desk/bob"), ("orin-2", "ci/job")):
        fake.held(name, holder)
    says = (
        f"no board with board=orin {words}orin-1 is held by desk/bob, orin-2 is held by ci/job; wait for it: --wait SECONDS; "
        "if desk/bob is gone for good: labgrid-client -p orin-1 release-from desk/bob"
    )
    with pytest.raises(BadPlace, match=says):
        Lab(said.append, wait_s).hand_out(["lab:board=orin"])
    assert fake.holders == {"orin-1": "desk/bob", "orin-2": "ci/job"}
    assert fake.calls[-1] == (["cancel-reservation"] if wait_s else ["places"]), "nothing is left in the lab's queue"


def test_a_reservation_that_never_comes_is_cancelled(fake: Fake, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "HANDS_OUT_S", 0.1)
    for name in ("orin-1", "orin-2"):
        fake.held(name, None, reserved=True)
    with pytest.raises(BadPlace, match="no board with board=orin is free: orin-1 is reserved, orin-2 is reserved"):
        Lab(said.append).hand_out(["lab:board=orin"])
    assert fake.calls[-1] == ["cancel-reservation"]


@pytest.mark.parametrize("target", ["lab:board=xavier", "lab:board"])
def test_a_board_that_no_lab_has_is_said_with_those_it_has(fake: Fake, said: list[str], target: str) -> None:
    with pytest.raises(BadPlace, match=r"got orin-1 \(board=orin gib=8\), orin-2 \(board=orin gib=8\), nano-1 \(board=nano\)"):
        Lab(said.append).hand_out([target])
    assert fake.calls == [["places"]]


def test_more_boards_than_there_are(fake: Fake, said: list[str]) -> None:
    taken = Lab(said.append)
    with pytest.raises(BadPlace, match="expected another place of the lab with board=orin, got no more than orin-1, orin-2"):
        taken.look_up(["lab:board=orin"] * 3)
    with pytest.raises(BadPlace, match="no board with board=orin is free: orin-1 is held by desk/ann") as error:
        taken.hand_out(["lab:board=orin"] * 3)
    assert "gone for good" not in str(error.value), "who holds them is this session"
    taken.close()
    assert fake.holders == {}


# -- what fails -------------------------------------------------------------------------------------------------


def test_without_labgrid_it_is_said_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BadPlace, match="expected labgrid-client on the PATH, got none; install labgrid in an environment of its own"
    ):
        Lab(said.append).hand_out(["lab:board=orin"])


@pytest.mark.parametrize(
    ("command", "writes", "means"),
    [
        ("places", "ERROR root: coordinator is unavailable\nServer error: Error: Could not connect to coordinator",
         r"the coordinator at lab\.example:20408 does not answer; see whether labgrid-coordinator runs, or set \$LG_COORDINATOR"),
        ("reserve", "labgrid-client: Error: Key 'k' in filter 'k=1' is invalid", "reserve --shell board=orin: Key 'k' in filter"),
        ("wait", "", "expected labgrid-client to reserve a place, got nothing"),
        ("acquire", "labgrid-client: Error: Match x has no matching remote resource", "see whether its labgrid-exporter runs"),
        ("acquire", "labgrid-client: Error: Place orin-1 is already acquired by a/b.", "Place orin-1 is already acquired by a/b"),
    ],
)  # fmt: skip
def test_what_labgrid_says_becomes_a_sentence(
    fake: Fake, said: list[str], monkeypatch: pytest.MonkeyPatch, command: str, writes: str, means: str
) -> None:
    monkeypatch.setenv("LG_COORDINATOR", "lab.example:20408")
    fake.write(fails={command: writes})
    taken = Lab(said.append)
    with pytest.raises(BadPlace, match=means):
        taken.hand_out(["lab:board=orin"])
    taken.close()
    assert fake.holders == {}
    assert ["release-from", "orin-1"] not in fake.calls, "what was not acquired may be another's"
    assert (["cancel-reservation"] in fake.calls) == (command in ("wait", "acquire"))


def test_a_lab_that_hangs_is_not_waited_for(fake: Fake, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "ANSWERS_S", 0.1)
    (tmp_path / "tools" / "labgrid-client").write_text("#!/bin/sh\nexec sleep 1000\n")
    with pytest.raises(BadPlace, match=r"labgrid-client -v places: it has not answered in 0\.1 s"):
        Lab(said.append).hand_out(["lab:board=orin"])


def test_what_cannot_be_given_back_is_said_with_the_command(fake: Fake, said: list[str]) -> None:
    taken = Lab(said.append)
    taken.hand_out(["lab:orin-1", "lab:orin-2", "lab:nano-1"])
    fake.held("orin-2", None)
    fake.held("orin-1", "ci/job")
    taken.close()
    assert fake.holders == {"orin-1": "ci/job"}, "what the lab has given to another stays theirs"
    assert "the lab had forgotten who has orin-2, as a restarted coordinator does; others may have waited for its lock" in said
    taken.hand_out(["lab:nano-1"])
    fake.write(fails={"release-from": "Server error: Error: Could not connect to coordinator"})
    taken.close()
    assert said[-1].startswith("nano-1 is not given back: ")
    assert said[-1].endswith("later: labgrid-client -p nano-1 release-from desk/ann")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("while_", ["it starts", "it runs"])
def test_what_ends_the_session_while_it_acquires_gives_the_board_back(
    fake: Fake, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_: str, number: signal.Signals
) -> None:
    """The command is not interrupted: whether the board is acquired would not be known."""
    client = tmp_path / "tools" / "labgrid-client"
    ends = f"kill -{number} {os.getpid()};" if while_ == "it runs" else ""
    client.write_text(client.read_text().replace("exec", f'case "$*" in *acquire*) {ends} sleep 0.5;; esac\nexec'))
    started = lab._started

    def starts(*arguments: str) -> Any:
        running = started(*arguments)
        if "acquire" in arguments and while_ == "it starts":
            signal.raise_signal(number)
        return running

    monkeypatch.setattr(lab, "_started", starts)
    taken = Lab(said.append)
    with pytest.raises(KeyboardInterrupt):
        taken.hand_out(["lab:orin-1"])
    assert fake.holders == {"orin-1": "desk/ann"}
    taken.close()
    assert fake.holders == {}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_user_of_labgrid_has_set_what_means_something_else(
    fake: Fake, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Path(os.environ["FAKE_LAB"]).with_name("seen")
    client = Path(os.environ["PATH"].partition(":")[0]) / "labgrid-client"
    client.write_text(client.read_text().replace("exec", f"env > '{seen}'\nexec"))
    for variable in lab.NOT_OURS:
        monkeypatch.setenv(variable, "theirs")
    Lab(said.append).look_up(["lab:orin-1"])
    assert "theirs" not in seen.read_text()


# -- from the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--target", "lab:"), pytest.ExitCode.USAGE_ERROR, "--target: expected lab:NAME or lab:TAG=VALUE+TAG=VALUE"),
        (
            ("--target", "lab:board=xavier"),
            pytest.ExitCode.USAGE_ERROR,
            "expected a place of the lab with board=xavier, got orin-1",
        ),
        (("--target", "lab:board=orin", "--run-dir", "/dev/null/run"), pytest.ExitCode.USAGE_ERROR, "cannot hold a run"),
        (("--target", "lab:board=orin,cpu", "--pdb"), pytest.ExitCode.USAGE_ERROR, "--pdb asks at one place"),
        (("--target", "lab:board=orin", "--resume", "/dev/null"), pytest.ExitCode.USAGE_ERROR, "holds no run"),
        (("--target", "lab:board=orin", "--model", "no_such_model"), pytest.ExitCode.USAGE_ERROR, "no_such_model"),
        (("--target", "lab:board=orin"), pytest.ExitCode.USAGE_ERROR, "target 'orin-1' does not answer: "),
        (("--target", "lab:board=orin", "--plan"), pytest.ExitCode.USAGE_ERROR, "as if the lab had handed out orin-1"),
    ],
)
def test_a_session_that_cannot_begin_leaves_nothing_in_the_lab(
    fake: Fake, bench: Bench, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    dead = tmp_path / "dead.toml"
    dead.write_text('[place.orin-1]\ncommand = ["no-such-command"]\n')
    run = bench("--targets", str(dead), *options)
    assert run.code == code, run.output
    assert words in run.output
    assert fake.holders == {}
    assert (["acquire", "orin-1"] in fake.calls) == (["release-from", "orin-1"] in fake.calls)
    refused_first = {"--run-dir", "--pdb", "--resume", "--model"} & set(options)
    assert not refused_first or ["acquire", "orin-1"] not in fake.calls
    assert ("is given back" in run.output) == (["acquire", "orin-1"] in fake.calls)


def test_a_command_gives_its_board_back(fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(places, "FILE", Path(os.environ["FAKE_LAB"]).with_name("targets.toml"))
    places.FILE.write_text('[place.orin-1]\ncommand = ["false"]\n')
    monkeypatch.setattr(sys, "argv", ["plumbline", "doctor", "--target", "lab:board=orin+gib=8"])
    assert main() == 2
    written = capsys.readouterr().err
    assert "the lab has handed out orin-1 for board=orin gib=8" in written
    assert "orin-1" in written.splitlines()[-1]
    assert fake.holders == {}
    assert fake.calls[-1] == ["release-from", "orin-1"]
