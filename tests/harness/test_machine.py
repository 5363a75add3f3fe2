"""What is known of a machine."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import pytest
from msgspec.structs import replace

from plumbline.harness import machine
from tests.box import box


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("sse2 avx avx2 fma", "AVX2"),
        ("avx avx2 avx_vnni", "AVX2 with VNNI"),
        ("avx2 avx512f avx512_vnni avx512_bf16", "AVX-512 with VNNI and bf16"),
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_int8 avx512_fp16", "AVX-512 with VNNI, AMX, bf16 and fp16"),
        ("fp asimd", "NEON"),
        ("fp asimd asimdhp asimddp i8mm bf16 sve", "SVE with dot products, i8mm, bf16 and fp16"),
        ("", "no known vectors"),
    ],
)
def test_processors_are_named_by_their_kind(flags: str, kind: str) -> None:
    assert machine.cpu_class(flags.split()) == kind


A78AE = """\
processor\t: 0
model name\t: ARMv8 Processor rev 1 (v8l)
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: {}
"""
EPYC = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: avx2 avx512f\n"


@pytest.fixture
def arm64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process on arm64: what is asked of the C library is that of a Cortex-A76 under QEMU 7.2."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: LibraryOfArm64())


class LibraryOfArm64:
    def __init__(self) -> None:
        def getauxval(kind: int) -> int:
            return {16: 0x119FFB, 26: 0}[kind]

        self.getauxval = getauxval


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        (A78AE.format("0xd42"), "Cortex-A78AE"),
        (A78AE.format("0xd03") + A78AE.format("0xd03") + A78AE.format("0xd08"), "Cortex-A53 and Cortex-A72"),
        (A78AE.format("0xfff"), "core 0xfff of implementer 0x41"),
        (EPYC, "aarch64"),  # an emulator shows its host's: neither its name nor its instructions are ours
        (None, "aarch64"),
    ],
)
def test_a_processor_of_arms_is_named_by_its_cores(
    cpuinfo: str | None, model: str, arm64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: cpuinfo if path == "/proc/cpuinfo" else None)
    assert machine.cpu_model.__wrapped__() == model
    flags = machine.cpu_flags.__wrapped__()
    assert machine.cpu_class(flags) == "NEON with dot products and fp16"
    assert {"fphp", "atomics"} < flags
    assert not {"evtstrm", "sve", "avx2", "bf16"} & flags


def test_an_emulator_is_told_by_the_program_that_really_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"/proc/self/exe": "/usr/bin/python3.11", "/proc/thread-self/exe": "/usr/bin/qemu-aarch64-static"}
    monkeypatch.setattr(os, "readlink", lambda path: links[path])
    assert machine.emulator() == "qemu-aarch64-static"
    emulated = machine.fingerprint()
    assert emulated.emulator == "qemu-aarch64-static"
    assert "emulated by qemu-aarch64-static, so the times are of no processor" in machine.described(emulated)
    links["/proc/thread-self/exe"] = links["/proc/self/exe"]
    assert machine.emulator() is None
    own = machine.fingerprint()
    assert "emulated" not in machine.described(own)
    assert own.id != emulated.id
    assert machine.identified(replace(emulated, emulator=None)).id == own.id


@pytest.mark.parametrize(
    ("name", "hottest", "shown"),
    [
        ("jetson_nano", (41.5, 44.5), [{"gpu_clock": 76.8e6, "power_mode": 0}, {"gpu_clock": 921.6e6, "power_mode": 0}]),
        ("orin_nano", (47.0, 56.0), [{"gpu_clock": 306e6, "power_mode": 0}, {"gpu_clock": 1020e6, "power_mode": 0}]),
        ("agx_orin", (None, None), [{"power_mode": 3}] * 2),
        ("raspberry_pi_5", (52.65, 84.15), [{"throttled": 0}, {"throttled": 0xE000E}]),
        ("x86_laptop", (45.0, 82.0), [{}, {}]),
    ],
)
def test_the_state_of_devices_that_are_not_here(
    name: str, hottest: tuple[float | None, float | None], shown: list[dict[str, float]], tmp_path: Path
) -> None:
    """At rest and busy; a sensor that is none (PMIC-Die) and one of a part that is off (-256 °C) do not count."""
    device = box(name, tmp_path)
    for temperature, others in zip(hottest, shown, strict=True):
        assert machine.hottest(device.root) == temperature
        assert {quantity: reading.value for quantity, reading in machine.board_state(device.root).items()} == others
        device.clock.advance(10.0)


def test_what_a_sensor_shows_that_is_no_number_does_not_count(tmp_path: Path) -> None:
    device = box("orin_nano", tmp_path)
    device.changes = {"sys/class/thermal/thermal_zone0/temp": "", "var/lib/nvpmodel/status": "pmode:x"}
    device.clock.advance(0.0)
    assert machine.hottest(device.root) is None
    assert set(machine.board_state(device.root)) == {"gpu_clock"}
