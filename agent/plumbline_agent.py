#!/usr/bin/env python3
"""The agent: runs one ONNX file at a time on a board that cannot run the harness, and answers in lines of JSON.

One file, standard library only, Python 3.6 or later: copy it to the board, and name the command that starts it in targets.toml
(docs/agent.md). Reference, agreement and records stay with the probe that starts it; here a net is executed and timed.

A message is a line of JSON with a `type`; where it has a `body`, so many bytes follow the line. One request is answered by one
message. The first message is Hello, or Busy where somebody else measures here:

    Has(sha256), File(sha256, body)         Answer           keep a file, by its digest
    Open(sha256, backend, ..., body)        Opened           load it, and do a real first inference, in a process of its own
    Run(body)                               Outputs(body)    one inference, float32 in and out
    Time(warmup_s, sampling_s, ...)         Timed            single inferences, in seconds by this machine's clock
    Memory, State                           Answer           readings of the process that runs it, and of the machine
    Close                                   Answer           end that process

Ended instead of an answer says why there is none. When stdin is closed, what runs here is killed.

    plumbline_agent.py --overhead           what timing one inference adds to it, by an inference that does nothing
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import glob
import hashlib
import json
import math
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from functools import lru_cache

AGENT = 1  # raised whenever an older probe or agent would misread a message
SPARE_BYTES = 32 << 20  # that stay free on the disk
CHUNK = 1 << 20
HANG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0x2000)
SYSFS, DEV = os.environ.get("PLUMBLINE_SYSFS", "/sys"), os.environ.get("PLUMBLINE_DEV", "/dev")  # others in tests
TRTEXEC = ("/usr/src/tensorrt/bin/trtexec",)
STEADY, WINDOW_CALLS, WINDOW_S, PATIENCE = 0.02, 5, 0.02, 5  # those of harness/timing.py
LONG_S = 0.2  # between two readings of power
clock = time.perf_counter


class Ended(Exception):
    """Why there is no answer: an outcome of harness/outcomes.py, a sentence, and the axis to blame."""

    def __init__(self, outcome, reason, axis=None):
        super().__init__(reason)
        self.outcome, self.reason, self.axis = outcome, reason, axis

    def message(self):
        return {"type": "Ended", "outcome": self.outcome, "reason": self.reason, "axis": self.axis}


# -- messages ---------------------------------------------------------------------------------------------------


class Pipe:
    """Messages over two file descriptors."""

    def __init__(self, read, write):
        self.read_end, self.write_end = read, write
        self._rest = b""

    def receive(self):
        """Return the next message and nothing of its body; None at the end of the stream."""
        while b"\n" not in self._rest:
            part = os.read(self.read_end, 1 << 16)
            if not part:
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line.decode())
            return message if isinstance(message["type"], str) else None
        except (ValueError, KeyError, TypeError):
            sys.exit(f"expected a line of JSON with a type, got {line[:80]!r}; a probe starts this agent (docs/agent.md)")

    def body(self, size):
        """Yield the bytes that belong to a message, in parts. Raises EOFError where they do not come."""
        while size > 0:
            part, self._rest = self._rest[:size], self._rest[size:]
            part = part or os.read(self.read_end, min(size, CHUNK))
            if not part:
                raise EOFError("the stream ended inside a body")
            size -= len(part)
            yield part

    def whole(self, message):
        return b"".join(self.body(message.get("body", 0)))

    def send(self, message, body=b""):
        if body:
            message = dict(message, body=len(body))
        self._write(json.dumps(message).encode() + b"\n")
        self._write(body)

    def _write(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_end, view) :]

    @classmethod
    def over_stdio(cls):
        """Take stdin and stdout for messages; what anybody prints goes to stderr from now on."""
        pipe = cls(os.dup(0), os.dup(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        return pipe


# -- what this machine is ---------------------------------------------------------------------------------------


def text_of(path):
    """Return what a small file says; None where it says nothing."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip().strip("\0")
    except OSError:
        return None


def number_of(path):
    text = text_of(path)
    try:
        return float(text) if text else None
    except ValueError:
        return None


def cpu_field(*names):
    for line in (text_of("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return None


def allowed_cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board():
    """Name the accelerator: a Jetson with its release and power mode, or a GPU with its driver."""
    model = text_of("/proc/device-tree/model")
    if model:
        parts = [model]
        release = re.search(r"# (R\d+).*?REVISION: ([\d.]+)", text_of("/etc/nv_tegra_release") or "")
        if release:
            parts.append("L4T {}.{}".format(*release.groups()))
        mode = re.search(r"pmode:(\d+)", text_of("/var/lib/nvpmodel/status") or "")
        if mode:
            parts.append(f"power mode {int(mode.group(1))}")
        return ", ".join(parts)
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        fields = dict(line.split(":", 1) for line in (text_of(path) or "").splitlines() if ":" in line)
        version = (text_of("/proc/driver/nvidia/version") or "").partition("Kernel Module")[2].split()
        return "{}, driver {}".format(fields.get("Model", "NVIDIA GPU").strip(), version[0] if version else "unknown")
    return None


def cuda_missing():
    """Why there can be no CUDA device here, judged by the driver's files; None where there may be one."""
    if any(os.path.exists(os.path.join(DEV, name)) for name in ("nvidia0", "nvhost-gpu", "nvgpu", "nvmap", "dxg")):
        return None
    return "no CUDA device there: none of the files of NVIDIA's driver is in /dev"


def machine():
    """Return the fields of harness/machine.py's Machine that can be known without its libraries."""
    memory = re.search(r"MemTotal:\s+(\d+)", text_of("/proc/meminfo") or "")
    fastest = number_of("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    libraries = {"plumbline agent": str(AGENT)}
    libraries.update({name: version for name, version in backends().items() if version is not None})
    return {
        "cpu_model": cpu_field("model name", "Model", "Hardware") or platform.processor() or platform.machine(),
        "cpu_flags": " ".join(sorted((cpu_field("flags", "Features") or "").split())),
        "cores_logical": os.cpu_count(),
        "cores_allowed": allowed_cpus(),
        "governor": text_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_max_hz": None if fastest is None else int(fastest) * 1000,
        "memory_bytes": int(memory.group(1)) * 1024 if memory else 0,
        "accelerator": board(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "container": "docker" if os.path.exists("/.dockerenv") else os.environ.get("container"),  # noqa: SIM112
        "python": platform.python_version(),
        "threads": allowed_cpus(),
        "libraries": libraries,
    }


def reading(unit, scope, values, reason="this system does not tell", rate_hz=None, inferences=None):
    """Make a Reading of harness/readings.py; no values are unavailable for that reason."""
    values = [] if values is None else values if isinstance(values, list) else [values]
    found = {"unit": unit, "scope": scope, "values": values}
    if not values:
        found["unavailable"] = reason
    if values and rate_hz is not None:
        found["rate_hz"] = rate_hz
    if values and inferences is not None:
        found["inferences"] = inferences
    return found


def state():
    """Read clocks, hottest temperature and load."""
    khz = number_of(SYSFS + "/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    heat = []
    for zone in glob.glob(SYSFS + "/class/thermal/thermal_zone*"):
        kind, value = text_of(zone + "/type") or "", number_of(zone + "/temp")
        if value is not None and "PMIC" not in kind:  # that of a Nano always says 100 degrees
            heat.append(value / 1000)
    gpus = [number_of(path + "/cur_freq") for path in glob.glob(SYSFS + "/class/devfreq/*")
            if re.search(r"gpu|gp10b|gv11b|ga10b", os.path.basename(path))]  # fmt: skip
    gpus = [value for value in gpus if value is not None]
    found = {
        "clock": reading("Hz", "machine", None if khz is None else khz * 1000),
        "temperature": reading("°C", "machine", max(heat) if heat else None, "no sensor"),
        "load_1min": reading("1", "machine", round(os.getloadavg()[0], 2)),
    }
    if gpus:
        found["gpu_clock"] = reading("Hz", "machine", max(gpus))
    return found


# -- power ------------------------------------------------------------------------------------------------------


class Power:
    """The board's power by its INA3221, INA226 or INA238, as hwmon or, on JetPack 4, as iio; both forms of NVIDIA's kernels."""

    TOTAL = ("VDD_IN", "POM_5V_IN", "VIN", "VIN_SYS_5V0")
    SKIPPED = ("", "NC")

    def __init__(self):
        self.rails = {}  # name: a function that returns watts, or None
        self.rate_hz = 1 / LONG_S
        for name in sorted(glob.glob(SYSFS + "/bus/i2c/devices/*/name")):
            if re.match(r"ina(3221|226|238)", text_of(name) or ""):
                folder = os.path.dirname(name)
                self._look_for_iio(folder)
                self._look_for_hwmon(folder)
        total = [name for name in self.TOTAL if name in self.rails]
        self.used = total[:1] or sorted(self.rails)
        self.samples = []

    def _look_for_iio(self, folder):
        for label in sorted(glob.glob(folder + "/iio*device*/rail_name_*")):
            channel = label.rpartition("_")[2]
            path = f"{os.path.dirname(label)}/in_power{channel}_input"
            self._add(text_of(label), lambda path=path: _scaled(1e-3, path))

    def _look_for_hwmon(self, folder):
        for chip in sorted(glob.glob(folder + "/hwmon/hwmon*")):
            interval = number_of(chip + "/update_interval")  # in ms
            if interval:
                self.rate_hz = min(self.rate_hz, 1000 / interval)
            for label in sorted(glob.glob(chip + "/in*_label")):
                channel = re.search(r"in(\d+)_label$", label)
                if channel and channel.group(1) != "7":  # the sum of the shunts
                    paths = [f"{chip}/{kind}{channel.group(1)}_input" for kind in ("in", "curr")]
                    self._add(text_of(label), lambda paths=paths: _scaled(1e-6, *paths))
            whole = chip + "/power1_input"
            if os.path.exists(whole) and not glob.glob(chip + "/in*_label"):
                self._add(text_of(chip + "/label") or "VIN", lambda path=whole: _scaled(1e-6, path))

    def _add(self, name, read):
        if name not in self.SKIPPED and name is not None and read() is not None:
            self.rails[name] = read

    def sample(self):
        """Read all rails once."""
        watts = [self.rails[name]() for name in self.used]
        if watts and None not in watts:
            self.samples.append(round(sum(watts), 6))

    def read(self, inferences):
        """Return the samples since it was made, and what they are."""
        reason = "no INA3221, INA226 or INA238 in {}".format(SYSFS + "/bus/i2c/devices") if not self.used else (
            f"it lasted shorter than {1 / self.rate_hz:g} s")  # fmt: skip
        found = reading("W", "machine", self.samples, reason, self.rate_hz, inferences)
        whole = len(self.used) == 1 and self.used[0] in self.TOTAL
        remark = [] if whole or not self.samples else ["power is the sum of the rails {}".format(", ".join(self.used))]
        return found, remark


def _scaled(factor, *paths):
    """Return the product of what files say, in watts; None where one says nothing."""
    for path in paths:
        value = number_of(path)
        if value is None:
            return None
        factor *= value
    return factor


# -- the lock ---------------------------------------------------------------------------------------------------


def lock_path():
    """Return the file that harness/lock.py locks on this machine."""
    named = os.environ.get("PLUMBLINE_LOCK")
    if named:
        return named
    for folder in ("/run/lock/plumbline", "/tmp/plumbline-lock"):
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            with contextlib.suppress(PermissionError):
                os.chmod(folder, 0o777)
            if os.access(folder, os.W_OK):
                return os.path.join(folder, "machine")
    return "/tmp/plumbline.lock"


def take_lock(wait_s, who):
    """Take this machine's lock; returns None, or a sentence that names who has it after so many seconds."""
    path, ends = lock_path(), clock() + wait_s
    note = path + ".holder"
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            return f"the lock {path!r} cannot be taken: {error.strerror}; name another with $PLUMBLINE_LOCK"
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(lock), os.stat(path)):
                break  # and nobody has removed the file meanwhile
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return f"the lock {path!r} cannot be taken: {error.strerror}; name another with $PLUMBLINE_LOCK"
        os.close(lock)
        if clock() >= ends:
            who = text_of(note)
            return ("another session{} is measuring on this machine, and two at once would ruin both their numbers; wait for it, "
                    "or let this one wait: --wait SECONDS".format(f" ({who})" if who else ""))  # fmt: skip
        time.sleep(0.05)
    for name in (path, note):
        with contextlib.suppress(OSError):
            os.chmod(name, 0o666)
    with contextlib.suppress(OSError), open(note, "w") as file:
        since = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        file.write(f"{who}, since {since} UTC, process {os.getpid()}")
    return None


# -- files ------------------------------------------------------------------------------------------------------


def cache():
    folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "plumbline", "agent")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Ended("unavailable", f"the folder {folder!r} cannot be made there: {error.strerror}", "target") from error
    return folder


def kept(sha256):
    return os.path.join(cache(), sha256 + ".onnx")


def full(needed, what):
    free = shutil.disk_usage(cache()).free
    takes, there = f"{needed / 2**20:.1f} MiB", f"{free / 2**20:.1f} MiB"
    return Ended("unavailable", f"its disk is full: {what} takes {takes}, and {there} are free there; empty {cache()}", "target")


def keep(pipe, message):
    """Write what follows a message to the disk, and check it."""
    size = message["body"]
    parts = pipe.body(size)
    try:
        path = kept(message["sha256"])
        if shutil.disk_usage(cache()).free < size + SPARE_BYTES:
            raise full(size, "the ONNX file")
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=cache(), delete=False) as file:
            try:
                for part in parts:
                    digest.update(part)
                    file.write(part)
                file.close()
                if digest.hexdigest() != message["sha256"]:
                    raise Ended("crashed", "the ONNX file arrived damaged: expected {}, got {}".format(
                        message["sha256"][:12], digest.hexdigest()[:12]))  # fmt: skip
                os.rename(file.name, path)
            finally:
                with contextlib.suppress(OSError):
                    os.remove(file.name)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise full(size, "the ONNX file") from error
    finally:
        for _ in parts:  # so that the next message begins where this one ends
            pass


def onnx_versions(path):
    """Return the IR version of an ONNX file and its opset, by the two fields of ModelProto (onnx.proto) that hold them."""
    ir_version = opset = None
    with open(path, "rb") as file:
        size = os.path.getsize(path)
        while file.tell() < size:
            key = _varint(file)
            kind = key & 7
            if kind == 0:
                value = _varint(file)
                ir_version = value if key >> 3 == 1 else ir_version
            elif kind == 2:
                length = _varint(file)
                if key >> 3 == 8:  # opset_import
                    opset = max(opset or 0, _opset(file.read(length)) or 0)
                else:
                    file.seek(length, 1)
            elif kind in (1, 5):
                file.seek(8 if kind == 1 else 4, 1)
            else:
                raise ValueError("no protobuf")
    if ir_version is None or not opset:
        raise ValueError("no ONNX model")
    return ir_version, opset


def _varint(file):
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("no protobuf")
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value


def _opset(data):
    """Return the version of an OperatorSetIdProto; None of a domain that is not ONNX's own."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        domain, version = b"", None
        while file.tell() < len(data):
            key = _varint(file)
            if key & 7 == 2:
                domain = file.read(_varint(file))
            else:
                version = _varint(file)
    return version if domain in (b"", b"ai.onnx") else None


# -- timing: the rules of harness/timing.py, here on the clock of the device ----------------------------------------


def sample(call, count):
    """Time `count` calls one by one, in seconds; `call` returns when its work is done."""
    durations = []
    for _ in range(count):
        start = clock()
        call()
        durations.append(clock() - start)
    return durations


def median(values):
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def warm_up(call, budget_s):
    """Call until the medians of two windows differ by less than 2 %; returns calls, seconds, and whether they did."""
    calls, spent, last = 0, 0.0, None
    while True:
        window, begun = [], spent
        while len(window) < WINDOW_CALLS or spent - begun < WINDOW_S:
            window += sample(call, 1)
            calls, spent = calls + 1, spent + window[-1]
            if spent >= budget_s and (calls >= 2 * WINDOW_CALLS or spent >= PATIENCE * budget_s):
                return calls, spent, False
        middle = median(window)
        if last is not None and abs(middle - last) <= STEADY * last:
            return calls, spent, True
        last = middle


def known(samples, within):
    """Whether the median's 95 % interval, by ranks of the normal approximation of a binomial, is that narrow."""
    count, ordered = len(samples), sorted(samples)
    rank = math.floor(count / 2 - 0.98 * math.sqrt(count)) - 1
    if rank < 0:
        return False
    middle = median(ordered)
    return max(middle - ordered[rank], ordered[count - 1 - rank] - middle) <= within * middle


def measure(call, asked, budget_s):
    """Warm up, then sample until the median is known or the budget is spent."""
    few = asked.get("few")
    gc.collect()
    gc.disable()
    try:
        if few is not None:
            warmed, warmed_s, steady = 1, sample(call, 1)[0], False
            samples = sample(call, few)
        else:
            warmed, warmed_s, steady = warm_up(call, asked["warmup_s"])
            samples = sample(call, 1)
            while sum(samples) < budget_s and len(samples) < asked["max_samples"]:
                more = max(1, min(len(samples) // 2, asked["max_samples"] - len(samples)))
                if len(samples) < asked["min_samples"]:
                    more = min(more, asked["min_samples"] - len(samples))
                spent = sum(samples)
                samples += sample(call, min(more, int((budget_s - spent) / (spent / len(samples))) + 1))
                if len(samples) >= asked["min_samples"] and known(samples, asked["median_within"]):
                    break
    finally:
        gc.enable()
    return {"samples_s": samples, "warmup": warmed, "warmup_s": warmed_s, "steady": steady}


def overhead(count=20000):
    """Return what a timed iteration adds, in µs: to the sample itself, and to the loop around it."""
    nothing = lambda: None  # noqa: E731
    sample(nothing, count)
    started = clock()
    samples = sample(nothing, count)
    whole = clock() - started
    return median(samples) * 1e6, whole / count * 1e6


# -- what runs an ONNX file -------------------------------------------------------------------------------------


class OnnxRuntime:
    """A session of ONNX Runtime, in this process."""

    # What it reads: opset and IR version, by its own table (onnxruntime, docs/Versioning.md).
    READS = {(1, 4): (12, 7), (1, 5): (12, 7), (1, 6): (13, 7), (1, 7): (13, 7), (1, 8): (14, 7), (1, 9): (15, 8),
             (1, 10): (15, 8), (1, 11): (16, 8), (1, 12): (17, 8), (1, 13): (17, 8), (1, 14): (18, 8), (1, 15): (19, 9),
             (1, 16): (19, 9)}  # fmt: skip

    def __init__(self, asked, path):
        if asked["precision"] != "fp32":
            raise Ended("unsupported", "ONNX Runtime computes in the numbers of the file, which are fp32; got {}".format(
                asked["precision"]), "precision")  # fmt: skip
        self._base = status_bytes("VmRSS")
        import numpy
        import onnxruntime

        self.version, self._numpy, self._asked = onnxruntime.__version__, numpy, asked
        check_readable(path, "ONNX Runtime " + self.version, self.reads(self.version))
        kind, _, number = asked["device"].partition(":")
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[kind]
        if provider not in onnxruntime.get_available_providers():
            raise Ended("unavailable", f"ONNX Runtime {self.version} there has no {provider}", "target")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = allowed_cpus(), 1
        self._options = options
        chosen = [(provider, {"device_id": number or "0"})] if kind == "cuda" else [provider]
        self._session = onnxruntime.InferenceSession(path, options, providers=chosen)
        if self._session.get_providers()[0] != provider:  # it falls back without an error
            got = self._session.get_providers()[0]
            raise Ended("unavailable", f"expected ONNX Runtime to run on {provider}, it fell back to {got}", "target")
        self.threads, self._provider = allowed_cpus(), provider

    @classmethod
    def reads(cls, version):
        """Return opset and IR version that it reads; None where that is not known, and it will say for itself."""
        return cls.READS.get(tuple(int(part) for part in version.split(".")[:2]))

    def _call(self, data):
        placed = self._numpy.frombuffer(data, self._numpy.float32).reshape(self._asked["shape"])
        return lambda: self._session.run(self._asked["outputs"], {self._asked["input"]: placed})

    def first(self, data):
        """The first inference of this process; returns its outputs and seconds."""
        call, outputs = self._call(data), []
        (seconds,) = sample(lambda: outputs.append(call()), 1)
        return self._named(outputs[0]), seconds

    def run(self, data):
        return self._named(self._call(data)())

    def _named(self, outputs):
        arrays = [self._numpy.ascontiguousarray(output, self._numpy.float32) for output in outputs]
        return [(list(one.shape), one.tobytes()) for one in arrays]

    def time(self, data, asked):
        model = measure(self._call(data), asked, asked["sampling_s"])
        whole = measure(lambda: self.run(data), asked, asked["sampling_s"] / 2)
        return model, whole, []

    def details(self):
        return {"threads": self.threads, "provider": self._provider}

    def memory(self):
        kept_back = "ONNX Runtime's arena keeps what the first inference took, and a further one takes nothing"
        return {
            "inference": reading("byte", "inference", None, kept_back),
            "process_peak": reading("byte", "process", status_bytes("VmHWM")),
            "process_base": reading("byte", "process", self._base),
        }


class Trtexec:
    """TensorRT by its command line tool, which is there with every JetPack; each inference that is not timed starts it anew.

    What it reads and writes is that of TensorRT 8.2 (samples/trtexec and samples/common/sampleReporting.cpp in NVIDIA/TensorRT):
    `--exportTimes` a list of {"startComputeMs", "computeMs", "latencyMs", ...}, warm-up included; `--exportOutput` a list of
    {"name", "dimensions", "values"} with six digits.
    """

    LAYER = re.compile(r"Layer\((?P<kind>\w+)\): (?P<name>.*?), (?:Tactic: [^,]+, )?(?P<given>.*) -> (?P<made>.*)$")
    TENSOR = re.compile(r"\[(\w+)\(([-\d,]*)\)\]|\((\w+)\[([-\d,]*)\]\)")  # 8.2, and 8.5
    MULTIPLY = re.compile(r"Conv|Gemm|MatrixMultiply|FullyConnected|MatMul|gemm|Myelin")
    FORMATS = {"Float": "float32", "Half": "float16", "Int8": "int8"}

    def __init__(self, asked, path):
        self._asked, self._command = asked, self.find()
        if self._command is None:
            raise Ended("unavailable", f"there is no trtexec, neither {TRTEXEC[0]} nor on the PATH", "runtime")
        if not asked["device"].startswith("cuda"):
            raise Ended("unsupported", "TensorRT runs on cuda, got {}".format(asked["device"]), "target")
        self.version = self.version_of(self._command)
        if self.version is None:
            raise Ended("unavailable", f"{self._command} does not start there: it said no version", "runtime")
        self._number = tuple(int(part) for part in self.version.split("."))
        check_readable(path, "TensorRT " + self.version, self.reads(self.version))
        self._scratch = asked["scratch"]
        self._peak, self._managed, self._seen = 0, None, {}
        shape = "x".join(map(str, asked["shape"]))
        self._shapes = ["--shapes={}:{}".format(asked["input"], shape)] if asked["dynamic"] else []
        key = "-".join((os.path.basename(path)[:16], asked["precision"], shape, self.version, asked["device"].replace(":", "")))
        self._engine, self._about = os.path.join(cache(), key + ".engine"), os.path.join(cache(), key + ".json")
        if not (os.path.exists(self._engine) and os.path.exists(self._about)):
            self._build(path)
        with open(self._about) as file:
            self._layers = json.load(file)

    @classmethod
    def find(cls):
        named = [path for path in (os.environ.get("PLUMBLINE_TRTEXEC"), *TRTEXEC) if path and os.access(path, os.X_OK)]
        return named[0] if named else shutil.which("trtexec")

    @staticmethod
    @lru_cache()
    def version_of(command):
        """Return the version that trtexec says: v8201 is 8.2.1, v100200 is 10.2.0."""
        try:
            said = subprocess.run([command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        found = re.search(r"\[TensorRT v(\d+)\]", said.decode(errors="replace"))
        if not found:
            return None
        number = int(found.group(1))
        parts = (number // 10000, number // 100 % 100, number % 100) if number >= 100000 else (
            number // 1000, number // 100 % 10, number % 100)  # fmt: skip
        return "{}.{}.{}".format(*parts)

    @classmethod
    def reads(cls, version):
        """TensorRT 8.2 reads operators up to opset 13 (onnx-tensorrt, docs/operators.md of release/8.2-GA)."""
        return (13, 8) if tuple(int(part) for part in version.split(".")[:2]) <= (8, 2) else None

    def _build(self, path):
        """Build the engine, and keep it with what the builder says of its layers."""
        made = os.path.join(self._scratch, "made.engine")
        only = "--skipInference" if self._number >= (8, 6, 0) else "--buildOnly"
        room = ["--workspace=1024"] if self._number < (8, 4, 0) else []  # in MiB; it takes 16 otherwise
        half = ["--fp16"] if self._asked["precision"] == "fp16" else []
        detailed = ["--profilingVerbosity=detailed"] if self._number >= (8, 4, 0) else []
        options = [only, "--noTF32", "--verbose", *self._shapes, *room, *half, *detailed, *self._on()]
        said = self._trtexec([f"--onnx={path}", f"--saveEngine={made}", *options])
        layers = []
        for line in said.splitlines():
            found = self.LAYER.search(line)
            if found:
                given, out = self.TENSOR.findall(found.group("given")), self.TENSOR.findall(found.group("made"))
                if given and out:
                    dimensions = [abs(int(part)) for part in re.findall(r"\d+", out[0][1] or out[0][3])]
                    kind = given[0][0] or given[0][2]
                    layers.append({"name": found.group("name"), "operator": found.group("kind"),
                                   "multiplies": bool(self.MULTIPLY.search(found.group("kind"))),
                                   "format": self.FORMATS.get(kind, kind.lower()), "outputs": dimensions})  # fmt: skip
        size = os.path.getsize(made)
        try:
            shutil.copyfile(made, self._engine + ".part")
            with open(self._about, "w") as file:
                json.dump(layers, file)
            os.rename(self._engine + ".part", self._engine)
        except OSError as error:
            for name in (self._engine + ".part", self._about):
                with contextlib.suppress(OSError):
                    os.remove(name)
            if error.errno != errno.ENOSPC:
                raise
            raise full(size, "the engine") from error

    def _on(self):
        number = self._asked["device"].partition(":")[2]
        return ["--device=" + number] if number else []

    def _trtexec(self, arguments):
        """Run it to its end; returns what it wrote."""
        log = os.path.join(self._scratch, "log")
        with open(log, "wb") as file:
            process = subprocess.Popen([self._command, *arguments], stdin=subprocess.DEVNULL, stdout=file,
                                       stderr=subprocess.STDOUT, cwd=self._scratch, preexec_fn=die_with_parent)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        self._peak = max(self._peak, usage.ru_maxrss * 1024)
        with open(log, errors="replace") as file:
            said = file.read()
        for managed in re.findall(r"TensorRT-managed allocation in IExecutionContext creation: .*now: CPU \d+, GPU (\d+)", said):
            self._managed = max(self._managed or 0, int(managed) << 20)
        if status != 0:
            raise self._failure(status, said)
        return said

    def _failure(self, status, said):
        lines = [line for line in said.splitlines() if "[E]" in line] or said.strip().splitlines()[-1:] or ["it wrote nothing"]
        words = re.sub(r"^\[[^\]]*\] (\[\w+\] )*", "", lines[0]).strip()
        if re.search(r"out of memory|OutOfMemory|Cuda failure: 2\b|bad_alloc", said):
            return Ended("out_of_memory", f"TensorRT {self.version}: {words}")
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return Ended("out_of_memory" if name == "SIGKILL" else "crashed", f"trtexec was killed by {name}")
        return Ended("unsupported", f"TensorRT {self.version} cannot run it: {words}", "runtime")

    def _infer(self, data, arguments):
        """Run the engine on inputs; returns the trace and the outputs."""
        with open(os.path.join(self._scratch, "input.bin"), "wb") as file:
            file.write(data)
        for name in ("times.json", "outputs.json"):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self._scratch, name))
        name = self._asked["input"]
        files = [f"--loadEngine={self._engine}", f"--loadInputs={name}:input.bin", "--exportTimes=times.json"]
        options = ["--exportOutput=outputs.json", "--exposeDMA", *self._shapes, *self._on(), *arguments]
        self._trtexec([*files, *options])
        try:
            with open(os.path.join(self._scratch, "times.json")) as file:
                trace = json.load(file)
            with open(os.path.join(self._scratch, "outputs.json")) as file:
                text = re.sub(r"(?<=[\[,] )(-?)(nan|inf)\b", self._json_number, file.read())
            found = {one["name"]: one for one in json.loads(text)}
            outputs = []
            for name in self._asked["outputs"]:
                shape = [int(part) for part in found[name]["dimensions"].split("x")]
                values = array("f", [float(value) for value in found[name]["values"]])
                outputs.append((shape, values.tobytes()))
            seconds = [(one["startComputeMs"] / 1e3, one["computeMs"] / 1e3, one["latencyMs"] / 1e3) for one in trace]
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = f"trtexec {self.version} wrote something else than expected: {type(error).__name__}: {error}"
            raise Ended("crashed", words) from error
        if not seconds:
            raise Ended("crashed", f"trtexec {self.version} wrote no times")
        return seconds, outputs

    @staticmethod
    def _json_number(found):
        """A number that is none, as C++ writes it, in Python's JSON."""
        return "NaN" if found.group(2) == "nan" else found.group(1) + "Infinity"

    def first(self, data):
        trace, outputs = self._infer(data, ["--iterations=1", "--warmUp=0", "--duration=0"])
        self._seen[hashlib.sha256(data).hexdigest()] = outputs
        return outputs, trace[0][2]

    def run(self, data):
        _, outputs = self._infer(data, ["--iterations=1", "--warmUp=0", "--duration=0"])
        self._seen = {hashlib.sha256(data).hexdigest(): outputs}
        return outputs

    def time(self, data, asked):
        """Time by trtexec's own trace: events of the GPU around each inference, and around its transfers."""
        checked = self._seen.get(hashlib.sha256(data).hexdigest()) or self.run(data)
        warmup_s = asked["warmup_s"]
        count, warm_ms, lasts = asked.get("few") or 6, warmup_s * 1e3, asked["sampling_s"]
        trace, outputs = self._infer(data, [f"--iterations={count}", f"--warmUp={warm_ms:g}", f"--duration={lasts:g}"])
        if not alike(checked, outputs):
            raise Ended("failed", "what trtexec timed gave other outputs than what was checked before")
        warm = [one for one in trace if one[0] < warmup_s]
        timed = [one for one in trace if one[0] >= warmup_s][: asked["max_samples"]]
        if not timed:
            raise Ended("crashed", f"trtexec timed nothing after a warm-up of {warmup_s:g} s")
        halves = [median([one[1] for one in half]) for half in (warm[: len(warm) // 2], warm[len(warm) // 2 :]) if half]
        steady = len(halves) == 2 and abs(halves[1] - halves[0]) <= STEADY * halves[0]
        about = {"warmup": len(warm), "warmup_s": sum(one[2] for one in warm), "steady": steady}
        model, whole = (dict(about, samples_s=[one[part] for one in timed]) for part in (1, 2))
        return model, whole, ["timed by trtexec with events of the GPU: the launch by the processor is not in it"]

    def details(self):
        return {"threads": None, "provider": "TensorRT", "layers": self._layers}

    def memory(self):
        reason = "trtexec says what an engine takes, not what an inference does"
        return {
            "inference": reading("byte", "inference", None, reason),
            "process_peak": reading("byte", "process", self._peak),
            "process_base": reading("byte", "process", None, "trtexec is a process of its own"),
            "cuda_allocated": reading("byte", "process", self._managed, "trtexec did not say"),
        }


def alike(some, others):
    """Whether outputs are the same within 1 % of their largest value: what is timed is what was checked."""
    for (_, left), (_, right) in zip(some, others):
        one, other = array("f", left), array("f", right)
        largest = max(map(abs, one)) if one else 0.0
        if len(one) != len(other) or any(not abs(x - y) <= 0.01 * largest for x, y in zip(one, other)):
            return False
    return len(some) == len(others)


def check_readable(path, reader, limits):
    """Refuse an ONNX file that is newer than what reads it, in one sentence."""
    try:
        ir_version, opset = onnx_versions(path)
    except ValueError as error:
        raise Ended("unsupported", f"the file is no ONNX model: {error}", "model") from error
    for what, got, limit in zip(("opset", "IR version"), (opset, ir_version), limits or ()):
        if got > limit:
            words = f"{reader} there reads {what} {limit} or lower, the file has {got}; export it for an older one"
            raise Ended("unsupported", words, "runtime")


# In the order in which they are tried. TensorRT's Python module and torch are not used: docs/agent.md says why.
BACKENDS = {"trtexec": Trtexec, "onnxruntime": OnnxRuntime}


def backends():
    """Return the version of each backend that is there, without loading it; None of others."""
    command = Trtexec.find()
    return {"trtexec": None if command is None else Trtexec.version_of(command), "onnxruntime": installed("onnxruntime")}


def installed(name):
    """Return the version of a package on the path, by its folder's name."""
    for folder in sys.path:
        for found in glob.glob(os.path.join(glob.escape(folder or "."), name + "*-*-info")) + glob.glob(
            os.path.join(glob.escape(folder or "."), name + "*.dist-info")
        ):
            parts = os.path.basename(found).split("-")
            if parts[0] in (name, name + "_gpu"):
                return parts[1].replace(".dist", "")
    return None


def status_bytes(field):
    found = re.search(field + r":\s+(\d+)", text_of("/proc/self/status") or "")
    return int(found.group(1)) * 1024 if found else None


# -- the process that runs a file -------------------------------------------------------------------------------


def counters():
    """Involuntary switches of this process and what it ran, pressure and steal of the machine in seconds, and processor time."""
    import resource

    switches = sum(resource.getrusage(who).ru_nivcsw for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    pressure = re.search(r"some.*total=(\d+)", text_of("/proc/pressure/cpu") or "")
    steal = (text_of("/proc/stat") or "").split(None, 9)[8:9]
    spent = os.times()
    return (clock(), switches, int(pressure.group(1)) / 1e6 if pressure else None,
            int(steal[0]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1) if steal else None, sum(spent[:4]))  # fmt: skip


def disturbance(before, after):
    seconds = after[0] - before[0]

    def share(index):
        if before[index] is None or after[index] is None or seconds <= 0:
            return None
        return round((after[index] - before[index]) / seconds, 4)

    return {
        "seconds": reading("s", "process", seconds),
        "involuntary_switches": reading("1", "process", after[1] - before[1]),
        "cpu_pressure": reading("1", "machine", share(2), "this kernel has no /proc/pressure/cpu"),
        "cpu_steal": reading("1", "machine", share(3), "this system has no /proc/stat"),
    }


class Worker:
    """Loads one file by one backend, and answers what is asked of it."""

    def __init__(self, pipe):
        self._pipe, self._backend, self._data = pipe, None, b""

    def serve(self):
        while True:
            message = self._pipe.receive()
            if message is None:
                return
            data = self._pipe.whole(message)
            try:
                self._pipe.send(*getattr(self, "_" + message["type"].lower())(message, data))
            except Ended as end:
                self._pipe.send(end.message())
            except MemoryError as error:
                self._pipe.send(Ended("out_of_memory", f"MemoryError: {error}").message())
            except Exception as error:  # noqa: BLE001 - the process boundary: whatever a library raises is the answer
                lines = [type(error).__name__, *str(error).strip().splitlines()[:1]]
                self._pipe.send(Ended(outcome_of(error), ": ".join(lines), "runtime").message())

    def _open(self, message, data):
        began = clock()
        self._backend, self._data = BACKENDS[message["backend"]](message, kept(message["sha256"])), data
        outputs, first_s = self._backend.first(data)
        expected = sum(product(shape) for shape, _ in outputs)
        if not outputs or not expected:
            raise Ended("failed", "{} returned no outputs".format(message["backend"]))
        opened = {"type": "Opened", "backend": message["backend"], "version": self._backend.version, "first_s": first_s,
                  "seconds": clock() - began}  # fmt: skip
        return dict(opened, **self._backend.details()), b""

    def _run(self, message, data):
        began = clock()
        outputs = self._backend.run(data)
        self._data = data
        shapes = [shape for shape, _ in outputs]
        return {"type": "Outputs", "shapes": shapes, "seconds": clock() - began}, b"".join(values for _, values in outputs)

    def _time(self, message, data):
        before = counters()
        model, whole, remarks = self._backend.time(data or self._data, message)
        after = counters()
        inferences = model["warmup"] + len(model["samples_s"])
        telemetry = {"cpu_time": reading("s", "process", after[4] - before[4], inferences=inferences)}
        return {"type": "Timed", "model": model, "with_transfer": whole, "disturbance": disturbance(before, after),
                "telemetry": telemetry, "remarks": remarks}, b""  # fmt: skip

    def _memory(self, message, data):
        return {"type": "Answer", "value": self._backend.memory()}, b""


def outcome_of(error):
    """Tell the outcome that an exception stands for, as harness/probe/jobs.py does."""
    if re.search(r"allocate memory|out of memory|bad_alloc", str(error), re.IGNORECASE):
        return "out_of_memory"
    if isinstance(error, ImportError):
        return "unavailable"
    return "unsupported" if type(error).__module__.startswith("onnxruntime") else "failed"


def product(numbers):
    result = 1
    for number in numbers:
        result *= number
    return result


# -- the process that is asked ----------------------------------------------------------------------------------


class Agent:
    """Answers the probe, keeps files and watches the process that runs one; ends it when nobody asks any more."""

    def __init__(self, pipe):
        self._pipe, self._worker, self._to, self._scratch = pipe, None, None, None

    def serve(self):
        self._pipe.send({"type": "Hello", "agent": AGENT, "machine": machine(), "cuda": cuda_missing(), "backends": {
            name: {"version": version, "reads": BACKENDS[name].reads(version) if version else None}
            for name, version in backends().items()}})  # fmt: skip
        while True:
            message = self._pipe.receive()
            if message is None:
                return
            try:
                self._answer(message)
            except Ended as end:
                self._pipe.send(end.message())

    def _answer(self, message):
        kind = message["type"]
        if kind == "Has":
            self._pipe.send({"type": "Answer", "value": os.path.exists(kept(message["sha256"]))})
        elif kind == "File":
            keep(self._pipe, message)
            self._pipe.send({"type": "Answer", "value": True})
        elif kind == "State":
            self._pipe.send({"type": "Answer", "value": state()})
        elif kind == "Open":
            self._open(message, self._pipe.whole(message))
        elif kind == "Close":
            self.close()
            self._pipe.send({"type": "Answer", "value": True})
        elif kind in ("Run", "Time", "Memory"):
            data = self._pipe.whole(message)
            if self._worker is None:
                raise Ended("crashed", f"asked to {kind.lower()}, but nothing is open")
            power = Power() if kind == "Time" else None
            answer, body = self._ask(message, data, power)
            if power is not None and answer["type"] == "Timed":
                found, remark = power.read(answer["model"]["warmup"] + len(answer["model"]["samples_s"]))
                answer["telemetry"]["power"] = found
                answer["remarks"] += remark
            self._pipe.send(answer, body)
        else:
            self._pipe.whole(message)
            raise Ended("crashed", f"no message {kind!r} is known to this agent")

    def _open(self, message, data):
        """Try one backend after the other, each in a process of its own: one real inference decides."""
        usual = message["backend"] == "usual"
        if not usual and message["backend"] not in BACKENDS:
            raise Ended("unsupported", "expected {}, got {}".format(", ".join(BACKENDS), message["backend"]), "runtime")
        reasons = []
        for name in BACKENDS if usual else (message["backend"],):
            self.close()
            self._start()
            answer, _ = self._ask(dict(message, backend=name, scratch=self._scratch), data)
            if answer["type"] == "Opened":
                self._pipe.send(dict(answer, tried=[reason for _, reason in reasons]))
                return
            reasons.append((answer, "{}: {}".format(name, answer["reason"])))
        self.close()
        last = reasons[-1][0]
        if len(reasons) == 1:
            self._pipe.send(last)
        else:
            outcomes = [answer["outcome"] for answer, _ in reasons if answer["outcome"] != "unavailable"]
            outcome = outcomes[0] if outcomes else "unavailable"
            words = "; ".join(text for _, text in reasons)
            self._pipe.send(Ended(outcome, f"nothing there runs it: {words}", "runtime").message())

    def _start(self):
        self._scratch = tempfile.mkdtemp(prefix="plumbline-agent-")
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        self._worker = subprocess.Popen(command, stdin=theirs_in, stdout=theirs_out, start_new_session=True)
        os.close(theirs_in)
        os.close(theirs_out)
        self._to = Pipe(ours_in, ours_out)
        with contextlib.suppress(OSError), open(f"/proc/{self._worker.pid}/oom_score_adj", "w") as file:
            file.write("1000")  # rather that than the agent

    def _ask(self, message, data, power=None):
        """Ask the worker, and wait: until it answers, dies, or the other end of our stdin is closed."""
        kills = oom_kills()
        with contextlib.suppress(BrokenPipeError):  # what follows says how it ended
            self._to.send({key: value for key, value in message.items() if key != "body"}, data)
        waiting = select.poll()
        waiting.register(self._to.read_end, select.POLLIN)
        waiting.register(self._pipe.read_end, HANG_UP)
        while True:
            found = dict(waiting.poll(None if power is None or not power.used else 1000 / power.rate_hz))
            if self._pipe.read_end in found:
                raise SystemExit(1)  # main ends the worker
            if self._to.read_end in found:
                break
            if power is not None:
                power.sample()
        try:
            answer = self._to.receive()
            if answer is not None:
                return answer, self._to.whole(answer)
        except (EOFError, ValueError):
            pass
        code = self._worker.wait()
        self.close()
        if code == -signal.SIGKILL and (kills is None or oom_kills() > kills):
            return Ended("out_of_memory", "what ran it was killed there, as a kernel does that has no memory left").message(), b""
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Ended("crashed", f"what ran it has died there: {how}").message(), b""

    def close(self):
        """End what runs, with all that it has started."""
        worker, self._worker = self._worker, None
        if worker is not None:
            with contextlib.suppress(OSError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        if self._to is not None:
            for end in (self._to.read_end, self._to.write_end):
                os.close(end)
            self._to = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def oom_kills():
    found = re.search(r"oom_kill (\d+)", text_of("/proc/vmstat") or "")
    return int(found.group(1)) if found else None


def die_with_parent():
    """Linux: be killed when the agent is, whatever kills it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main(arguments):
    if arguments[:1] == ["--overhead"]:
        inside, around = overhead()
        print(f"a timed iteration: {inside:.2f} us in the sample, {around:.2f} us around it (limit 20 us)")
        return 0
    if arguments[:1] == ["--version"]:
        print(f"plumbline-agent {AGENT}")
        return 0
    pipe = Pipe.over_stdio()
    if arguments[:1] == ["--worker"]:
        die_with_parent()
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # fp32 is not TF32, whatever a library takes unasked
        Worker(pipe).serve()
        return 0
    if arguments[:1] == ["--lock"]:
        busy = take_lock(float(arguments[1]), arguments[2])
        if busy is not None:
            pipe.send({"type": "Busy", "agent": AGENT, "reason": busy})
            return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    agent = Agent(pipe)
    try:
        agent.serve()
    except (BrokenPipeError, EOFError):
        return 1
    finally:
        agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
