"""A budget is held against both ends of what is known, and what lies between is no pass."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.statistics import P99_SAMPLES, loadgen_bound, percentile_floor
from plumbline.harness.timing import summarise
from plumbline.harness.verdicts import budget
from plumbline.harness.verdicts.budget import BadBudget, Budget, Deadline, OverBudget, held, keep
from plumbline.harness.verdicts.figures import FIGURES
from plumbline.harness.verdicts.words import FAILED, INCONCLUSIVE, PASSED
from tests.records import accuracy_of, cell_of, latency_of, record_of, replace

BUSY = {"waited": read("1", "probe", 0.5)}


def spread(low_s: float, high_s: float, count: int = 1000) -> list[float]:
    return [low_s + (high_s - low_s) * number / (count - 1) for number in range(count)]


def one(samples: list[float] | None = None, **fields: Any) -> Record:
    latency = latency_of()
    timing = summarise(samples or spread(9e-3, 11e-3), 1, 0, 0.0, True)
    latency = replace(latency, model=timing, first_s=0.2, **fields.pop("latency", {}))
    return record_of(
        fields.pop("cell", cell_of("net")), latency=latency, accuracy=accuracy_of(0.9, interval=(0.87, 0.93)), **fields
    )


def verdict(record: Record, **limits: float) -> tuple[str, float | None]:
    (found,) = held(Budget("b", limits), record)
    return found.verdict, None if found.margin is None else round(found.margin, 3)


@pytest.mark.parametrize(
    ("limits", "expected", "margin"),
    [
        ({"first": 0.4}, PASSED, 0.5),
        ({"first": 0.1}, FAILED, 1.0),
        ({"accuracy": 0.8}, PASSED, 0.087),
        ({"accuracy": 0.9}, INCONCLUSIVE, None),
        ({"accuracy": 0.95}, FAILED, 0.021),
        ({"p99": 12e-3}, PASSED, 0.083),
        ({"p99": 10.98e-3}, INCONCLUSIVE, None),
        ({"p99": 10e-3}, FAILED, 0.096),
        ({"latency": 10.5e-3}, PASSED, None),
        ({"latency": 10e-3}, INCONCLUSIVE, None),
        ({"throughput": 90.0}, PASSED, None),
        ({"throughput": 120.0}, FAILED, None),
        ({"energy": 1.0}, INCONCLUSIVE, None),
    ],
)
def test_what_is_known_is_below_above_or_on_both_sides(limits: dict[str, float], expected: str, margin: float | None) -> None:
    found = verdict(one(), **limits)
    assert found[0] == expected
    assert margin is None or found[1] == pytest.approx(margin, abs=0.002)


def test_with_few_samples_p99_is_missed_by_the_median_alone() -> None:
    few = one(spread(9e-3, 11e-3, 50))
    assert verdict(few, p99=20e-3) == (INCONCLUSIVE, None), "it has no upper bound yet"
    assert verdict(few, p99=5e-3)[0] == FAILED, "half of the samples are longer"


def test_what_a_neighbour_may_have_done_convicts_nobody() -> None:
    assert verdict(one(), latency=1e-3)[0] == FAILED
    noisy = one(latency={"disturbance": BUSY})
    assert verdict(noisy, latency=1e-3) == (INCONCLUSIVE, None)
    assert verdict(noisy, latency=1.0)[0] == PASSED, "it was fast enough all the same"


def late(count: int, of: int = 1000, **fields: Any) -> Record:
    """Make a cell of which so many inferences take 50 ms, and the others 10."""
    return one([10e-3] * (of - count) + [50e-3] * count, **fields)


@pytest.mark.parametrize(
    ("count", "expected"),
    # of 1,000: 0 late ones are at most 0.46 % at 99 %, 4 at most 1.2 %, 20 at least 1.1 %; by the binomial distribution
    [(0, PASSED), (4, INCONCLUSIVE), (10, INCONCLUSIVE), (20, FAILED)],
)
def test_deadlines_that_are_missed(count: int, expected: str) -> None:
    (found,) = held(Budget("b", {}, Deadline(0.01, 33e-3)), late(count))
    assert (found.figure, found.verdict) == ("missed", expected)
    assert f"deadlines of 33 ms missed at most 0.01: {count} of 1000" in found.words


def test_a_deadline_that_a_neighbour_made_late_convicts_nobody() -> None:
    (found,) = held(Budget("b", {}, Deadline(0.01, 33e-3)), late(100, latency={"disturbance": BUSY}))
    assert found.verdict == INCONCLUSIVE
    (there,) = held(Budget("b", {}, Deadline(0.01, 33e-3)), late(100, cell=cell_of("net", target="like:jetson-nano")))
    assert there.verdict == INCONCLUSIVE


def test_a_deadline_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('[a]\nmissed = "1 % of 33 ms"\n[b]\nmissed = "0.02 of 0.1 s"\np99 = "50 ms"\n')
    found = budget.load(path)
    assert found["a"] == Budget("a", {}, Deadline(0.01, 33e-3))
    assert (found["a"].p99_within_s, found["a"].searched) == (33e-3, {"p99": 33e-3})
    assert found["b"].p99_within_s == 0.1  # up to either limit it may be kept
    with pytest.raises(BadBudget, match=r"a search takes a deadline that 1 % may miss, which is one of p99; got 0\.02"):
        _ = found["b"].searched
    both = Budget("d", {"p99": 200e-3}, Deadline(0.01, 100e-3))
    assert both.searched == {"p99": 100e-3}
    assert Budget("c", {"size": 1.0}).p99_within_s is None


@pytest.mark.parametrize("text", ["33 ms", "1 %", "1 % of 33", "one of 33 ms", "101 % of 33 ms", "0 of 33 ms", "0.5 % of 33 ms"])
def test_a_deadline_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(f'[a]\nmissed = "{text}"\n')
    with pytest.raises(BadBudget, match="budget 'a': missed: expected"):
        budget.load(path)


def test_a_stand_in_decides_on_memory_alone() -> None:
    there = one(cell=cell_of("net", target="like:jetson-nano"))
    assert verdict(there, latency=1.0)[0] == verdict(there, latency=1e-6)[0] == verdict(there, energy=1.0)[0] == INCONCLUSIVE
    assert verdict(there, macs=1.0)[0] != PASSED and verdict(there, accuracy=0.5)[0] == PASSED


def test_the_message_has_all_limits_that_do_not_hold() -> None:
    found = list(held(Budget("b", {"p99": 10e-3, "first": 1.0, "accuracy": 0.9, "size": 1e6}), one()))
    with pytest.raises(
        OverBudget, match=r"over budget: p99 at most 10 ms: 10\.9\d to 11 ms, 9\.\d% above it; undecided: top-1"
    ) as caught:
        keep(found)
    assert "size at most 1 MB: it is unknown" in str(caught.value)
    keep([one for one in found if one.verdict == PASSED])


@pytest.mark.parametrize(("limit", "said"), [(1e8, "; an empty process takes 500 MB"), (5.5e8, "")])
def test_a_limit_that_no_net_can_keep_is_said(limit: float, said: str) -> None:
    memory = {"process_peak": read("byte", "process", 6e8), "process_base": read("byte", "process", 5e8)}
    (found,) = held(Budget("b", {"memory": limit}), one(memory=memory))
    assert found.words == f"memory at most {limit / 1e6:.0f} MB: 600 MB, {6e8 / limit - 1:.1%} above it{said}"


def test_every_figure_can_be_limited() -> None:
    assert [found.figure for found in held(Budget("b", dict.fromkeys(FIGURES, 1.0)), one())] == list(FIGURES)
    assert {figure.unit for figure in FIGURES.values()} <= budget.UNITS.keys()


def test_both_bounds_of_p99_hold_in_99_of_100() -> None:
    """Of samples whose 99th percentile is known, 1,000 times; the number from which on there is an upper one is right."""
    chance, below, above = random.Random(5), 0, 0
    for _ in range(1000):
        samples = sorted(chance.random() for _ in range(P99_SAMPLES))
        low, high = percentile_floor(samples, 0.99), loadgen_bound(samples, 0.99)
        assert low is not None and high is not None
        below, above = below + (low <= 0.99), above + (high >= 0.99)
    assert below >= 980 and above >= 980
    assert below < 1000, "it is no bound that always holds"
    assert loadgen_bound(samples[1:], 0.99) is None
    assert percentile_floor([1.0], 0.99) is None


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    return path


def test_units_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, '[a]\np99 = "33 ms"\nmemory = "1.5GiB"\naccuracy = "70 %"\nmacs = 6e8\nenergy = "2e-3 J"\n')
    assert budget.find("a", path).limits == pytest.approx(
        {"p99": 0.033, "memory": 1.5 * 2**30, "accuracy": 0.7, "macs": 6e8, "energy": 2e-3}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[a]\np98 = "33 ms"', "no quantity 'p98' (did you mean p99"),
        ('[a]\np99 = "33 lightyears"', r'unit of s, ms, us, µs, as "33 ms", got'),
        ("[a]\np99 = 33", "expected a number with a unit"),
        ('[a]\np99 = "0 ms"', "a number above 0"),
        ("[a]\naccuracy = 70", "a share up to 1"),
        ("[a]\naccuracy = true", "expected a number"),
        ('[a]\np99 = "1.2.3 ms"', "expected a number"),
        ("[a]", "expected limits"),
        ("p99 = 3", "expected limits"),
        ("[a", "budgets.toml"),
        ('[b]\np99 = "3 ms"', "no budget 'a'; known: b"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadBudget) as caught:
        budget.find("a", write(tmp_path, text))
    assert words in str(caught.value)


def test_the_file_of_this_project_is_right() -> None:
    assert budget.load()
