"""What a benchmark asserts of a fact, in both directions."""

from __future__ import annotations

import pytest

from plumbline.harness.facts import Accuracy, Agreement, Counts, PublishedFigure
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.probe.accuracy import judge
from plumbline.harness.settings import Settings
from plumbline.models import find
from plumbline.models.data.datasets import DATASETS, Images
from plumbline.models.model import Floor
from tests.records import replace

AGREEMENT = Agreement("float64", 8, "digits", 1.0, 0.01, 0.02, 0.0, 0.01, 0.08, 0.001, 1.0)


@pytest.mark.parametrize(
    ("changes", "same", "repeatable"),
    [
        ({}, True, True),
        ({"error": 0.011}, False, True),
        ({"max_error": 0.081}, False, True),
        ({"repeat_error": 0.0011}, True, False),
        ({"eager_error": 0.011, "eager_tolerance": 0.011}, True, True),
        ({"eager_error": 0.012, "eager_tolerance": 0.011}, False, True),
        ({"error": float("nan")}, False, True),
        ({"max_error": float("nan")}, False, True),
        ({"repeat_error": float("nan")}, True, False),
    ],
)
def test_agreement_and_nan_never_passes(changes: dict[str, float], same: bool, repeatable: bool) -> None:
    agreement = replace(AGREEMENT, **changes)
    assert (agreement.same_function, agreement.repeatable) == (same, repeatable)
    assert agreement.wrong == (None if same and repeatable else agreement.explanation)


def test_tolerance_grows_with_depth_and_with_the_precision() -> None:
    """About 2^-8 a layer in bf16; in fp32 five orders less, whatever the model."""
    for name, depth in (("resnet20", 20), ("resnet56", 56)):
        formula = find(name).formula(32)
        assert formula is not None
        bf16, fp16, fp32 = (PRECISIONS[precision].tolerance(formula) for precision in ("bf16", "fp16", "fp32"))
        assert bf16 == pytest.approx((depth + 1) * 2**-8, rel=0.01)  # and the outputs
        assert bf16 > 7 * fp16 > 1000 * fp32
        assert fp32 < 1e-4


COUNTS = Counts(
    parameters=10,
    macs=100,
    formula={"parameters": 10, "macs": 100},
    flop_counter={"parameters": 10, "macs": 100},
    ptflops={"parameters": 10, "macs": 110},
    explained={"biases": 10},
    unexplained={},
    differing={},
    published=[],
)


def test_ptflops_is_explained_or_not() -> None:
    assert COUNTS.counters_agree
    assert COUNTS.wrong is None
    assert not replace(COUNTS, explained={"biases": 9}).counters_agree
    wrong = replace(COUNTS, unexplained={"layer": [2, 1]})
    assert not wrong.counters_agree
    assert "layer: 2 instead of 1" in wrong.explanation
    assert wrong.wrong == wrong.explanation


def test_a_formula_must_hold_in_total_and_layer_by_layer() -> None:
    """Two errors that cancel out are two errors."""
    assert COUNTS.formula_holds
    assert replace(COUNTS, formula=None).formula_holds
    assert not replace(COUNTS, formula={"parameters": 10, "macs": 99}).formula_holds
    wrong = replace(COUNTS, differing={"a": [[1, 2], [1, 3]], "b": [[1, 3], [1, 2]]})
    assert not wrong.formula_holds
    assert "a: [1, 2] instead of [1, 3]" in wrong.explanation
    assert wrong.wrong == wrong.explanation


def test_a_published_figure_that_is_not_ours_is_named() -> None:
    figure = PublishedFigure("macs", "0.2e3", "a paper", 100, False)
    wrong = replace(COUNTS, published=[figure])
    assert not wrong.as_published
    assert "a paper reports 0.2e3 macs, counted here are 100" in wrong.explanation
    assert wrong.wrong == wrong.explanation


def accuracy(correct: int, images: int, of: int, floor: float | None = 0.9, budget: float = 0.0) -> Accuracy:
    ranks = [0] * correct + [9] * (images - correct)
    labelled = Images(DATASETS["digits"], "digits", [], [0] * of, 8)
    return judge(ranks, labelled, Settings(), Floor(floor, 1000, "test") if floor else None, None, budget)


@pytest.mark.parametrize(
    ("found", "reaches"),
    [
        (accuracy(900, 1000, 1000), True),
        (accuracy(899, 1000, 1000), False),
        (accuracy(896, 1000, 1000, budget=0.005), True),
        (accuracy(894, 1000, 1000, budget=0.005), False),
        (accuracy(885, 1000, 5000), True),  # a subset may be unlucky,
        (accuracy(850, 1000, 5000), False),  # but not that unlucky
        (accuracy(17, 20, 20), True),  # twenty pictures of one's own are not the set that the floor is known for
        (accuracy(5, 20, 20), False),
        (accuracy(1, 1000, 1000, floor=None), True),
        (Accuracy(unavailable="no weights"), True),
    ],
)
def test_the_floor(found: Accuracy, reaches: bool) -> None:
    assert found.reaches_floor == reaches
    assert found.wrong == (None if reaches else found.explanation)


def paired(lost: int, gained: int, budget: float) -> Accuracy:
    parent = [True] * (500 + lost) + [False] * (500 - lost)
    ours = [True] * 500 + [False] * lost + [True] * gained + [False] * (500 - lost - gained)
    labelled = Images(DATASETS["digits"], "digits", [], [0] * 1000, 8)
    return judge([0 if right else 5 for right in ours], labelled, Settings(), None, parent, budget)


@pytest.mark.parametrize(("in_five", "reaches"), [(990, True), (980, True), (979, False)])
def test_the_floor_of_top5(in_five: int, reaches: bool) -> None:
    ranks = [0] * 900 + [3] * (in_five - 900) + [9] * (1000 - in_five)
    labelled = Images(DATASETS["digits"], "digits", [], [0] * 1000, 8)
    found = judge(ranks, labelled, Settings(), Floor(top1=0.9, top5=0.98, images=1000, source="test"), None, 0.0)
    assert found.reaches_floor == reaches
    assert "98.00% for top-5" in found.explanation


@pytest.mark.parametrize(
    ("lost", "gained", "budget", "keeps"),
    [
        (0, 0, 0.0, True),
        (2, 0, 0.0, True),  # two images are chance
        (20, 0, 0.0, False),  # twenty to none are not
        (60, 55, 0.0, True),  # nor is a loss within the noise of both
        (20, 0, 0.02, True),  # within the budget
        (20, 0, 0.015, True),  # beyond it, but not for certain
        (0, 20, 0.0, True),
    ],
)
def test_a_loss_against_the_parent(lost: int, gained: int, budget: float, keeps: bool) -> None:
    found = paired(lost, gained, budget)
    assert found.loss == pytest.approx((lost - gained) / 1000)
    assert found.keeps_to_parent == keeps
    assert found.wrong == (None if keeps else found.explanation)
