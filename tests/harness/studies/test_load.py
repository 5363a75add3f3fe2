"""Cells under loads: what is asked of which process, and when the end is red."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from plumbline.harness.load import INVALID, VALID, Beside, Camera, Loaded, Run, Scenario, Soak
from plumbline.harness.messages import Ended, Exited, Load, Open, Response
from plumbline.harness.outcomes import FAILED, OK
from plumbline.harness.session.matrix import MatrixError
from plumbline.harness.settings import Settings
from plumbline.harness.studies import load
from plumbline.harness.views import load as view
from tests.conftest import where
from tests.fake import WRONG, FakeConnection
from tests.records import cell_of, replace

SINGLE, OFFLINE = Scenario("single-stream"), Scenario("offline")


def run_of(verdict: str = VALID, **fields: object) -> Run:
    usual = {"queries": 64, "percentile": 0.9, "latency_s": 2e-3, "bound_s": 3e-3, "samples_per_s": 500.0, "asked_hz": None}
    return Run(verdict, [] if verdict == VALID else ["too few"], version="6", **{**usual, **fields})  # type: ignore[arg-type]


def loaded(server: FakeConnection, *scenarios: Scenario) -> load.LoadRecord:
    return load.load(server, cell_of(), scenarios, Settings(), "session")


def test_all_loads_of_a_cell_are_put_on_the_process_that_qualified() -> None:
    server = FakeConnection(load=Loaded(SINGLE, [run_of()]))
    record = loaded(server, SINGLE, OFFLINE)
    assert [type(message) for message in server.sent].count(Open) == 1
    assert [message.scenario for message in server.sent if isinstance(message, Load)] == [SINGLE, OFFLINE]
    assert (record.outcome, len(record.loads), record.agreement is not None) == (OK, 2, True)


def test_what_does_not_qualify_is_put_under_no_load() -> None:
    server = FakeConnection(agreement=WRONG)
    record = loaded(server, SINGLE, OFFLINE)
    assert not any(isinstance(message, Load) for message in server.sent)
    assert record.outcome == FAILED
    assert [each.wrong is not None for each in record.loads] == [True, True]


def test_where_a_load_ends_its_process_the_next_has_another_one() -> None:
    ending: list[Response] = [Ended(FAILED, "it broke"), Exited("cell", 1)]
    server = FakeConnection(dies_at="load", ending=ending)
    record = loaded(server, SINGLE, OFFLINE)
    assert [type(message) for message in server.sent].count(Open) == 2
    assert [each.unavailable for each in record.loads] == ["failed: load: it broke"] * 2


def test_a_cell_that_cannot_be_is_named_with_its_reason() -> None:
    record = load.load(FakeConnection(), cell_of(precision="int8-static"), [SINGLE], Settings(), "session")
    assert record.outcome == "unsupported"
    assert record.loads[0].unavailable is not None
    assert record.loads[0].unavailable.startswith("unsupported: eager runs fp32")


def test_cells_are_all_combinations_of_what_is_named() -> None:
    asked = load.Question(["mlp", "small_cnn"], [SINGLE], {"runtime": ["eager", "onnxruntime"], "precision": [], "batch": [4]})
    cells = asked.cells()
    assert [(cell.model, cell.runtime) for cell in cells] == [
        ("mlp", "eager"), ("mlp", "onnxruntime"), ("small_cnn", "eager"), ("small_cnn", "onnxruntime"),
    ]  # fmt: skip
    assert {(cell.variant, cell.precision, cell.batch, cell.target) for cell in cells} == {("dense", "fp32", 4, "cpu")}
    with pytest.raises(MatrixError, match="no precision 'fp31'"):
        load.Question(["mlp"], [SINGLE], {"precision": ["fp31"]}).cells()


def test_a_search_has_time_for_all_its_tries() -> None:
    def limit_s(name: str) -> float:
        return load.Question(["mlp"], [Scenario(name, 100.0)], {}).settings().time_limit_s

    assert limit_s("server") - load.PREPARATION_S == 1200.0
    assert limit_s("soak") - load.PREPARATION_S == 200.0


def test_a_temperature_that_is_not_to_be_exceeded_holds_before_a_cell_too() -> None:
    asked = load.Question(["mlp"], [SINGLE], {}, max_temperature=85.0).settings()
    assert (asked.max_temperature, asked.cool_s > 0) == (85.0, True)
    assert load.Question(["mlp"], [SINGLE], {}).settings().max_temperature is None


def test_the_table_says_what_was_found_and_why_it_is_no_pass() -> None:
    camera = Camera(30.0, 1 / 30, 600, 3, 2, 5 / 600, 0.021, {"p50": 0.01, "p90": 0.02, "p99": 0.04})
    soak = Soak([0.0, 1.0], [50, 49], [0.02, 0.021], [0.03, 0.03], [None, None], [2.6e9, 2.5e9], 1.0, 1.05, None)
    tries = [run_of(asked_hz=20.0), run_of(INVALID, asked_hz=40.0), run_of(asked_hz=30.0, percentile=0.99)]
    text = view.table(
        (cell_of(), each)
        for each in (
            Loaded(SINGLE, [run_of()]),
            Loaded(OFFLINE, [run_of(INVALID, latency_s=None)]),
            Loaded(Scenario("server", limit_s=0.05), tries),
            Loaded(Scenario("camera", max_missed=0.01), camera=camera),
            Loaded(Scenario("soak"), soak=soak),
            Loaded(Scenario("soak"), soak=replace(soak, stopped="91 °C after 2.0 s")),
            Loaded(Scenario("side-by-side"), beside=Beside([2e-3] * 7, [1e-3] * 7, 64, 2.0, (1.9, 2.1))),
            Loaded(Scenario("multi-stream"), unavailable="not installed"),
        )
    )
    for words in (
        "p90 2 (≤3) ms of 64",
        "30/s: p99 2 ms, limit 50 ms",
        "INVALID at 40/s",
        "30 Hz, deadline 33.3 ms: 0.83% missed (≤2.10%)",
        "3 dropped and 2 late of 600",
        "last 1 s over first: 1.050x",
        "no °C read",
        "2.5 to 2.6 GHz",
        "LoadGen's p90 over ours: 2.000 (1.900-2.100), goal within 3%",
        "offline: INVALID: too few",
        "camera: expected at most 1.00% of the deadlines missed (at 99 %), got 0.83% of 600 frames missed, at most 2.10%",
        "multi-stream: unavailable: not installed",
        "soak: stopped: 91 °C after 2.0 s",
        "expected LoadGen's p90 within 3% of ours for certain, got a ratio of 2.000 (1.900 to 2.100)",
    ):
        assert words in text
    github = view.table([(cell_of(), Loaded(SINGLE, [run_of()]))], "github")
    assert "p90 2 (≤3) ms of 64; 500/s" in github


@pytest.mark.slow
@pytest.mark.parametrize(("most", "code"), [("1", 0), ("0.0001", 1)])
def test_it_is_said_on_the_command_line(tmp_path: Path, cache: Path, python: str, most: str, code: int) -> None:
    """A hundred frames cannot show that fewer than one in ten thousand miss their deadline."""
    out = tmp_path / "loads.jsonl"
    asked = ["mlp", "--scenario", "camera", "--seconds", "1", "--rate", "100", "--max-missed", most, "-o", str(out)]
    told = subprocess.run(
        [python, "-m", "plumbline.harness", "load", *asked], capture_output=True, text=True, **where(tmp_path, cache)
    )
    assert told.returncode == code, told.stderr
    assert "100 Hz, deadline 10 ms" in told.stdout
    (record,) = (json.loads(line) for line in out.read_text().splitlines())
    assert record["loads"][0]["camera"]["frames"] == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scenario", "offlin"), "no scenario 'offlin' (did you mean offline?)"),
        (("--scenario", "server"), "server: expected the latency that its p99 is kept under, got none; say --limit-ms MS"),
        (("--queries", "0"), "expected a whole number > 0, got '0'"),
        (("--rate", "-30"), "expected a number > 0, got '-30'"),
        (("-o", "no/such/folder/file"), "'no/such/folder/file' cannot hold the records: No such file or directory"),
    ],
)
def test_what_cannot_be_asked_is_named(tmp_path: Path, cache: Path, python: str, options: tuple[str, ...], words: str) -> None:
    told = subprocess.run(
        [python, "-m", "plumbline.harness", "load", "mlp", *options], capture_output=True, text=True, **where(tmp_path, cache)
    )
    assert told.returncode == 2
    assert words in told.stderr
    assert "Traceback" not in told.stderr
