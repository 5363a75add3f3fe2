"""What was gained of what was promised."""

from __future__ import annotations

import pytest

from plumbline.harness.facts import Delivery, Promise
from plumbline.harness.record import Record
from plumbline.harness.verdicts.realised import explained, shortfalls, verdict
from tests.records import prepared_of, record_of, replace


def shown(promise: Promise, speedup: float | None, **options: int) -> Record:
    delivery = None if speedup is None else Delivery(speedup)
    return record_of(prepared=prepared_of(promise, options=options), delivery=delivery)


@pytest.mark.parametrize(
    ("effective", "realised", "words"),
    [
        (1000, 1.0, []), (1000, 0.9, ["slower"]), (750, 1.3, []), (750, 1.1, ["under-delivers"]), (500, 1.0, ["no faster"]),
        (500, 1.04, ["no faster"]), (500, 1.2, ["under-delivers"]), (500, 1.6, []), (970, 0.5, ["slower"]),
        (100, 4.0, ["under-delivers"]), (100, 6.0, []),
    ],
)  # fmt: skip
def test_less_than_half_of_the_theoretical_gain_is_flagged(effective: int, realised: float, words: list[str]) -> None:
    promise = Promise(100, 100, 95, 95, 1000, effective, effective, 400, 100, None)
    assert shortfalls(shown(promise, realised)) == words


def test_a_variant_whose_layers_are_all_dense_again_is_called_so() -> None:
    promise = Promise(100, 100, 5, 5, 1000, 1000, 50, 400, 20, None)
    for speedup in (0.9, 0.99, 1.1):
        found = shown(promise, speedup, sparse_layers=0)
        assert shortfalls(found) == ["dense again"]
        assert explained([found])[0].startswith("dense again: none of its sparse layers was faster")
    assert shortfalls(shown(promise, 1.1, sparse_layers=1)) == ["under-delivers"]


def test_a_shortfall_is_told_in_plain_words() -> None:
    promise = Promise(100, 100, 10, 100, 1000, 1000, 100, 400, 400, None)
    found = shown(promise, 1.0)
    assert shortfalls(found) == ["no faster", "no smaller"]
    assert [line.partition(":")[0] for line in explained([found, record_of()])] == ["no faster", "no smaller"]
    coded = shown(replace(promise, bytes=50), 9.0)
    assert (shortfalls(coded), explained([coded])) == ([], [])
    assert shortfalls(shown(promise, None)) == ["no smaller"]
    assert shortfalls(record_of()) == []
    assert [verdict(each) for each in (found, coded, shown(promise, None))] == ["no faster, no smaller", "passed", "no smaller"]
    assert verdict(record_of(delivery=Delivery(2.0))) is None, "of a dense net"
    assert verdict(shown(replace(promise, bytes=50), None)) is None, "which nobody has timed"


def test_the_times_of_an_emulator_call_no_variant_slow() -> None:
    found = shown(Promise(100, 100, 5, 5, 1000, 1000, 50, 400, 20, None), 0.2)
    assert shortfalls(found) == ["slower"]
    emulated = replace(found, machine=replace(found.machine, emulator="qemu-aarch64-static"))
    assert (shortfalls(emulated), verdict(emulated)) == ([], None)
