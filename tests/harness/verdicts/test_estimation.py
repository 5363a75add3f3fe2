"""Estimates of latencies: constants that are known are found, intervals hold, and what is unlike the anchors gets none."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from plumbline.harness.verdicts.estimation import Additive, Amounts, Anchor, NoEstimate, mean_error

MAC_S, BYTE_S, OPERATION_S = 1e-11, 1e-10, 1e-4


def amounts(macs: float, moved: float, operations: int, kinds: dict[str, int] | None = None) -> Amounts:
    return Amounts(round(macs), round(moved), operations, kinds or {"convolution": round(moved)})


def exact(found: Amounts) -> float:
    return MAC_S * found.macs + BYTE_S * found.bytes + OPERATION_S * found.operations


def anchors(noise: float = 0.0, seed: int = 0) -> list[Anchor]:
    """Twelve nets of four families that keep to the constants, but for noise."""
    chance, found = random.Random(seed), []
    for number in range(12):
        one = amounts(10 ** chance.uniform(8, 10.2), 10 ** chance.uniform(7, 8.5), chance.randrange(20, 300))
        found.append(Anchor(f"net{number}", "abcd"[number % 4], exact(one) * math.exp(chance.gauss(0, noise)), one))
    return found


def test_constants_that_are_exact_are_found() -> None:
    model = Additive(anchors())
    assert list(model.constants) == pytest.approx([MAC_S, BYTE_S, OPERATION_S], rel=1e-3)
    assert mean_error(model.errors) < 1e-3
    assert model.of(amounts(1e9, 1e8, 100), "a").seconds == pytest.approx(0.01 + 0.01 + 0.01, rel=1e-3)


def test_a_constant_that_helps_only_below_zero_is_zero() -> None:
    """Nets that take less time the more operations they have."""
    found = [
        Anchor(one.name, one.family, MAC_S * one.amounts.macs * (1 - one.amounts.operations / 1000), one.amounts)
        for one in anchors()
    ]
    constants = Additive(found).constants
    assert constants[2] == 0 < constants[0]


def test_intervals_hold_what_was_not_seen() -> None:
    """Of nets with the same noise as the anchors, 95 of 100 and not all."""
    inside = total = 0
    for seed in range(60):
        model, chance = Additive(anchors(0.1, seed)), random.Random(1000 + seed)
        for _ in range(5):
            one = amounts(10 ** chance.uniform(8.8, 9.5), 10 ** chance.uniform(7.5, 8.1), chance.randrange(80, 200))
            low, high = model.of(one, "a").interval
            inside += low <= exact(one) * math.exp(chance.gauss(0, 0.1)) <= high
            total += 1
    assert 0.93 <= inside / total < 1.0


def test_a_family_that_no_anchor_has_is_less_sure() -> None:
    model = Additive(anchors(0.1))
    one = amounts(1e9, 1e8, 100)
    kin, stranger = model.of(one, "a"), model.of(one, "z")
    assert (kin.kin, stranger.kin) == (True, False)
    assert kin.seconds == stranger.seconds
    assert stranger.interval[1] > kin.interval[1]


def test_what_no_anchor_has_is_not_estimated() -> None:
    model = Additive(anchors())
    few = amounts(1e9, 1e8, 100, {"convolution": 96_000_000, "gelu": 4_000_000})
    assert model.of(few, "a").seconds > 0
    many = amounts(1e9, 1e8, 100, {"convolution": 60_000_000, "convolution in groups": 30_000_000, "gelu": 10_000_000})
    with pytest.raises(
        NoEstimate, match=r"40% of what it reads and writes is in operations that no anchor has \(convolution in groups, gelu\)"
    ):
        model.of(many, "a")


def test_three_families_are_too_few() -> None:
    with pytest.raises(NoEstimate, match=r"expected anchors of 4 families of nets at least, got 3 \(a, b, c\)"):
        Additive([anchor for anchor in anchors() if anchor.family != "d"])


def test_one_measurement_scales_all_estimates() -> None:
    model, one = Additive(anchors()), amounts(1e9, 1e8, 100)
    before = model.of(one, "a")
    model.calibrate({"mine": (one, 2 * exact(one))})
    assert model.factor == pytest.approx(2, rel=1e-3)
    assert model.of(one, "a").interval == pytest.approx([2 * end for end in before.interval], rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "words"), [({"macs": 1e12}, "MACs"), ({"moved": 1e5}, "bytes"), ({"operations": 9000}, "operations")]
)
def test_what_does_much_more_or_less_than_all_anchors_is_not_estimated(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(NoEstimate, match=rf"it has .* {words}, and the anchors .* to"):
        Additive(anchors()).of(amounts(**{"macs": 1e9, "moved": 1e8, "operations": 100, **changed}), "a")


def test_what_is_not_estimated_calibrates_nothing() -> None:
    strange = amounts(1e9, 1e8, 100, {"gelu": 100_000_000})
    with pytest.raises(NoEstimate, match="mine calibrates nothing: 100% of what it reads"):
        Additive(anchors()).calibrate({"mine": (strange, 1.0)})
