"""What an inference does and asks for, worked out by hand on small nets, and beside the formulas of registered ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from plumbline import models
from plumbline.models.counting.operations import Trace, trace, trace_net
from plumbline.models.layers import macs

torch = pytest.importorskip("torch")
nn = torch.nn


def traced(net: Any, *shape: int) -> Trace:
    return trace_net(net.eval().to("meta"), torch.empty(shape, device="meta"))


def test_two_layers_by_hand() -> None:
    """3 pictures of 4 numbers, 8 hidden ones, 2 classes, of 4 bytes: 96 and 48 MACs, and 24 numbers that are asked for twice."""
    found = traced(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 3, 4)
    assert [(each.name, each.macs) for each in found.operations] == [("aten::addmm", 96), ("aten::relu", 0), ("aten::addmm", 48)]
    # bias, pictures, weights and result; the input and the result; bias, input, weights and result
    assert [each.bytes for each in found.operations] == [4 * (8 + 12 + 32 + 24), 4 * (24 + 24), 4 * (2 + 24 + 16 + 6)]
    assert found.weights_bytes == 4 * (32 + 8 + 16 + 2)
    sizes = [size for _, size in found.asked]
    assert sizes == [96, 96, 0, 24, 0, 0]  # the first is given back when the second is there
    (first, _), (second, _), (freed, _), *_ = found.asked
    assert freed == first != second


def test_what_works_in_place_asks_for_nothing_and_a_view_is_no_operation() -> None:
    found = traced(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten()), 2, 3, 4, 4)
    assert [each.name for each in found.operations] == ["aten::relu_"]
    assert found.asked == ()


def test_a_convolution_copies_its_result_in_blocks_of_channels() -> None:
    """8 channels of 4 x 4 numbers become 16 of them; that is there until torch's own result is."""
    found = traced(nn.Conv2d(3, 8, 3, padding=1, bias=False), 1, 3, 4, 4)
    (copy, copied), (result, own), freed, last = found.asked
    assert (copied, own) == (16 * 16 * 4, 8 * 16 * 4)
    assert (freed, last) == ((copy, 0), (result, 0))


def test_what_lies_in_its_input_takes_nothing_where_a_graph_is_known() -> None:
    """A convolution of 8 channels, a batch norm and a ReLU: one result of 4 x 4 numbers; the next convolution needs two."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    result = 8 * 16 * 4
    found = traced(nn.Sequential(*layers), 1, 3, 4, 4)
    assert (found.live_bytes, found.kernels_bytes) == (result, 4 * 8 * 27)
    assert traced(nn.Sequential(*layers, nn.Conv2d(8, 8, 1)), 1, 3, 4, 4).live_bytes == 2 * result


def test_what_is_read_again_is_kept() -> None:
    class Around(nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, pictures: Any) -> Any:
            first = pictures * 2
            return torch.relu(first) * first

    assert traced(Around(), 1, 3, 4, 4).live_bytes == 2 * 48 * 4


def test_it_asks_for_what_torch_asks_for() -> None:
    """As torch's profiler sees it on the CPU: the most that is there at one time, with convolutions and without."""
    from torch.profiler import ProfilerActivity, profile

    for name, size, batch in (("squeezenet1_1", 128, 2), ("mixer_s16", 32, 2)):
        model = models.find(name)
        net, pictures = model.instantiate(size).eval(), torch.rand(batch, 3, size, size)
        with torch.inference_mode():
            net(pictures)
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                net(pictures)
        events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
        ours = itertools.accumulate(_signed(trace(model, size, batch).asked))
        assert max(ours) == pytest.approx(max(held), rel=0.03), name


def _signed(asked: tuple[tuple[int, int], ...]) -> Iterator[int]:
    """Yield what is asked for, and what is given back as less than nothing."""
    sizes = {number: size for number, size in asked if size}
    for number, size in asked:
        yield size or -sizes[number]


@pytest.mark.parametrize(
    ("name", "size"), [("resnet50", 224), ("mobilenet_v3_large", 224), ("mixer_s16", 224), ("vit_tiny", 224), ("mlp", 28)]
)
def test_its_macs_are_those_of_the_formula(name: str, size: int) -> None:
    model = models.find(name)
    formula = model.formula(size)
    assert formula is not None
    assert trace(model, size, 2).macs == 2 * macs(formula)


def test_half_as_wide_numbers_ask_for_half() -> None:
    model = models.find("resnet20")
    whole, half = (trace(model, 32, 4, dtype) for dtype in ("float32", "bfloat16"))
    asked, of_half = (sum(size for _, size in each.asked) for each in (whole, half))
    assert of_half == pytest.approx(asked / 2, rel=1e-3)  # statistics stay as they are
    assert half.weights_bytes < 0.6 * whole.weights_bytes  # counters of batches stay as they are


def test_everything_that_is_asked_for_is_given_back() -> None:
    asked = trace(models.find("resnet20"), 32).asked
    given = [number for number, size in asked if size]
    assert sorted(given) == sorted(number for number, size in asked if not size)
    assert len(set(given)) == len(given)


def test_a_net_whose_way_depends_on_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="ssdlite320_mobilenet_v3_large: expected a torch net that takes pictures alone"):
        trace(models.find("ssdlite320_mobilenet_v3_large"), 320)
