"""Targets: a place and a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.harness.target import HERE, BadTarget, Target, stood_in, stood_in_by
from tests.records import cell_of

PLACE = st.one_of(
    st.from_regex(r"[a-z][a-z0-9.-]{0,12}", fullmatch=True).filter(lambda name: name not in ("cpu", "cuda")),
    st.from_regex(r"docker:[a-z][a-z0-9.:/-]{0,12}(@sha256:[0-9a-f]{4})?", fullmatch=True),
    st.from_regex(r"ssh:([a-z]{1,4}@)?[a-z][a-z0-9.-]{0,12}(/docker:[a-z][a-z0-9.:/-]{0,12})?", fullmatch=True),
    st.from_regex(r"like:[a-z][a-z0-9.-]{0,12}(/docker:[a-z][a-z0-9.:/-]{0,12})?", fullmatch=True),
).filter(lambda name: name.rpartition("@")[2] not in ("cpu", "cuda"))


@pytest.mark.parametrize(
    ("text", "place", "device"),
    [
        ("cpu", HERE, "cpu"),
        ("cuda:1", HERE, "cuda:1"),
        ("board", "board", "cpu"),
        ("board@cuda", "board", "cuda"),
    ],
)
def test_a_target_is_a_place_and_a_device(text: str, place: str, device: str) -> None:
    assert Target.parse(text) == (place, device)
    cell = cell_of(target=text)
    assert (cell.place, cell.device, cell.device_kind) == (place, device, device.partition(":")[0])


@given(PLACE, st.sampled_from(["cpu", "cuda", "cuda:3"]))
def test_a_target_parses_in_one_way(place: str, device: str) -> None:
    assert Target.parse(f"{place}@{device}") == (place, device)
    assert Target.parse(place) == (place, "cpu")


@pytest.mark.parametrize("text", ["", "@cpu", "board@tpu", "board@", "@"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(BadTarget, match=r"expected a target as cpu, cuda:1, docker:IMAGE, .*; got"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("text", "place", "device"),
    [
        ("docker:plumbline", "docker:plumbline", "cpu"),
        ("docker:registry:5000/plumbline:1.2@cuda:1", "docker:registry:5000/plumbline:1.2", "cuda:1"),
        ("docker:plumbline@sha256:0a1b", "docker:plumbline@sha256:0a1b", "cpu"),
        ("docker:plumbline@sha256:0a1b@cuda", "docker:plumbline@sha256:0a1b", "cuda"),
        ("ssh:ann@orin.lab", "ssh:ann@orin.lab", "cpu"),
        ("ssh:ann@orin.lab@cuda", "ssh:ann@orin.lab", "cuda"),
        ("ssh:orin/docker:plumbline:l4t@cuda", "ssh:orin/docker:plumbline:l4t", "cuda"),
        ("like:jetson-nano/docker:plumbline:l4t", "like:jetson-nano/docker:plumbline:l4t", "cpu"),
    ],
)
def test_a_place_elsewhere_parses_in_one_way(text: str, place: str, device: str) -> None:
    assert Target.parse(text) == (place, device)
    assert Target.parse(f"{place}@{device}") == (place, device)


@pytest.mark.parametrize(
    "text",
    ["docker:", "ssh:", "ssh:-oProxyCommand=x", "docker:-v", "ssh:a b", "ssh:host/", "/docker:x", "ssh:host/podman:x",
     "docker:x y", "board@tpu", "like:nano/docker:", "like:nano/docker:-v", "like:nano/ssh:x"],
)  # fmt: skip
def test_what_ssh_or_docker_would_take_for_something_else_is_refused(text: str) -> None:
    with pytest.raises(BadTarget, match="expected a target as cpu, cuda:1, docker:IMAGE, ssh:HOST"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("place", "device", "image"),
    [("like:nano", "nano", None), ("like:nano/docker:own:1", "nano", "own:1"), ("docker:own:1", None, None)],
)
def test_a_stand_in_names_a_device_and_where_need_be_an_image(place: str, device: str | None, image: str | None) -> None:
    assert (stood_in(place), stood_in_by(place)) == (device, image)
