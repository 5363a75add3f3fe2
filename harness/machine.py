"""The fingerprint: what this machine is, and in which state. No host name, user, serial number or path."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import asdict, replace

from plumbline import PlumblineError
from plumbline.harness.readings import Readings, read

SOURCES = Path(__file__).resolve().parents[1]  # the checkout or the installed package that measures
IMAGE = Path("/etc/plumbline-image.json")  # docker/fingerprint.py writes it, the last step of an image's build

# What may change between two sessions without making their figures incomparable.
STATE = ("id", "git_revision", "git_dirty")


class BadImage(PlumblineError, ValueError):
    """The image that this process runs in does not say what it is."""


class Image(Struct, frozen=True):
    """What an image says of itself: its base, by name and digest, and the versions of Python, torch's CUDA and each package."""

    base: str
    base_digest: str | None = None
    versions: dict[str, str] = {}


class _ImageFile(Image, frozen=True):
    revision: str | None = None


class Machine(Struct, frozen=True):
    """The fingerprint: everything about a machine that a latency depends on. `id` is a digest of it, less the revision.

    Versions of libraries are None where no probe was started. `git_revision` is the revision of plumbline that measures there:
    of the checkout, else of the image, else None. `image` is None outside of the images that docker/ builds. `emulator` names
    the program that stands in for the processor; None where that executes what is measured.
    """

    id: str = ""
    cpu_model: str = ""
    cpu_flags: str = ""
    cores_physical: int | None = None
    cores_logical: int | None = None
    cores_allowed: int = 1
    governor: str | None = None
    clock_max_hz: int | None = None
    memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    accelerator: str | None = None
    system: str = ""
    architecture: str = ""
    emulator: str | None = None
    kernel: str = ""
    container: str | None = None
    python: str = ""
    torch: str | None = None
    torch_cuda: str | None = None
    torch_cpu_capability: str | None = None
    blas: str | None = None
    onednn: bool | None = None
    threads: int | None = None
    libraries: dict[str, str] = {}
    git_revision: str | None = None
    git_dirty: bool | None = None
    image: Image | None = None

    @property
    def revision(self) -> str | None:
        """The revision of plumbline, with a + where files differ from it."""
        return None if self.git_revision is None else self.git_revision[:12] + ("+" if self.git_dirty else "")


def fingerprint(software: Mapping[str, Any] | None = None) -> Machine:
    """Look at this machine. `software` is what a process that has imported torch says of it, by the fields of Machine.

    Raises BadImage.
    """
    written = _image_file()
    here = Machine(
        cpu_model=cpu_model(),
        cpu_flags=" ".join(sorted(cpu_flags())),
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=psutil.cpu_count(),
        cores_allowed=allowed_cpus(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        clock_max_hz=_maximum_clock(),
        memory_bytes=psutil.virtual_memory().total,
        memory_limit_bytes=memory_limit(),
        accelerator=accelerator(),
        system=platform.system(),
        architecture=platform.machine(),
        emulator=emulator(),
        kernel=platform.release(),
        container=_container(),
        python=platform.python_version(),
        image=written and Image(written.base, written.base_digest, written.versions),
        **(software or {}),
    )
    return identified(here)


def identified(machine: Machine) -> Machine:
    """Return a fingerprint with its digest, and with the revision of plumbline that measures."""
    facts = msgspec.to_builtins(replace(machine, id="", git_revision=None, git_dirty=None))
    for later in ("image", "emulator"):
        if facts[later] is None:
            del facts[later]  # the id of a machine without one is what it was before there was this field
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    written = _image_file()
    own = _git("ls-files", "--error-unmatch", "harness/machine.py")  # an installed package may lie in a stranger's checkout
    revision = _git("rev-parse", "HEAD") if own else None
    if revision is None and written is not None and written.revision is not None:
        name = written.revision
        return replace(machine, id=digest, git_revision=name.rstrip("+"), git_dirty=name.endswith("+"))
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return replace(machine, id=digest, git_revision=revision, git_dirty=bool(changes) if revision else None)


def _image_file() -> _ImageFile | None:
    """Read what an image says of itself. Raises BadImage."""
    text = _read(str(IMAGE))
    try:
        return None if text is None else msgspec.json.decode(text, type=_ImageFile)
    except msgspec.DecodeError as error:
        raise BadImage(
            f"{IMAGE}: expected the JSON that the build of an image writes, got {error}; build the image again"
        ) from error


def differences(here: Machine, then: Machine) -> list[str]:
    """Say what differs between two fingerprints, apart from the revision."""
    now, before = asdict(here), asdict(then)
    return [f"{key}: {before[key]!r} then, {now[key]!r} now" for key in now if key not in STATE and now[key] != before[key]]


def state() -> Readings:
    """Read clock, hottest temperature and load of this machine, and what only some boards show."""
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "clock": read("Hz", "machine", round(clock.current * 1e6) if clock and clock.current else None),
        "temperature": read("°C", "machine", hottest(), "no sensor"),
        "load_1min": read("1", "machine", load),
        **board_state(),
    }


def hottest(root: Path = Path("/")) -> float | None:
    """Return the highest temperature of Linux' sensors below a root, in °C; None where there is none.

    psutil takes no root, so that no recorded device could be replayed, and takes JetPack 4's PMIC-Die for a sensor: it says
    100 °C always (NVIDIA's tegrastats shows it as PMIC@100C). A sensor of a part that is off shows garbage, as -256 °C.
    """
    zones = [zone for zone in root.glob("sys/class/thermal/thermal_zone*") if _read(str(zone / "type")) != "PMIC-Die"]
    files = [*(zone / "temp" for zone in zones), *root.glob("sys/class/hwmon/hwmon*/temp*_input")]
    found = [value / 1e3 for file in files if (value := _number(file)) is not None]
    return max((celsius for celsius in found if -100 < celsius < 200), default=None)


def clock(processors: Collection[int], root: Path = Path("/")) -> float | None:
    """Return the highest clock among some processors, in Hz: of those the one that asks is awake. None where Linux shows none.

    `state` has the mean over all processors, of which those that sleep have clocks that say nothing.
    """
    files = (root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq" for number in processors)
    found = [khz * 1e3 for file in files if (khz := _number(file)) is not None]
    if not found:
        cpuinfo = _read(str(root / "proc/cpuinfo")) or ""
        shown = re.findall(r"^processor\s*: (\d+)$.*?^cpu MHz\s*: ([\d.]+)$", cpuinfo, re.M | re.S)
        found = [float(mhz) * 1e6 for number, mhz in shown if int(number) in processors]
    return max(found, default=None)


# Where a Jetson's GPU is among the devices that scale their clock, by generation: Nano, TX2, Xavier, Orin, Thor.
_GPU_CLOCKS = ("*.gpu", "*.gp10b", "*.gv11b", "*.ga10b", "gpu-gpc-*")
# The firmware of a Raspberry Pi is soc:firmware up to 4, and soc@107c000000:firmware on 5.
_PI_THROTTLED = "sys/devices/platform/soc*/soc*:firmware/get_throttled"


def board_state(root: Path = Path("/")) -> Readings:
    """Read what only some boards show, and only that which is there.

    `gpu_clock` of a Jetson; `power_mode`, the number of its mode by nvpmodel; `throttled`, the bits by which a Raspberry Pi's
    firmware says what limits it: now 1 under-voltage, 2 a capped clock, 4 throttled, 8 too hot; times 65536: since it started
    (Raspberry Pi documentation, `vcgencmd get_throttled`).
    """
    clocks = (_number(file) for name in _GPU_CLOCKS for file in sorted(root.glob(f"sys/class/devfreq/{name}/cur_freq")))
    mode = re.match(r"pmode:(\d+)\b", _read(str(root / "var/lib/nvpmodel/status")) or "")  # JetPack 4: pmode:0000 fmode:quiet
    throttled = next((_read(str(file)) for file in root.glob(_PI_THROTTLED)), None) or ""
    found = {
        "gpu_clock": ("Hz", next((clock for clock in clocks if clock is not None), None)),
        "power_mode": ("1", int(mode[1]) if mode else None),
        "throttled": ("1", int(throttled, 16) if re.fullmatch("[0-9a-fA-F]+", throttled) else None),
    }
    return {name: read(unit, "machine", value) for name, (unit, value) in found.items() if value is not None}


def _number(file: Path) -> float | None:
    try:
        return float(_read(str(file)) or "")
    except ValueError:
        return None


class Capabilities(Struct, frozen=True):
    """What decides beforehand which cells a place can run.

    `cpu_flags` are those of its processor; `cuda` is why it has no CUDA device (None: it may have one); `runtimes` names those
    whose libraries are missing, each with what to install; `cpus` counts the processors that may be used; `data` are the folders
    of its data root.
    """

    cpu_flags: list[str]
    cuda: str | None
    runtimes: dict[str, str]
    cpu_model: str
    cpus: int
    data: list[str] = []


@cache
def allowed_processors() -> set[int]:
    """Return the numbers of the processors in this process's affinity mask."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def allowed_cpus(root: Path = Path("/")) -> int:
    """Processors this process may use: its affinity mask, cut down by the quota of any cgroup that it is in."""
    allowed = len(allowed_processors())
    for folder in _cgroups("cpu", root):
        quota = _read(str(folder / "cpu.max"))  # v2: "200000 100000" or "max 100000", in microseconds
        if quota is None:
            parts = [_read(str(folder / f"cpu.cfs_{part}_us")) or "-1" for part in ("quota", "period")]  # v1; -1 is no limit
            quota = "max" if "-1" in parts else " ".join(parts)
        if not quota.startswith("max"):
            most, period = map(int, quota.split())
            allowed = min(allowed, max(1, math.ceil(most / period)))
    return allowed


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroups, of v2 and of v1's `controller`: its own first, then those around it.

    Where /proc/self/cgroup names a path of the host's, as in a container on v1, only the last ones are there (man 7 cgroups).
    """
    for line in (_read(str(root / "proc/self/cgroup")) or f"0::/\n1:{controller}:/").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            own = PurePosixPath(path)
            for group in (own, *own.parents):
                yield root / "sys/fs/cgroup" / (controller if controllers else "") / group.relative_to("/")


@cache
def cpu_model() -> str:
    """Name the processor; one of ARM's by its kinds of cores, which Linux numbers, as `Cortex-A78AE`."""
    if not is_arm64():
        return _cpu_field("model name", "Model", "Hardware") or platform.processor() or platform.machine()
    cores = zip(_cpu_fields("CPU implementer"), _cpu_fields("CPU part"))
    named = dict.fromkeys(_CORES.get(core, "core {} of implementer {}".format(*reversed(core))) for core in cores)
    return " and ".join(named) or platform.machine()


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction set extensions that this process may use, as Linux names them; empty on other systems.

    /proc/cpuinfo is what the processor has. An emulator shows its host's, so the C library is asked, too, what it sees; and
    the variables by which oneDNN and torch are kept from using it all count.
    """
    if is_arm64() and platform.system() == "Linux":
        return _hwcap()
    flags = (_cpu_field("flags", "Features") or "").split()
    seen = _cpuid()
    return frozenset(flag for flag in flags if seen.get(flag, True) and not any(pattern.match(flag) for pattern in _caps()))


def emulator() -> str | None:
    """Name the program that executes our instructions in software, as `qemu-aarch64-static`; None where the processor does.

    QEMU's user mode answers itself what /proc/self/exe is, with the program that it emulates. What the kernel says of the
    thread is the program that really runs.
    """
    try:
        told, real = (os.readlink(f"/proc/{who}/exe") for who in ("self", "thread-self"))
    except OSError:  # no Linux, or one from before 3.17
        return None
    return None if told == real else Path(real).name


# What a latency depends on most, beside the model: the vectors, and the arithmetic in fewer bits.
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON", "neon": "NEON"}
_ARITHMETIC = {
    "VNNI": {"avx512_vnni", "avx_vnni"}, "dot products": {"asimddp"}, "i8mm": {"i8mm"}, "AMX": {"amx_int8", "amx_bf16"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}  # fmt: skip


def cpu_class(flags: Collection[str]) -> str:
    """Name the kind of processor by its instruction sets, as in `AVX2` or `AVX-512 with VNNI and bf16`.

    Figures of one kind say little about another, and each limit holds for one.
    """
    vectors = next((name for flag, name in _VECTORS.items() if flag in flags), "no known vectors")
    more = [name for name, needed in _ARITHMETIC.items() if needed & set(flags)]
    words = ", ".join(more[:-1]) + " and " * (len(more) > 1) + "".join(more[-1:])
    return f"{vectors} with {words}" if more else vectors


@cache
def _class_of(flags: str) -> str:
    return cpu_class(flags.split())


def described(machine: Machine) -> str:
    """Return a fingerprint in a few words, for the head of a table."""
    parts = [f"{machine.cpu_model} ({_class_of(machine.cpu_flags)})", f"{machine.cores_allowed} cores"]
    if machine.emulator:
        parts.append(f"emulated by {machine.emulator}, so the times are of no processor")
    return ", ".join([*parts, *([f"torch {machine.torch}"] if machine.torch else [])])


def limited_as() -> str:
    """Return the kind of processor, of those that limits were set for, that this one is held to: `AVX-512` or `AVX2`."""
    return "AVX-512" if "avx512f" in cpu_flags() else "AVX2"


def here() -> str:
    """Return the machine of this process in a few words."""
    return described(
        Machine(cpu_model=cpu_model(), cpu_flags=" ".join(cpu_flags()), cores_allowed=allowed_cpus(), emulator=emulator())
    )


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686")


def is_arm64() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


# What a value of ONEDNN_MAX_CPU_ISA (oneDNN, "CPU Dispatcher Control") or ATEN_CPU_CAPABILITY (torch) takes away.
_CAPS = {
    "SSE41|AVX|AVX2": r"avx512|amx|avx_vnni",
    "AVX2_VNNI|AVX2_VNNI_2": r"avx512|amx",
    "AVX512_CORE": r"avx512_(vnni|bf16|fp16)|amx|avx_vnni",
    "AVX512_CORE_VNNI": r"avx512_(bf16|fp16)|amx",
    "AVX512_CORE_BF16": r"avx512_fp16|amx",
    "DEFAULT": r"avx512|amx|avx_vnni",
}
# In CPUID's leaf 7, sub-leaves 0 and 1: glibc's number of the sub-leaf (sys/platform/x86.h), register from eax, bit.
_CPUID = {
    "avx2": (1, 1, 5), "avx512f": (1, 1, 16), "avx512_vnni": (1, 2, 11), "avx512_fp16": (1, 3, 23), "amx_bf16": (1, 3, 22),
    "avx_vnni": (6, 0, 4), "avx512_bf16": (6, 0, 5), "amx_fp16": (6, 0, 21),
}  # fmt: skip

# Linux, arch/arm64/include/uapi/asm/hwcap.h: the bits of AT_HWCAP and of AT_HWCAP2, from the lowest.
_HWCAP = {
    16: "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 "
    "asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg",
    26: "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 dgh",
}
# Numbers of implementer and part (of MIDR_EL1; Arm's manuals of the cores) of the boards in docs/devices.md, and of servers.
_CORES = {
    ("0x41", "0xd03"): "Cortex-A53", ("0x41", "0xd07"): "Cortex-A57", ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76", ("0x41", "0xd42"): "Cortex-A78AE", ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1", ("0x41", "0xd49"): "Neoverse-N2", ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE", ("0x4e", "0x003"): "Denver 2", ("0x4e", "0x004"): "Carmel",
}  # fmt: skip


def _caps() -> list[re.Pattern[str]]:
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    values = {os.environ[name].upper() for name in names if name in os.environ}
    return [re.compile(taken) for value, taken in _CAPS.items() if values & set(value.split("|"))]


def _cpuid() -> dict[str, bool]:
    """Whether the processor that this process sees has an extension; empty where glibc does not say (from 2.33 on it does)."""
    if not is_x86() or platform.system() != "Linux":
        return {}
    leaf = getattr(ctypes.CDLL(None), "__x86_get_cpuid_feature_leaf", None)
    if leaf is None:
        return {}
    leaf.restype, leaf.argtypes = ctypes.POINTER(ctypes.c_uint32 * 4), [ctypes.c_uint]
    return {flag: bool(leaf(index).contents[register] >> bit & 1) for flag, (index, register, bit) in _CPUID.items()}


def _hwcap() -> frozenset[str]:
    """Ask what the kernel, or an emulator in its place, lets a process use on arm64."""
    ask = ctypes.CDLL(None).getauxval
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return frozenset(name for kind, names in _HWCAP.items() for bit, name in enumerate(names.split()) if ask(kind) >> bit & 1)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the least memory limit of the cgroups that this process is in, of v2 or v1, in bytes; None where there is none."""
    total = psutil.virtual_memory().total
    files = (folder / name for folder in _cgroups("memory", root) for name, _ in _MEMORY)
    return min((int(limit) for file in files if (limit := _number(file)) is not None and limit < total), default=None)


def memory_free(root: Path = Path("/")) -> int:
    """Return how much memory this process can still get, in bytes: of the machine, and of each limit of its cgroups.

    What a cgroup holds of files that nobody uses can be had, too.
    """
    left = [float(psutil.virtual_memory().available)]
    for folder in _cgroups("memory", root):
        stat = dict(line.split() for line in (_read(str(folder / "memory.stat")) or "").splitlines())
        unused = float(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # v1 adds up what is below in the first
        for most, used in _MEMORY:
            limit, taken = _number(folder / most), _number(folder / used)
            if limit is not None and taken is not None:
                left.append(limit - taken + unused)
    return max(0, int(min(left)))


# Of a cgroup: its limit, and what it uses, by v2 and by v1.
_MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def cuda_device() -> str | None:
    """Why there can be no CUDA device here, judged without loading anything; None where there may be one."""
    files = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/nvmap", "/dev/dxg")
    if platform.system() == "Linux" and not any(Path(file).exists() for file in files):
        return "no CUDA device: none of the files of NVIDIA's driver is in /dev"
    return None


def oom_kills() -> int:
    """Count the processes that the kernel has killed for memory since it started; 0 where it does not count."""
    lines = (_read("/proc/vmstat") or "").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _cpu_field(*names: str) -> str | None:
    return next(iter(_cpu_fields(*names)), None)


def _cpu_fields(*names: str) -> list[str]:
    lines = (line.partition(":") for line in (_read("/proc/cpuinfo") or "").splitlines())
    return [value.strip() for key, _, value in lines if key.strip() in names]


def _maximum_clock() -> int | None:
    hz = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return int(hz) * 1000 if hz else None


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    # systemd-nspawn, lxc and podman set this variable, in small letters
    return os.environ.get("container") or ("podman" if Path("/run/.containerenv").exists() else None)  # noqa: SIM112


def accelerator() -> str | None:
    """Return the name and driver of the first NVIDIA GPU, or of a Jetson module; read from files, so nothing is initialised."""
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        fields = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
        version = (_read("/proc/driver/nvidia/version") or "").partition("Kernel Module")[2].split()
        return f"{fields.get('Model', 'NVIDIA GPU').strip()}, driver {version[0] if version else 'unknown'}"
    board = _read("/proc/device-tree/model")
    return board.rstrip("\0") if board else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(SOURCES), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
