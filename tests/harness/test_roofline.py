"""The bound: by hand, and that nothing possible is below it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline import models
from plumbline.harness import roofline
from plumbline.harness.devices import Peaks
from plumbline.harness.facts import Promise, Work
from plumbline.harness.roofline import bound, fewer, least_macs, reduction, work
from plumbline.models.layers import Layer, conv2d, linear

PEAKS = Peaks("d", "tests", {"fp32": 1e9, "int8": 4e9}, 1e9, 1000, 1.0)
PRUNED = Promise(100, 60, 50, 60, 1000, 600, 500, 400, 240, None)


def test_a_fast_algorithm_spares_what_its_paper_says() -> None:
    assert fewer(3) == 36 * 9 / 64  # F(6x6, 3x3): 8 x 8 multiplications for 36 outputs
    assert fewer(3) > 4, "F(4x4, 3x3) of Lavin & Gray"
    assert fewer(5) == pytest.approx(28**2 * 25 / (32 * 17 * 4))


@pytest.mark.parametrize(
    ("layer", "spares"),
    [
        (conv2d("3x3", 64, 64, 3, 56), fewer(3)),
        (conv2d("depthwise", 64, 64, 3, 56, groups=64), fewer(3)),
        (conv2d("1x1", 64, 64, 1, 56), 1),
        (linear("of one row", 576, 10), 1),
        (linear("of many rows", 512, 10, rows=196), 1),
    ],
)
def test_only_what_may_be_such_a_convolution_is_spared(layer: Layer, spares: float) -> None:
    assert reduction(layer) == spares


def test_zeros_are_where_the_best_algorithm_leaves_most() -> None:
    layers = [conv2d("3x3", 1, 1, 3, 10), linear("l", 100, 3)]  # 900 MACs of which most may be spared, and 300
    assert least_macs(layers, 1200) == 900 / fewer(3) + 300
    assert least_macs(layers, 900) == 900 / fewer(3)
    assert least_macs(layers, 1000) == 900 / fewer(3) + 100


def test_work_is_what_is_not_zero_and_weights_come_once_a_batch() -> None:
    layers = [linear("l", 100, 6, bias=False), Layer("norm", 200)]
    assert work(layers, None, "fp32", 8) == Work("fp32", 8 * 600, 8 * 600.0, 600 * 4)
    assert work(layers, None, "int8-static", 8).weights_bytes == 600
    assert work(layers, PRUNED, "fp32", 1) == Work("fp32", 500, 500.0, 50 * 4)


def test_the_larger_term_counts_and_caches_hold_what_they_can() -> None:
    found = bound(Work("fp32", 2000, 2000.0, 1500), PEAKS)
    assert (found.compute_s, found.bandwidth_s, found.seconds) == (2e-6, 5e-7, 2e-6)
    assert bound(Work("fp32", 2000, 2000.0, 500), PEAKS).bandwidth_s == 0
    assert bound(Work("fp32", 100, 100.0, 2000), PEAKS).seconds == 1e-6
    assert bound(Work("int8-static", 2000, 2000.0, 0), PEAKS).compute_s == 5e-7


def test_what_is_not_known_is_missing_by_name() -> None:
    found = bound(Work("fp16", 1, 1.0, 1), Peaks("d", "tests", {"fp32": 1e9}))
    assert found.seconds is None
    assert "no peak rate of d in fp16" in found.missing[0]
    assert "the memory bandwidth of d is not known" in found.missing[1]
    cached = bound(Work("fp16", 1000, 1000.0, 500), Peaks("d", "tests", {"fp32": 1e9}, 1e9, 1000))
    assert (cached.seconds, cached.bandwidth_s) == (None, 0.0), "that caches hold its weights bounds nothing"
    half = bound(Work("fp32", 1000, 1000.0, 1), Peaks("d", "tests", {"fp32": 1e9}, 1e9))
    assert half.seconds == half.compute_s == 1e-6
    assert "the size of the last cache of d is not known" in half.missing[0]


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(1, 4), st.sampled_from([1, 3, 5]), st.integers(1, 9)), min_size=1, max_size=6
    )
)
def test_no_distribution_of_zeros_takes_fewer_multiplications(shapes: list[tuple[int, int, int, int]]) -> None:
    layers = [conv2d(str(index), inputs, outputs, kernel, size) for index, (inputs, outputs, kernel, size) in enumerate(shapes)]
    for left in (0, 1, 2, 3):
        kept = [layer.macs * left // 3 for layer in layers]
        needed = sum(count / reduction(layer) for count, layer in zip(kept, layers))
        assert least_macs(layers, sum(kept)) <= needed * (1 + 1e-9)


def test_a_resnet_is_spared_four_fifths_of_its_3x3_convolutions_at_most() -> None:
    layers = models.find("resnet50").formula(224)
    assert layers is not None
    macs = sum(layer.macs for layer in layers)
    assert macs / fewer(3) < least_macs(layers, macs) < macs
    assert roofline.KERNELS[0] == 3
