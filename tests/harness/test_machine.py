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
        ("thor", (None, None), [{"power_mode": 1}] * 2),
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


def test_a_power_mode_with_that_of_the_fan_beside_it(tmp_path: Path) -> None:
    """As JetPack 4 writes it."""
    device = box("jetson_nano", tmp_path)
    device.changes = {"var/lib/nvpmodel/status": "pmode:0001 fmode:quiet"}
    device.clock.advance(0.0)
    assert machine.board_state(device.root)["power_mode"].value == 1


def test_the_clock_is_the_highest_of_the_processors_in_question(tmp_path: Path) -> None:
    assert machine.clock({0, 1}, tmp_path) is None
    (tmp_path / "proc").mkdir()
    rows = [
        f"processor\t: {number}\nmodel name\t: a processor\ncpu MHz\t\t: {mhz}\n"
        for number, mhz in enumerate((800.5, 2600.0, 3000.0))
    ]
    (tmp_path / "proc/cpuinfo").write_text("\n".join(rows))
    assert machine.clock({0, 1}, tmp_path) == 2.6e9
    device = box("raspberry_pi_5", tmp_path / "pi")
    assert machine.clock({0}, device.root) == 2.4e9
    device.clock.advance(10.0)
    assert machine.clock({0}, device.root) == 1.5e9


MIB = 2**20
V1_UNLIMITED = "9223372036854771712"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


# Of each layout: the files, the limit, and what of it is not used yet.
CGROUPS: dict[str, tuple[dict[str, str], int | None, int | None]] = {
    "v2, in a container of its own": (
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": str(64 * MIB),
            "sys/fs/cgroup/memory.current": str(50 * MIB),
            "sys/fs/cgroup/memory.stat": f"anon {20 * MIB}\ninactive_file {10 * MIB}",
        },
        64 * MIB,
        24 * MIB,
    ),
    "v2, a service of a host, whose slice has less": (
        {
            "proc/self/cgroup": "0::/jobs.slice/job.service",
            "sys/fs/cgroup/jobs.slice/memory.max": str(32 * MIB),
            "sys/fs/cgroup/jobs.slice/memory.current": str(8 * MIB),
            "sys/fs/cgroup/jobs.slice/job.service/memory.max": "max",
            "sys/fs/cgroup/jobs.slice/job.service/memory.current": str(8 * MIB),
        },
        32 * MIB,
        24 * MIB,
    ),
    "v1, a job of a host": (
        {
            "proc/self/cgroup": "5:memory:/slurm/job\n4:cpu,cpuacct:/\n1:name=systemd:/\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(100 * MIB),
            "sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes": str(48 * MIB),
            "sys/fs/cgroup/memory/slurm/job/memory.usage_in_bytes": str(40 * MIB),
            "sys/fs/cgroup/memory/slurm/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {MIB}",
        },
        48 * MIB,
        9 * MIB,
    ),
    "v1, in a container that sees the host's names": (
        {
            "proc/self/cgroup": "5:memory:/docker/1234abcd",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(64 * MIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(60 * MIB),
        },
        64 * MIB,
        4 * MIB,
    ),
    "v2, no limit": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/user.slice/memory.max": str(MIB)}, None, None),
    "no cgroups": ({}, None, None),
}


@pytest.mark.parametrize("layout", CGROUPS)
def test_memory_is_limited_by_every_cgroup_around_this_process(layout: str, tmp_path: Path) -> None:
    files, limit, free = CGROUPS[layout]
    root = tree(tmp_path, files)
    assert machine.memory_limit(root) == limit
    if free is None:
        assert machine.memory_free(root) > 64 * MIB, "what the machine has"
    else:
        assert machine.memory_free(root) == free


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"proc/self/cgroup": "0::/a.slice/b.scope", "sys/fs/cgroup/a.slice/cpu.max": "150000 100000"}, 2),
        ({"proc/self/cgroup": "0::/a.slice/b.scope", "sys/fs/cgroup/a.slice/b.scope/cpu.max": "max 100000"}, 8),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/job",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        ({}, 8),
    ],
)
def test_processors_are_those_that_every_cgroup_allows(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "allowed_processors", lambda: set(range(8)))
    assert machine.allowed_cpus(tree(tmp_path, files)) == cpus
