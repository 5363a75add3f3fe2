"""Searches: what they find beside brute force over the whole grid, what they rule out, and that this is never the answer."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.harness.cell import AXES, Cell
from plumbline.harness.rows import Row
from plumbline.harness.verdicts.recommendation import Question, recommend, setting_of
from plumbline.harness.verdicts.search import Search
from tests.grids import DENSE, edge_study, row, rows_of
from tests.records import replace
from tests.trials.fitting import PAIRS

RUNTIMES, BATCHES, SIZES = ("eager", "onnxruntime", "openvino", "litert"), (1, 2, 4, 8, 16), (112, 160, 192, 224)


def cell_of(found: Row) -> Cell:
    return Cell(**{axis: getattr(found, axis) for axis in AXES})


def searched(rows: list[Row], question: Question, **more: Any) -> Search:
    """Search a grid of which everything is known."""
    known = {cell_of(each): each for each in rows}
    search = Search(list(known), question, **more)
    while (cell := search.next()) is not None:
        search.learn(cell, known[cell])
    return search


def made(runtime: str = "eager", batch: int = 1, size: int = 224, ms: float = 1.0, **fields: Any) -> Row:
    """Make a row of a net whose median is known to 1 %."""
    seconds = ms / 1e3
    timed = {"latency_s": seconds, "latency_low_s": 0.99 * seconds, "latency_high_s": 1.01 * seconds}
    return row(model="net", runtime=runtime, batch=batch, image_size=size, **{**timed, **fields})


def brute_force(rows: list[Row], question: Question) -> Row | None:
    best = recommend(rows, question)[0].best
    return None if best is None else best.row


def test_the_edge_studys_setting_is_found_in_a_third_of_its_grid() -> None:
    """Batch 16 at 224 pixels of VGG-16, as brute force over all 72 cells says (test_recommendation.py has it by hand)."""
    rows, question = rows_of(edge_study(DENSE)), Question({"memory": 2.6e9, "accuracy": 0.7}, ["energy"])
    found = searched(rows, question)
    assert found.best is not None
    best = found.best[0]
    assert (best.model, best.batch, best.image_size) == ("vgg16", 16, 224)
    assert len(found.tried) <= 24


# Made up, of the kind that two cores of an x86 take: milliseconds of a call by runtime, and times fp32's work by precision. An
# integer product of eager torch, and weights that it makes large for each use, are slow.
CALL_MS = {"eager": 0.2, "compiled": 0.1, "exported": 0.1, "onnxruntime": 0.02, "openvino": 0.03}
WORK = {"fp32": 1.0, "bf16": 0.6, "int8-dynamic": 0.5, "int8-static": 0.4, "w8": 2.5, "w16": 1.6}
INTEGERS, SMALL = ("int8-dynamic", "int8-static"), ("w8", "w16")
KNOWS = {
    "eager": ("fp32", "bf16", "int8-dynamic", *SMALL),
    "compiled": ("fp32", "bf16", "int8-dynamic"),
    "exported": ("fp32", "bf16", "int8-static"),
    "onnxruntime": ("fp32", *INTEGERS, *SMALL),
    "openvino": ("fp32", "bf16", *INTEGERS, *SMALL),
}
TOP1 = {"dense": 0.98, "filter50": 0.97, "svd50": 0.97, "prune90+sparse": 0.96}
KEPT = {"dense": 1.0, "filter50": 0.55, "svd50": 0.8, "prune90+sparse": 0.3}  # of the work, and of the bytes


def planted(image_ms: float, variants: Sequence[str], batches: Sequence[int], seed: int, weights: float = 1.0) -> list[Row]:
    """Make a grid as `plumbline fit` has it, of a net that takes so long for an image, with `weights` in MB.

    What a kernel is good at differs from runtime to runtime and from precision to precision, by a third or so, as `seed` has it.
    """
    draw, rows = random.Random(seed), []
    for runtime, precisions in KNOWS.items():
        speed = math.exp(draw.gauss(0, 0.3))
        for precision in precisions:
            kernel = math.exp(draw.gauss(0, 0.35)) * (6 if runtime == "eager" and precision in (*INTEGERS, "w8") else 1)
            for variant in variants if runtime == "eager" else [name for name in variants if "sparse" not in name]:
                work = image_ms * speed * kernel * WORK[precision] * KEPT[variant] * math.exp(draw.gauss(0, 0.15))
                for batch in batches:
                    ms = CALL_MS[runtime] + work * batch * (1 + 0.5 / batch + batch / 200)
                    top1 = TOP1[variant] - (0.01 if precision in INTEGERS else 0)
                    known: dict[str, Any] = {"top1": top1, "top1_low": top1 - 0.02, "top1_high": top1 + 0.01}
                    size = 1e6 * weights * KEPT[variant] * (0.25 if "8" in precision else 0.5 if "16" in precision else 1)
                    rows.append(
                        made(
                            runtime,
                            batch,
                            ms=ms,
                            precision=precision,
                            variant=variant,
                            stored_bytes=size,
                            p99_s=1.2e-3 * ms,
                            **known,
                        )
                    )
    return sorted(rows, key=lambda each: [each.variant != "dense", each.runtime != "eager", each.precision != "fp32"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("model", "image_ms", "weights"), [("mlp", 0.02, 9.0), ("small_cnn", 0.1, 0.2), ("resnet20", 1.0, 1.1)])
def test_a_quarter_of_the_grid_is_enough_for_the_pairs_of_the_trial(
    model: str, image_ms: float, weights: float, seed: int
) -> None:
    """The three models and budgets of tests/trials/fitting.py, with figures that are made up."""
    axes, limits = PAIRS[model]
    rows, question = planted(image_ms, axes["variant"], axes["batch"], seed, weights), Question(limits)
    best, found = brute_force(rows, question), searched(rows, question)
    assert best is not None
    assert found.best is not None
    assert found.question.order.value(found.best[1].row) == pytest.approx(question.order.value(best), rel=0.05)
    assert len(found.tried) <= len(rows) / 4


def test_of_many_grids_the_best_is_found_in_most_by_a_sixth_of_the_trials() -> None:
    """Kernels differ so much that it may take a change of runtime and precision at once."""
    question, shares, found = Question({"latency": 20e-3, "accuracy": 0.9}), [], 0
    for seed in range(40):
        rows = planted(0.3, ("dense", "filter50", "svd50"), (1, 4, 16, 64), seed)
        search, best = searched(rows, question), brute_force(rows, question)
        assert best is not None
        assert search.best is not None
        shares.append(len(search.tried) / len(rows))
        found += question.order.value(search.best[1].row) == question.order.value(best)
    assert found >= 34
    assert sum(shares) / len(shares) <= 1 / 6


@settings(max_examples=60, deadline=None)
@given(
    speeds=st.lists(st.floats(1, 9), min_size=4, max_size=4, unique=True),
    overhead=st.floats(0.1, 50),
    limit=st.floats(5, 2000),
    floor=st.sampled_from([0.0, 0.55, 0.65, 0.75]),
)
def test_where_axes_act_by_themselves_it_finds_the_best_of_the_grid(
    speeds: list[float], overhead: float, limit: float, floor: float
) -> None:
    """A runtime has a speed, a call an overhead, a picture its work and accuracy: in milliseconds."""
    rows = [
        made(runtime, batch, size, overhead + (size / 224) ** 2 * batch * 10 / speed, top1=top1, top1_low=top1, top1_high=top1)
        for runtime, speed in zip(RUNTIMES, speeds)
        for batch in BATCHES
        for size, top1 in zip(SIZES, (0.5, 0.6, 0.7, 0.8))
    ]
    question = Question({"latency": limit / 1e3, **({"accuracy": floor} if floor else {})})
    best, found = brute_force(rows, question), searched(rows, question)
    assert found.best is not None
    assert found.fits == (best is not None)
    if best is not None:
        assert found.best[1].row.key == best.key or found.question.order.value(found.best[1].row) == pytest.approx(
            found.question.order.value(best)
        )


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_nothing_that_is_ruled_out_fits_and_nothing_fits_is_never_said_of_a_grid_where_something_does(data: Any) -> None:
    """A larger batch or picture takes no less; else nothing is assumed of the grid, so a best one may be overlooked."""
    rows = []
    for runtime in RUNTIMES[:3]:
        start = data.draw(st.floats(0.1, 10))
        for size in SIZES:
            top1 = data.draw(st.sampled_from([0.5, 0.6, 0.7]))
            for batch in BATCHES:
                step = data.draw(st.floats(0, 2)) if batch > 1 else 0.0
                start += step
                rows.append(made(runtime, batch, size, start, top1=top1, top1_low=top1, top1_high=top1))
    question = Question({"latency": data.draw(st.floats(1e-4, 0.05)), "accuracy": data.draw(st.sampled_from([0.5, 0.6, 0.7]))})
    found, known = searched(rows, question), {cell_of(each): each for each in rows}
    assert found.fits == (brute_force(rows, question) is not None)
    assert not [cell for cell in found.out if not setting_of(known[cell], question).missed]
    assert found.fits or not found.left


@pytest.mark.parametrize(
    ("other", "question", "why"),
    [
        (made(batch=8, outcome="out_of_memory"), Question({"accuracy": 0.7}), "a smaller batch or picture was out of memory"),
        (made(batch=8, ms=40), Question({"p99": 33e-3}), "a smaller batch or picture is beyond the limit of p99"),
        (made(batch=8, process_bytes=3e9), Question({"memory": 2.6e9}), "beyond the limit of memory"),
        (made(batch=32, process_base_bytes=5e8), Question({"memory": 1e8}), "below what an empty process takes"),
        (made(batch=32, top1=0.5, top1_high=0.6), Question({"accuracy": 0.7}), "it missed the limit of top-1"),
        (made(batch=32, stored_bytes=9e6), Question({"size": 8e6}), "it missed the limit of size"),
        (made(batch=32, macs=10**9), Question({"macs": 6e8}), "it missed the limit of MACs"),
        (made(batch=8), Question({"latency": 1.0}, ["latency"]), "a smaller batch fits, and takes no longer"),
        (made("openvino", batch=32), Question({"accuracy": 0.7}), "its top-1 cannot be known"),
    ],
)
def test_what_rules_a_setting_out(other: Row, question: Question, why: str) -> None:
    cell = cell_of(made(batch=16))
    search = Search([cell_of(other), cell], question)
    search.learn(cell_of(other), other)
    assert search.next() is None
    assert why in search.out[cell].words


@pytest.mark.parametrize(
    ("other", "question"),
    [
        (made(batch=32, outcome="out_of_memory"), Question({"memory": 1e9})),  # a larger one says nothing
        (made(batch=32, process_base_bytes=5e8), Question({"memory": 6e8})),
        (made("openvino", batch=32, process_base_bytes=5e8), Question({"memory": 1e8})),  # of another runtime: an agent's, say
        (made(batch=32, ms=40), Question({"p99": 33e-3})),
        (made("openvino", batch=8, ms=40), Question({"p99": 33e-3})),  # nor does another runtime
        (made(batch=8, ms=33.2), Question({"p99": 33e-3})),  # an interval that reaches below the limit
        (made(batch=32, top1=0.7, top1_high=0.71, top1_low=0.69), Question({"accuracy": 0.7})),
        (made(batch=32, size=112, top1=0.5, top1_high=0.6), Question({"accuracy": 0.7})),  # another net's accuracy
        (made(batch=8, inference_bytes=3e9, inference_is_bound=True), Question({"inference_memory": 2e9})),  # at most that
        (made(batch=8, outcome="failed"), Question({"memory": 1e9})),  # at batch 8 alone, perhaps
        (made(batch=8, outcome="timed_out"), Question({"memory": 1e9})),  # its pictures took longer, one by one
        (made(batch=32, outcome="unsupported"), Question({"memory": 1e9})),  # an ONNX file of one batch, say
        (made(batch=8, ms=40, disturbed="others had a processor"), Question({"p99": 33e-3})),
        (made(batch=8, disturbed="others had a processor"), Question({"latency": 1.0}, ["latency"])),
        (made(batch=8, first_s=9.0), Question({"first": 1.0})),  # a cold reading, of one process
    ],
)
def test_what_does_not(other: Row, question: Question) -> None:
    cell = cell_of(made(batch=16))
    search = Search([cell_of(other), cell], question)
    search.learn(cell_of(other), other)
    assert search.next() == cell


def test_a_bound_rules_out_what_misses_a_limit_and_what_is_no_better_than_the_best() -> None:
    """The least time is 4 ms an image: batch 16 takes 64 ms; and where 300 images/s were seen, 250 are no better."""
    cells = [cell_of(made(batch=batch)) for batch in (1, 16)]
    late = Search(cells[1:], Question({"p99": 33e-3}), lambda cell: 4e-3 * cell.batch)
    assert late.next() is None
    assert late.out[cells[1]] == ("at the peak rates of the device an inference is beyond the limit of p99", "p99", 64e-3)
    search = Search(cells, Question({"accuracy": 0.5}), lambda cell: 4e-3 * cell.batch)
    assert search.next() is None or search.next() == cells[0]
    search.learn(cells[0], made(batch=1, ms=1000 / 300, top1_low=0.6))
    assert search.next() is None
    assert "no better than the best" in search.out[cells[1]].words


def test_limits_that_are_held_against_the_bound_alone() -> None:
    """As for a stand-in: what is measured says nothing of its speed, and the device's peak rates do."""
    cells = [cell_of(made(batch=batch)) for batch in (1, 16)]
    search = Search(cells, Question({}, ["accuracy"]), lambda cell: 4e-3 * cell.batch, {"p99": 33e-3})
    assert search.left == cells[:1]


def test_a_p99_of_too_few_samples_is_no_less_than_the_median() -> None:
    """So of two settings without one the search goes on from the nearer."""
    rows = [made(batch=1, ms=70, top1_low=0.9), made("openvino", ms=40, top1_low=0.9)]
    found = searched(rows, Question({"p99": 33e-3}))
    assert found.best is not None
    assert found.best[0].runtime == "openvino"
    assert not found.fits


def test_a_doubtful_setting_is_not_the_best() -> None:
    rows = [made(ms=10), made("openvino", ms=5, disturbed="others had a processor")]
    for allowed, runtime in (((), "eager"), (("disturbed",), "openvino")):
        found = searched(rows, Question({"latency": 1.0}, allowed=allowed))
        assert found.best is not None
        assert found.best[0].runtime == runtime


def test_an_empty_grid() -> None:
    with pytest.raises(ValueError, match="expected one setting at least, got none"):
        Search([], Question())


def test_two_steps_of_a_batch_cross_a_plateau() -> None:
    """Batch 2 is no better than 1, and batch 4 is."""
    rows = [made(batch=1, ms=1.0), made(batch=2, ms=2.02), made(batch=4, ms=2.5), made(batch=8, ms=6.0), made(batch=16, ms=13.0)]
    found = searched(rows, Question({"latency": 1.0}))
    assert found.best is not None
    assert found.best[0].batch == 4
    assert replace(found.best[1].row) in rows


def test_another_model_is_tried_at_its_own_size() -> None:
    """Of a net at 32 pixels and one at 224 the second is better; no cell differs from the first in the model alone."""
    rows = [made(size=32, ms=2.0), replace(made(size=224, ms=1.0), model="other"), replace(made(size=192, ms=0.9), model="other")]
    found = searched(rows, Question({"latency": 1.0}))
    assert found.best is not None
    assert (found.best[0].model, found.best[0].image_size) == ("other", 192)


def test_a_net_that_multiplies_nothing_has_no_bound() -> None:
    cells = [cell_of(made(batch=batch)) for batch in (1, 2)]
    search = Search(cells, Question({"latency": 1.0}), lambda _: 0.0)
    search.learn(cells[0], made(batch=1))
    assert search.next() == cells[1]
