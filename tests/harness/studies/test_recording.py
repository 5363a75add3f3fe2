"""A device in a file: this machine's own, and one that changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.harness.studies import recording
from tests.box import DEVICES, Box, Clock, box


def test_this_machine_goes_round(tmp_path: Path) -> None:
    """What is replayed is what was seen; whatever changed between two looks is left out."""
    before = recording.look(Path("/"))
    assert "proc/sys/kernel/osrelease" in before
    replayed = recording.look(Box(recording.written([recording.State(0.0, before)], "this machine"), tmp_path).root)
    assert {name: text for name, text in before.items() if not text.startswith(recording.UNREADABLE)} == {
        name: text for name, text in replayed.items() if not before[name].startswith(recording.UNREADABLE)
    }


def test_what_changes_is_recorded_when_it_does(tmp_path: Path) -> None:
    """The laptop, seen for 11 s: replayed, it is what it was."""
    first = box("x86_laptop", tmp_path / "first")
    states = recording.record(first.root, 11.0, first.clock, first.clock.advance)
    assert len(states) > 50
    assert "sys/class/hwmon/hwmon2/temp1_label" not in states[1].files, "what does not change stands there once"
    hot = next(state for state in states if state.files.get("sys/class/hwmon/hwmon2/temp1_input") == "82000")
    assert hot.since_s == pytest.approx(10.0, abs=0.11)
    second = Box(recording.written(states, "again"), tmp_path / "second")
    second.clock.advance(first.clock.now)
    assert recording.look(second.root) == recording.look(first.root)


def test_only_what_tells_nothing_of_its_owner_is_recorded(tmp_path: Path) -> None:
    """A keyboard's battery is called by the keyboard's own address."""
    for supply in ("BAT0", "hid-12:34:56:78:9a:bc-battery"):
        (tmp_path / "sys/class/power_supply" / supply).mkdir(parents=True)
        (tmp_path / "sys/class/power_supply" / supply / "power_now").write_text("5000000\n")
    assert set(recording.look(tmp_path)) == {"sys/class/power_supply/BAT0/power_now"}


def test_what_the_harness_reads_of_throttling_is_recorded(tmp_path: Path) -> None:
    names = {
        "sys/devices/system/cpu/cpu3/thermal_throttle/package_throttle_count",
        "sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq",
        "sys/class/hwmon/hwmon1/oc1_event_cnt",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
    }
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    assert set(recording.look(tmp_path)) == names


def test_what_cannot_be_read_is_recorded_as_that(tmp_path: Path) -> None:
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").mkdir(parents=True)  # reading a folder fails, for root, too
    states = recording.record(tmp_path, 0.0, Clock(), lambda seconds: None)
    text = recording.written(states, "")
    assert text == "@ 0\nsys/class/thermal/thermal_zone0/temp ! Is a directory\n"
    assert recording.parsed(text) == states


def test_line_breaks_and_letters_survive() -> None:
    states = [recording.State(0.0, {"a/name": "two\nlines, \\ and µ€\x00", "a/empty": ""}), recording.State(0.5, {"a/name": "x"})]
    assert recording.parsed(recording.written(states, "a\nb")) == states


@pytest.mark.parametrize(
    "text",
    ["sys/a = 1", "@ 0\nsys/a 1", "@ soon", "@ 0\nsys/a", "@ 0\nsys/a = \\x"],
    ids=["no start", "no sign", "no time", "no text", "no escape"],
)
def test_a_file_that_is_no_recording(text: str) -> None:
    with pytest.raises(recording.BadRecording, match=r"line \d: "):
        recording.parsed(text)


@pytest.mark.parametrize("path", sorted(DEVICES.glob("*.txt")), ids=lambda path: path.stem)
def test_a_device_holds_only_what_a_recording_would(path: Path, tmp_path: Path) -> None:
    """Else a real one could not take its place."""
    states = recording.parsed(path.read_text())
    assert set(recording.look(box(path.stem, tmp_path).root)) == set(states[0].files)


def test_the_command_writes_what_can_be_read(tmp_path: Path) -> None:
    out, root = tmp_path / "device.txt", box("orin_nano", tmp_path / "root").root
    command = [sys.executable, "-m", "plumbline.harness", "record-device", "-o", str(out), "--seconds", "0", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 later moments" in done.stderr
    (state,) = recording.parsed(out.read_text())
    assert state.files["proc/device-tree/model"] == "NVIDIA Jetson Orin Nano Developer Kit"
