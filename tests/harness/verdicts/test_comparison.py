"""Two stored runs: which of their rows can be compared, and what the ratio is known to be."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest

from plumbline.harness.facts import Latency
from plumbline.harness.machine import Machine
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import median_interval
from plumbline.harness.verdicts.comparison import (
    FASTER,
    NO_DIFFERENCE,
    SLOWER,
    Pair,
    compare,
    latest,
    measured,
    ratio_of_medians,
)
from plumbline.harness.verdicts.regression import INCOMPARABLE
from tests.records import accuracy_of, cell_of, counts_of, latency_of, prepared_of, record_of, replace


def timed(median_s: float, within: float = 0.01) -> Latency:
    """A latency whose median is known to within a share."""
    latency = latency_of(median_s)
    return replace(latency, model=replace(latency.model, interval_s=(median_s * (1 - within), median_s * (1 + within))))


def row(median_s: float = 1e-3, within: float = 0.01, **fields: Any) -> Record:
    usual = {"latency": timed(median_s, within), "prepared": prepared_of(), "counts": counts_of()}
    return record_of(fields.pop("cell", None), **{**usual, **fields})


def pair_of(a: Record, b: Record, *ignored: str) -> Pair:
    (pair,) = compare([measured(a)], [measured(b)], ignored).pairs
    return pair


def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    """Of 2,000 ratios of two medians of 100 samples each, with skew, 95 % of the intervals hold the true one, 1.5."""
    chance, held = numpy.random.default_rng(0), 0
    for _ in range(2000):
        a, b = (numpy.sort(scale * chance.lognormal(0, 0.2, 100)).tolist() for scale in (2.0, 3.0))
        ends = median_interval(a), median_interval(b)
        assert ends[0] is not None and ends[1] is not None
        _, (low, high) = ratio_of_medians(float(numpy.median(a)), ends[0], float(numpy.median(b)), ends[1])
        held += low <= 1.5 <= high
    assert 0.94 < held / 2000 < 0.985


def test_the_interval_of_a_ratio_by_hand() -> None:
    """Both known to a factor of e^0.3 and e^0.4: together e^0.5; and B / A is the opposite of A / B."""
    ratio, (low, high) = ratio_of_medians(1.0, (math.exp(-0.3), math.exp(0.3)), 2.0, (2 * math.exp(-0.4), 2 * math.exp(0.4)))
    assert (ratio, low, high) == pytest.approx((2.0, 2 * math.exp(-0.5), 2 * math.exp(0.5)))
    uneven = (1.0, (0.9, 1.3)), (2.0, (1.9, 2.1))
    forth, back = ratio_of_medians(*uneven[0], *uneven[1]), ratio_of_medians(*uneven[1], *uneven[0])
    assert forth[1] == pytest.approx((1 / back[1][1], 1 / back[1][0]))


@pytest.mark.parametrize(("b", "call"), [(1.1e-3, SLOWER), (0.9e-3, FASTER), (1.005e-3, NO_DIFFERENCE)])
def test_calls(b: float, call: str) -> None:
    assert pair_of(row(1e-3), row(b)).call == call


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"machine": Machine(cpu_model="another", cores_allowed=2)}, "machine: cpu_model a processor -> another"),
        ({"machine": Machine(cpu_model="a processor", cores_allowed=2, torch="2.15")}, "torch: torch None -> 2.15"),
        ({"machine": Machine(cpu_model="a processor", cores_allowed=2, governor="powersave")}, "power mode: governor"),
        (
            {"machine": Machine(cpu_model="a processor", cores_allowed=2, libraries={"onnxruntime": "1.31"})},
            "library versions: onnxruntime None -> 1.31",
        ),
        ({"prepared": prepared_of(threads=1)}, "threads: threads 2 -> 1"),
        ({"settings": Settings(sampling_s=3.0)}, "settings: sampling_s 1.0 -> 3.0"),
        (
            {"prepared": replace(prepared_of(), weights=replace(prepared_of().weights, sha256="f" * 64))},
            "weights: sha256 0 -> ffff",
        ),
        ({"counts": counts_of(macs=1001)}, "counts: MACs 1000 -> 1001"),
        ({"outcome": "failed", "reason": "RMS error 1", "latency": None}, "B: failed: RMS error 1"),
        ({"latency": latency_of()}, "too few samples for an interval"),
    ],
)
def test_what_cannot_be_compared_is_never_called(other: dict[str, Any], reason: str) -> None:
    pair = pair_of(row(), row(2e-3, **other) if "latency" not in other else row(**other))
    assert (pair.call, pair.ratio) == (INCOMPARABLE, None)
    assert reason in pair.reason


def test_what_changes_with_every_run_is_no_hindrance() -> None:
    other = row(2e-3, settings=Settings(inputs_seed=7), revision="f00dbabe", session="two", machine=row().machine)
    assert pair_of(row(), other).call == SLOWER


def test_an_axis_that_is_ignored_pairs_each_with_each() -> None:
    """Two runtimes in A and in B: both crosses, and none with itself; what has no partner is listed."""
    runtimes = [row(cell=cell_of(runtime=runtime)) for runtime in ("eager", "onnxruntime")]
    rows = [measured(each) for each in [*runtimes, row(cell=cell_of("small_cnn"))]]
    found = compare(rows, rows, ["runtime"])
    assert [pair.name for pair in found.pairs] == [
        "mlp-dense-eager->onnxruntime-fp32-b1-8px-cpu",
        "mlp-dense-onnxruntime->eager-fp32-b1-8px-cpu",
    ]
    assert found.only_a == found.only_b == [rows[2].name]


def test_another_target_is_another_machine_and_is_told_of() -> None:
    """The same name of a target may be two machines; what was not asked for is still in the way."""
    board = Machine(cpu_model="a board", cores_allowed=4, torch="2.9")
    found = compare([measured(row())], [measured(row(3e-3, machine=board))], ["target"])
    assert [pair.call for pair in found.pairs] == [SLOWER]
    assert any("a processor -> a board" in words for words in found.asked_for)
    slow = row(3e-3, machine=board, settings=Settings(seed=1))
    assert pair_of(row(), slow, "target").reason == "settings: seed 0 -> 1"
    assert compare([measured(row())], [measured(row())], ["target"]).pairs == [], "a record is not compared with itself"


def test_another_model_has_other_weights_and_counts() -> None:
    other = row(2e-3, cell=cell_of("small_cnn"), counts=counts_of(macs=1))
    assert pair_of(row(), other, "model").call == SLOWER
    assert pair_of(row(), replace(other, settings=Settings(seed=1)), "model").call == INCOMPARABLE


def test_what_is_in_one_run_only_is_listed() -> None:
    found = compare([measured(row())], [measured(row(cell=cell_of(batch=8)))])
    assert (found.compared, found.only_a, found.only_b) == (0, [row().id], [cell_of(batch=8).id])


def test_of_several_records_of_a_cell_the_last_counts() -> None:
    late = row(2e-3, revision="f00dbabe", started_at="2026-02-01T00:00:00+00:00")
    kept, earlier = latest([measured(late), measured(row())])
    assert ([each.median_s for each in kept], earlier) == ([2e-3], 1)


def test_memory_and_accuracy_stand_beside_it() -> None:
    found = measured(row(accuracy=accuracy_of(0.9), memory={"process_peak": read("byte", "process", 2.0**20)}))
    assert (found.top1, found.top1_interval, found.memory_bytes) == (0.9, (0.9, 0.9), 2**20)
