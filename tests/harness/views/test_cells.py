"""One cell in detail, as `plumbline show RUN` prints it."""

from __future__ import annotations

import pytest

from plumbline.harness import roofline
from plumbline.harness.devices import Peaks
from plumbline.harness.facts import Bound, OnDevice, Work
from plumbline.harness.journal import RunError
from plumbline.harness.views import cells
from tests.records import cell_of, latency_of, record_of, replace, timing_of

PEAKS = Peaks("a board, 10W", "its sheet", {"fp32": 1e9}, 1e9, 1 << 20, 1.5)


def test_a_cell_shows_its_latency_and_how_many_times_the_bound_it_is() -> None:
    bound = roofline.bound(Work("fp32", 3_000_000, 1_500_000.0, 4 << 20), PEAKS)
    text = cells.one(record_of(latency=latency_of(8e-3, samples=9), bound=bound))
    assert "one request, waited for, by the host's clock: median 8 ms, 9 samples" in text
    assert "bound: 2.1 ms; the median is 3.81 times its bound" in text
    assert "compute: 1 ms for 3 M MACs, by the best algorithm 1.5 M multiplications, at 1.5 GMAC/s" in text
    assert "bandwidth: 2.1 ms for what caches of 1 MiB do not hold of 4 MiB of weights, at 1.5 GB/s" in text
    assert "peaks: a board, 10W; its sheet; 1.5 times that is allowed for" in text


def test_both_clocks_of_a_gpu_are_labelled() -> None:
    device = OnDevice(timing_of(7e-3, 64), [2e-3], 14, 500.0)
    cuda = cell_of(target="cuda")
    text = cells.one(record_of(cuda, latency=replace(latency_of(8e-3, 9), on_device=device)))
    assert "by the clock of cuda: median 7 ms, 64 samples" in text
    assert "pipelined, 14 requests queued and waited for once: 500 images/s" in text
    none = replace(device, events=None, unavailable="it has a queue of its own")
    assert "by the clock of cuda: unavailable: it has a queue of its own" in cells.one(
        record_of(cuda, latency=replace(latency_of(8e-3, 9), on_device=none))
    )


def test_what_has_no_bound_says_why() -> None:
    assert "bound: none: nobody knows it" in cells.one(record_of(latency=latency_of(), bound=Bound(missing=["nobody knows it"])))
    assert "bound: none in this record" in cells.one(record_of(latency=latency_of()))
    nothing = roofline.bound(Work("fp32", 0, 0.0, 0), PEAKS)
    assert "bound: none: it multiplies nothing" in cells.one(record_of(latency=latency_of(), bound=nothing))


def test_one_cell_is_chosen_by_words_of_its_id() -> None:
    both = [record_of(cell_of(precision=precision)) for precision in ("fp32", "bf16")]
    assert cells.select(both, "bf16") is both[1]
    with pytest.raises(RunError, match="expected one cell, got 2"):
        cells.select(both, None)
    with pytest.raises(RunError, match="expected one cell with 'fp8' in its id, got 0; known:"):
        cells.select(both, "fp8")
