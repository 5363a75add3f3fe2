"""The gate as a whole: on connections that answer from a list, and once with real processes on a repository of one's own."""

from __future__ import annotations

import random
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from filelock import FileLock, Timeout

from plumbline.harness import timing
from plumbline.harness.boot import BOOT
from plumbline.harness.facts import Energy, Outputs
from plumbline.harness.messages import Ended, Exited
from plumbline.harness.readings import read
from plumbline.harness.session import environments
from plumbline.harness.session.places import BadPlace, Here, Place
from plumbline.harness.session.revisions import Difference, Tree
from plumbline.harness.session.selection import Selection
from plumbline.harness.settings import Settings
from plumbline.harness.studies import gate as gates
from plumbline.harness.studies.gate import (
    COULD_NOT_TELL,
    FINE,
    SLOWER_CODE,
    GateError,
    Report,
    exact,
    gate,
    processes,
    schedule,
    sides,
)
from plumbline.harness.studies.gate.exact import Facts
from plumbline.harness.studies.gate.sides import Impossible, Side
from plumbline.harness.verdicts import regression
from plumbline.harness.verdicts.regression import INCOMPARABLE, MISSING, NEW, REGRESSED, UNCHANGED, WITHIN_NOISE
from plumbline.harness.views import gate as view
from tests.fake import FakeConnection
from tests.harness.session.test_elsewhere import Server, sshd  # noqa: F401
from tests.records import cell_of, counts_of, prepared_of, replace

SAME = Outputs([1.0, 2.0], [1.0, 2.0], 0.5)


class Simulated:
    """Three connections in the place of probes: a turn of the head takes `head_s`, with noise; of the others a millisecond."""

    def __init__(self, head_s: float = 1e-3, noise: float = 0.005, **head: Any) -> None:
        self._chance, self._head_s, self._noise, self._head = random.Random(0), head_s, noise, head
        self.made: list[FakeConnection] = []

    def __call__(self, log: object, *, progress: object, place: Here, keep: object) -> FakeConnection:
        side = ("base", "head", "twin")[len(self.made)]
        new = side != "base"
        connection = FakeConnection(
            turn=lambda: (self._head_s if new else 1e-3) * self._chance.lognormvariate(0, self._noise),
            outputs=self._head.get("outputs", SAME) if new else SAME,
            counts=self._head.get("counts") if new else None,
            prepared=self._head.get("prepared") if new else None,
            dies_at=self._head.get("dies_at") if new else None,
            ending=self._head.get("ending", ()) if new else (),
            memory={"process_peak": read("byte", "process", 1e8 * (self._head.get("peak", 1) if side == "head" else 1))},
            energy={
                "meter": Energy(joules=0.5 * (self._head.get("energy", 1) if side == "head" else 1)),
                "silent": Energy(unavailable="it is not there"),
                "guess": Energy(joules=9.0 if side == "head" else 1.0, estimate=True),
            },
            sources=self._head.get("sources", ["net.py"]),
        )
        connection.place = place
        self.made.append(connection)
        return connection


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Report]:
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(timing, "quiet", nullcontext)  # the garbage of all of pytest is large

    def run(connect: Simulated, base: list[str] | None = None, head: list[str] | None = None, **how: Any) -> Report:
        monkeypatch.setattr(gates, "Connection", connect)
        here = how.pop("place", Here())
        here.root = tmp_path
        said = how.pop("said", [])
        base_side, head_side = (
            Side(
                name,
                here,
                how.pop(f"{name}_cells", {model: cell_of(model) for model in models}),
                how.pop(f"{name}_impossible", {}),
                how.pop(f"{name}_broken", None),
                how.pop(f"{name}_differs", None),
            )
            for name, models in (("base", base or ["mlp"]), ("head", head or ["mlp"]))
        )
        return gate(
            base_side,
            head_side,
            here,
            how.pop("settings", Settings()),
            how.pop("folder", tmp_path / "run"),
            say=said.append,
            **how,
        )

    return run


def test_what_is_the_same_is_within_noise(run: Callable[..., Report]) -> None:
    report = run(Simulated())
    assert (report.rows[0].judgement.verdict, report.distrust, report.code) == (WITHIN_NOISE, [], FINE)
    assert [control.judgement.verdict for control in report.controls] == [WITHIN_NOISE, WITHIN_NOISE, REGRESSED]


def test_a_slower_head_regresses_and_is_named(run: Callable[..., Report]) -> None:
    report = run(Simulated(head_s=1.06e-3), ["mlp"], ["mlp"])
    judged = report.rows[0].judgement
    assert (report.rows[0].name, judged.verdict, report.code) == ("mlp", REGRESSED, SLOWER_CODE)
    assert judged.effect == pytest.approx(0.06, abs=0.01)
    assert "regressed" in view.text(report) and "+6." in view.text(report)


def test_another_function_is_said_before_its_speed(run: Callable[..., Report]) -> None:
    other = Outputs([1.0, 2.0], [1.0, 2.1], 0.5)
    report = run(Simulated(outputs=other))
    assert report.code == SLOWER_CODE
    assert "another function" in report.rows[0].judgement.reason and report.rows[0].judgement.pairs


@pytest.mark.parametrize(("allowed", "code"), [([], SLOWER_CODE), (["function", "size"], FINE)])
def test_what_is_exact_can_be_waved_through(run: Callable[..., Report], allowed: list[str], code: int) -> None:
    more = replace(counts_of(), macs=counts_of().macs + 1)
    report = run(Simulated(outputs=Outputs([0.0], [0.0], 1.0), counts=more), allowed=allowed)
    assert report.code == code
    assert any("MACs" in change for change in report.rows[0].changes), "and is told of all the same"


def test_cells_of_one_side_are_missing_or_new(run: Callable[..., Report]) -> None:
    report = run(Simulated(), ["mlp", "small_cnn"], ["mlp", "resnet20"])
    assert {row.name: row.judgement.verdict for row in report.rows} == {
        "mlp": WITHIN_NOISE,
        "small_cnn": MISSING,
        "resnet20": NEW,
    }
    assert report.code == COULD_NOT_TELL


def test_a_head_that_cannot_run_a_cell_any_more_misses_it(run: Callable[..., Report]) -> None:
    report = run(Simulated(), head_impossible={"mlp": "it takes no such batch"})
    assert report.rows[0].judgement.verdict == MISSING and "no such batch" in report.rows[0].judgement.reason


def test_what_runs_on_neither_side_is_told_of(run: Callable[..., Report]) -> None:
    why = {"small_cnn": "no library"}
    report = run(Simulated(), ["mlp", "small_cnn"], ["mlp", "small_cnn"], base_impossible=why, head_impossible=why)
    assert (report.skipped, report.code) == (why, FINE) and "no library" in view.text(report)


def test_what_loads_nothing_that_has_changed_is_not_timed(run: Callable[..., Report], tmp_path: Path) -> None:
    connect = Simulated(head_s=1.2e-3, sources=["models/a.py", "models/b.py"])
    report = run(
        connect, ["mlp", "small_cnn"], ["mlp", "small_cnn"], head_differs=Difference(frozenset({"models/c.py"}), frozenset())
    )
    assert [row.judgement.verdict for row in report.rows] == [UNCHANGED, UNCHANGED]
    assert (report.code, report.controls, report.distrust) == (FINE, [], [])
    assert connect.made[0].sent == [], "the base would have said the same"
    assert "2 cells unchanged" in view.text(report) and "2 unchanged" in view.summary(report)
    assert ElementTree.fromstring(view.junit(report)).get("tests") == "2"
    again = run(Simulated(), ["mlp", "small_cnn"], ["mlp", "small_cnn"], resume=True,
                head_differs=Difference(frozenset({"models/c.py"}), frozenset()))  # fmt: skip
    assert again.rows == report.rows


@pytest.mark.parametrize(
    ("sources", "differs"),
    [
        (["a.py", "b.py"], Difference(frozenset({"b.py"}), frozenset())),
        (["a.py"], Difference(frozenset({"b.py"}), frozenset({"table.csv"}))),
        (["a.py"], None),
    ],
    ids=["it loads what has changed", "it may read what has changed", "more than files may differ"],
)
def test_what_may_have_changed_is_timed(run: Callable[..., Report], sources: list[str], differs: Difference | None) -> None:
    report = run(Simulated(head_s=1.2e-3, sources=sources), head_differs=differs)
    assert report.rows[0].judgement.verdict == REGRESSED


def test_what_loads_nothing_of_either_revision_is_not_compared(run: Callable[..., Report]) -> None:
    """It would be the same net twice, and within noise whatever was changed."""
    report = run(Simulated(sources=["import torch"]), head_differs=Difference(frozenset({"b.py"}), frozenset()))
    assert (report.rows[0].judgement.verdict, report.code) == (INCOMPARABLE, COULD_NOT_TELL)
    assert "loads nothing of the revision" in report.rows[0].judgement.reason


def test_of_other_packages_alone_a_net_needs_no_file_of_its_own(run: Callable[..., Report], tmp_path: Path) -> None:
    differs = Difference(frozenset({"import onnxruntime"}), frozenset(), revisions=False)
    loads = ["import torch"], ["import onnxruntime", "import torch"]
    connects = [Simulated(head_s=1.2e-3, sources=each) for each in loads]
    reports = [run(connect, head_differs=differs, folder=tmp_path / str(number)) for number, connect in enumerate(connects)]
    assert [report.rows[0].judgement.verdict for report in reports] == [UNCHANGED, REGRESSED]


def test_another_cell_under_the_same_name_is_timed(run: Callable[..., Report]) -> None:
    """Its code is the same; what it is asked for is not."""
    other = {"mlp": cell_of("mlp", batch=2)}
    report = run(Simulated(), head_cells=other, head_differs=Difference(frozenset(), frozenset()))
    assert report.rows[0].judgement.verdict == WITHIN_NOISE


def test_what_ends_on_the_head_is_tried_on_the_base(run: Callable[..., Report]) -> None:
    """Memory may have run out by chance."""
    connect = Simulated(dies_at="agreement", ending=[Ended("failed", "RMS error 1"), Exited("cell")])
    report = run(connect, head_differs=Difference(frozenset(), frozenset()))
    assert report.rows[0].judgement.verdict == REGRESSED and connect.made[0].sent


def test_a_gate_on_a_folder_that_holds_one_is_refused(run: Callable[..., Report]) -> None:
    run(Simulated())
    with pytest.raises(GateError, match="--resume"):
        run(Simulated())


def test_a_gate_goes_on_where_it_was(run: Callable[..., Report], tmp_path: Path) -> None:
    first = run(Simulated())
    journal = tmp_path / "run" / gates.JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:10])  # it was cut off in the middle of the third pair
    connect = Simulated()
    again = run(connect, resume=True)
    assert (first.code, again.code) == (FINE, FINE)
    assert len(journal.read_bytes().splitlines()) == len(lines)
    asked = [question for connection in connect.made for question in connection.asked()]
    assert "outputs" not in asked, "what is exact is known"
    with pytest.raises(GateError, match="is another gate"):
        run(Simulated(), resume=True, settings=Settings(seed=1))


def test_a_base_that_cannot_be_measured_is_incomparable(run: Callable[..., Report]) -> None:
    report = run(Simulated(), base_broken="the base has no models/")
    assert {row.judgement.verdict for row in report.rows} == {INCOMPARABLE} and report.code == COULD_NOT_TELL
    assert "no models/" in view.text(report)


def test_more_memory_is_a_regression(run: Callable[..., Report]) -> None:
    report = run(Simulated(peak=1.05))
    assert report.code == SLOWER_CODE and report.rows[0].judgement.reason == "peak memory +5.0%"


def test_more_energy_is_a_regression_by_a_meter_that_measures(run: Callable[..., Report], tmp_path: Path) -> None:
    report = run(Simulated(energy=1.05))
    assert report.code == SLOWER_CODE and report.rows[0].judgement.reason == "energy by meter +5.0%"
    assert run(Simulated(), folder=tmp_path / "same").code == FINE


def test_a_head_that_computes_no_more_is_a_regression() -> None:
    ended = Facts("failed: RMS error 1")
    assert exact.changes(ended, ended) == ([], [])
    assert exact.function_changed(Facts(), Facts(outputs=SAME)) is None


def test_exact_changes() -> None:
    base = Facts(counts=counts_of(), prepared=prepared_of(parameters=100))
    head = Facts(
        counts=replace(counts_of(), macs=counts_of().macs + 5, parameters=counts_of().parameters - 1), prepared=base.prepared
    )
    grew, shrank = exact.changes(base, head)
    assert len(grew) == len(shrank) == 1 and "MACs" in grew[0] and "parameters" in shrank[0]


def test_what_a_race_has_chosen_is_no_exact_size() -> None:
    """Which layers are sparse is a matter of time, and of chance where it is close: mlp had other bytes from race to race."""
    few, many = (
        Facts(prepared=prepared_of(options={"sparse_layers": layers}, artefact={"bytes": size, "nodes": 3}), weights_bytes=size)
        for layers, size in ((1, 90.0), (2, 108.0))
    )
    assert exact.changes(few, many) == ([], [])
    chosen = Facts(prepared=prepared_of(artefact={"bytes": 90}), weights_bytes=90.0)
    assert exact.changes(chosen, replace(chosen, weights_bytes=108.0))[0] == ["bytes of the weights 90 -> 108"]


def test_sums_in_another_order_are_the_same_function() -> None:
    near = Outputs([1.0, 2.0], [1.0 + 1e-12, 2.0], 0.5)
    assert exact.function_changed(Facts(outputs=SAME), Facts(outputs=near)) is None
    far = Outputs([1.0, 2.0], [1.0 + 1e-5, 2.0], 0.5)
    assert exact.function_changed(Facts(outputs=SAME), Facts(outputs=far)) is not None


def test_views(run: Callable[..., Report]) -> None:
    """Markdown has every row; JUnit has a failure for what regressed, an error for what could not be told."""
    report = run(Simulated(head_s=1.2e-3), ["mlp", "small_cnn"], ["mlp"])
    page = view.markdown(report)
    assert "| mlp" in page and "| small_cnn" in page and "regressed" in page
    suite = ElementTree.fromstring(view.junit(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")


NETS = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(192, 512)
        self.two = nn.Linear(512, 10)

    def forward(self, x):
        hidden = torch.relu(self.one(x.flatten(1)))
        return self.two(hidden)


def make():
    return Net()
"""


def said(place: Place, code: str) -> list[str]:
    """Let the Python of a place run a line, and return its words."""
    return subprocess.run([*place.command[: -len(BOOT[1:])], "-c", code], capture_output=True, text=True).stdout.split()


WHO = "import psutil; at = psutil.Process().parent().parent().pid; "


def test_probes_of_one_python_are_forks_of_one_process(tmp_path: Path) -> None:
    """So the memory of the libraries is the same on both sides. It holds nothing of plumbline, which each side imports itself."""
    trees = {name: Tree(tmp_path, [tmp_path / name], sys.executable) for name in ("base", "head")}
    code = WHO + "import sys; print(at, 'torch' in sys.modules, any(name.startswith('plumbline') for name in sys.modules))"
    with ExitStack() as stack, (tmp_path / "log").open("wb") as log:
        base, head = (said(place, code) for place in gates.started_at_once(trees, None, log, stack).values())
    assert base == head
    assert base[1:] == ["True", "False"]


@pytest.mark.slow
def test_sides_with_other_packages_are_forks_of_one_process_too(tmp_path: Path) -> None:
    """Each finds its own; unless the process has imported what differs."""
    trees = {}
    for name in ("base", "head"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / name)], check=True)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / name)}))
        (packages / "trial_of_gate.py").write_text(f"SIDE = {name!r}")
        (packages / "ours.pth").write_text("\n".join(filter(None, sys.path)))
        trees[name] = Tree(tmp_path, [], str(tmp_path / name / "bin" / "python"))
    code = WHO + "import trial_of_gate; print(at, trial_of_gate.SIDE)"
    differs = Difference(frozenset({"import trial_of_gate"}), frozenset())
    with ExitStack() as stack, (tmp_path / "log").open("wb") as log:
        places = gates.started_at_once(trees, differs, log, stack)
        (one, base), (other, head) = (said(place, code) for place in places.values())
        assert (base, head) == ("base", "head") and one == other
        for unlike in (Difference(frozenset({"import torch"}), frozenset()), Difference(frozenset(), frozenset({"bare"})), None):
            assert gates.started_at_once(trees, unlike, log, stack) is trees


def test_other_places_start_as_they_do(tmp_path: Path) -> None:
    """So does a Python without what is imported first: its probe says why it does not start."""
    one, broken = (Tree(tmp_path, [], python) for python in (sys.executable, "/bin/false"))
    with (tmp_path / "log").open("wb") as log:
        for places in ({"base": one, "head": Here()}, {"base": broken, "head": broken}):
            assert gates.started_at_once(places, None, log, ExitStack()) is places


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: str) -> Path:
    """A repository with two modules of nets, committed and the current folder; a gate that takes few rounds of real processes."""
    repository = tmp_path / "mine"
    repository.mkdir()
    (repository / "mynets.py").write_text(NETS)
    (repository / "src").mkdir()
    (repository / "src" / "others.py").write_text(NETS)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(environments, "running", lambda *_: python)  # one that starts at once
    monkeypatch.setattr(processes, "ROUNDS", 4)
    monkeypatch.setattr(processes, "MOST_ROUNDS", 4)
    monkeypatch.setattr(processes, "BLOCK_S", 0.004)
    for module in (schedule, regression):  # with so few the controls tell nothing
        monkeypatch.setattr(module, "CONFIRMING", (3, 4))
    return repository


@pytest.mark.slow
def test_a_slower_net_in_a_repository_of_ones_own(repository: Path, tmp_path: Path) -> None:
    """The head does its first layer five times, is four times as slow, and computes the same."""
    again = "        for _ in range(4):\n            torch.relu(self.one(x.flatten(1)))\n        hidden ="
    (repository / "mynets.py").write_text(NETS.replace("        hidden =", again))
    selection = Selection("gate", {"model": ["mynets:make"], "image_size": [8], "runtime": ["eager"]})
    made = sides.make(sides.Asked(selection, ("HEAD", ".")), tmp_path / "sides", tmp_path / "cache", lambda text: None)
    assert made[1].differs is not None and made[1].differs.parts == {"files/mynets.py"}
    settings = Settings(cache=tmp_path / "cache")
    report = gate(*made, settings, tmp_path / "run", allowed=["size"], say=lambda text: None)  # it has more MACs, too
    (row,) = report.rows
    assert (row.judgement.verdict, row.judgement.reason) == (REGRESSED, ""), report
    assert row.changes == ["MACs 103,424 -> 496,640"]
    assert row.judgement.effect is not None and row.judgement.effect > 0.5
    assert "mynets:make" in row.name and "1 changed file" in report.head


def at(*targets: str | int, models: Sequence[str | int] = ("mynets:make",)) -> Selection:
    return Selection("gate", {"model": [*models], "image_size": [8], "runtime": ["eager"], "target": [*targets]})


@pytest.mark.slow
def test_two_revisions_at_another_machine(repository: Path, tmp_path: Path, sshd: Server) -> None:  # noqa: F811
    """They are copied there, measured under its lock by forks of one process, and removed."""
    (repository / "mynets.py").write_text(NETS.replace("torch.relu", "torch.tanh"))
    asked = sides.Asked(at("ssh:board", models=["mynets:make", "others:make"]), ("HEAD", "."))
    made = sides.make(asked, tmp_path / "sides", tmp_path / "cache", lambda text: None)
    held = []

    def say(text: str) -> None:
        with pytest.raises(Timeout):
            FileLock(sshd.home / "lock", timeout=0).acquire()
        held.append(text)

    report = gate(*made, Settings(cache=tmp_path / "cache"), tmp_path / "run", budget_s=1.0, say=say)  # no time for the clock
    (red, same) = report.rows
    assert (red.judgement.verdict, same.judgement.verdict) == (REGRESSED, UNCHANGED), report
    assert "another function" in red.judgement.reason
    assert "mynets:make" in red.name and "others:make" in same.name
    assert made[1].place.scratch is not None and not made[1].place.scratch.exists()
    assert report.machine.startswith("ssh:board: ")
    assert held and FileLock(sshd.home / "lock", timeout=0).acquire().lock.is_locked
    assert {path.name for path in (sshd.home / "plumbline" / "shipped").iterdir()} <= {"roots"}


def test_a_verdict_holds_where_what_was_copied_cannot_be_removed(
    run: Callable[..., Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the connection is lost after the last pair."""
    said: list[str] = []

    class Lost(Here):
        def tidy(self) -> None:
            raise BadPlace("it is not removed")

    there = Lost()
    there.name, there.scratch = "ssh:board", tmp_path
    report = run(Simulated(), place=there, said=said)
    assert [row.judgement.verdict for row in report.rows] == [WITHIN_NOISE]
    assert said.count("it is not removed") == 2


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["cpu", "ssh:board"], "expected the cells of a gate at one place, got cpu and ssh:board"),
        (["like:jetson-nano"], "expected a gate at ssh:HOST, docker:IMAGE or ssh:HOST/docker:IMAGE, got like:jetson-nano"),
    ],
)
@pytest.mark.usefixtures("repository", "sshd")
def test_other_places_are_refused(tmp_path: Path, targets: list[str], said: str) -> None:
    with pytest.raises(Impossible, match=said):
        sides.make(sides.Asked(at(*targets), ("HEAD", ".")), tmp_path / "sides", tmp_path, lambda text: None)


@pytest.mark.usefixtures("repository", "sshd")
def test_other_packages_take_images_elsewhere(tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "running", lambda more, *_: python if more else sys.executable)
    asked = sides.Asked(at("ssh:board"), packages=([], ["onnxruntime==1.26"]))
    with pytest.raises(Impossible, match="make an image of each, and compare these: --base-target docker:A --target docker:B"):
        sides.make(asked, tmp_path / "sides", tmp_path, lambda text: None)
