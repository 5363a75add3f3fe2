"""Targets: a place and a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.harness.target import HERE, BadTarget, Target
from tests.records import cell_of

NAME = st.from_regex(r"[a-z][a-z0-9.:/-]{0,12}", fullmatch=True).filter(
    lambda name: name.partition(":")[0] not in ("cpu", "cuda")
)


@pytest.mark.parametrize(
    ("text", "place", "device"),
    [
        ("cpu", HERE, "cpu"),
        ("cuda:1", HERE, "cuda:1"),
        ("board", "board", "cpu"),
        ("board@cuda", "board", "cuda"),
        ("registry:5000/image:tag@cuda:1", "registry:5000/image:tag", "cuda:1"),
    ],
)
def test_a_target_is_a_place_and_a_device(text: str, place: str, device: str) -> None:
    assert Target.parse(text) == (place, device)
    cell = cell_of(target=text)
    assert (cell.place, cell.device, cell.device_kind) == (place, device, device.partition(":")[0])


@given(NAME, st.sampled_from(["cpu", "cuda", "cuda:3"]))
def test_a_target_parses_in_one_way(place: str, device: str) -> None:
    assert Target.parse(f"{place}@{device}") == (place, device)
    assert Target.parse(place) == (place, "cpu")


@pytest.mark.parametrize("text", ["", "@cpu", "board@tpu", "board@", "@"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(BadTarget, match="expected a target as cpu, cuda:1, PLACE or PLACE@cuda:1, got"):
        Target.parse(text)
