"""The file of devices: what it holds, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.harness import devices
from plumbline.harness.devices import BadDevices, Peaks, UnknownDevice

BOARD = """
[device.board]
name = "A board"
kind = "cuda"
matches = "Board"
bytes_per_s = 20e9
source = "its sheet"
[device.board.mode.10W]
flop_per_s = { fp32 = 200e9, fp16 = 400e9 }
[device.board.mode.5W]
flop_per_s = { fp32 = 100e9 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "devices.toml"


def test_every_device_of_ours_has_a_source_and_a_rate_in_fp32() -> None:
    found = devices.load()
    assert {"jetson-nano", "jetson-tx2", "jetson-orin-nano", "raspberry-pi-5", "h100-sxm"} <= set(found)
    for device in found.values():
        assert device.source
        assert device.peaks().macs_per_s["fp32"] > 0


@pytest.mark.parametrize(
    ("says", "kind", "name"),
    [
        ("NVIDIA Jetson Nano Developer Kit", "cuda", "jetson-nano"),
        ("NVIDIA Jetson Orin Nano Developer Kit Super", "cuda", "jetson-orin-nano"),
        ("NVIDIA Orin NX Developer Kit", "cuda", "jetson-orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "cuda", "jetson-agx-orin"),
        ("Jetson-AGX", "cuda", "jetson-agx-xavier"),
        ("quill", "cuda", "jetson-tx2"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "cuda", "jetson-thor"),
        ("Raspberry Pi 5 Model B Rev 1.0", "cpu", "raspberry-pi-5"),
        ("NVIDIA H100 80GB HBM3, driver 570.1", "cuda", "h100-sxm"),
        ("NVIDIA GeForce RTX 3070, driver 570.1", "cuda", "rtx-3070"),
    ],
)
def test_a_device_is_known_by_what_it_says_that_it_is(says: str, kind: str, name: str) -> None:
    known = devices.load()
    assert devices.matching(says, kind, known) is known[name]


@pytest.mark.parametrize(
    "says", ["NVIDIA GeForce RTX 3070 Ti, driver 1", "NVIDIA GeForce RTX 3070 Laptop GPU", "NVIDIA H100 PCIe", None]
)
def test_another_device_is_not_taken_for_one_that_is_known(says: str | None) -> None:
    with pytest.raises(UnknownDevice, match="peak"):
        devices.matching(says, "cuda", devices.load())


def test_the_fastest_mode_counts_where_none_is_named(file: Path) -> None:
    file.write_text(BOARD)
    board = devices.load(file)["board"]
    assert board.peaks().macs_per_s == {"fp32": 100e9, "fp16": 200e9}
    assert board.peaks("5W").macs_per_s == {"fp32": 50e9}
    with pytest.raises(UnknownDevice, match="expected one of the modes 10W, 5W, got '7W'"):
        board.peaks("7W")


def test_a_bandwidth_that_one_mode_lacks_is_unknown() -> None:
    modes = {"a": devices.Mode({"fp32": 1e9}, 1e9), "b": devices.Mode({"fp32": 1e9})}
    assert devices.Device("d", "cuda", "d", "tests", modes).peaks().bytes_per_s is None


def test_a_file_of_ones_own_comes_before_ours(file: Path) -> None:
    file.write_text(BOARD.replace('"Board"', '"Jetson Nano"'))
    assert devices.matching("NVIDIA Jetson Nano Developer Kit", "cuda", devices.known(file)).name == "A board"


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        ("bytes_per_s", "bandwidth", "unknown field `bandwidth`.*expected tables"),
        ('kind = "cuda"', 'kind = "gpu"', "'board': kind: expected cpu or cuda, got 'gpu'"),
        ("fp16 =", "fp64 =", "'board': mode '10W', flop_per_s: expected fp32, tf32, bf16, fp16, int8, got 'fp64'"),
        ("fp32 = 100e9", "fp16 = 100e9", "mode '5W', flop_per_s: expected fp32 among them, got fp16"),
        ("200e9", "200", "flop_per_s.fp32: expected a base unit a second, got 200; GB, GFLOP/s and the like are written as"),
        ("20e9", "25.6", "bytes_per_s: expected a base unit a second, got 25.6"),
        ('"its sheet"', '"its sheet"\nmemory_bytes = 4', "memory_bytes: expected bytes, got 4"),
        ('"its sheet"', '"its sheet"\nheadroom = 0.5', "headroom: expected 1 or more, got 0.5"),
        ('"Board"', '"("', "matches: expected a regular expression"),
        ("20e9", '"fast"', "Expected `float | null`, got `str`"),
        ("[device.board]", "[devices.board]", "unknown field `devices`"),
        ("[device.board]", "[device.board", "expected tables"),
    ],
)
def test_what_is_wrong_is_named(file: Path, wrong: str, right: str, says: str) -> None:
    assert wrong in BOARD
    file.write_text(BOARD.replace(wrong, right))
    with pytest.raises(BadDevices, match=says):
        devices.load(file)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(BadDevices, match=r"devices.toml: cannot be read: No such file"):
        devices.load(file)


def test_a_name_that_is_nearly_known_is_offered() -> None:
    with pytest.raises(
        UnknownDevice,
        match=r"no device .jetson-nana. \(did you mean jetson-nano.*describe yours in a file that \$PLUMBLINE_DEVICES names",
    ):
        devices.named("jetson-nana", devices.load())


def test_the_fastest_format_that_a_cell_may_use_counts() -> None:
    peaks = Peaks("d", "tests", {"fp32": 1e9, "fp16": 2e9, "int8": 4e9}, headroom=1.5)
    assert [peaks.of(name) for name in ("fp32", "fp16", "int8-static", "int8-dynamic", "w8", "w16")] == [
        1.5e9, 3e9, 6e9, 6e9, 6e9, 3e9,
    ]  # fmt: skip
    with pytest.raises(UnknownDevice, match="no peak rate of d in bf16 is known"):
        peaks.of("bf16")
