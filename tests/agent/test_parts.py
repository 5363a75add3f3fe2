"""Parts of the agent, imported here: its timing beside ours, what it reads of a file, and power from trees of sysfs."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.harness import timing
from plumbline.harness.runtimes.agent import Agent
from plumbline.harness.runtimes.board import Timed
from plumbline.harness.settings import Settings
from plumbline.harness.statistics import _largest_with_cdf_below
from tests.agent.agents import matrix, module


class Scripted:
    """A clock, and a call that takes the next duration by it."""

    def __init__(self, durations: list[float]) -> None:
        self._durations, self.now = iter(durations), 0.0

    def __call__(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += next(self._durations)


@pytest.mark.parametrize("seed", range(20))
def test_it_warms_up_by_the_same_rule(seed: int) -> None:
    chance, agent = random.Random(seed), module()
    durations = [0.002 * (1 + 3 / (1 + number)) * chance.uniform(0.95, 1.05) for number in range(10_000)]
    ours, theirs = Scripted(durations), Scripted(durations)
    agent.clock = theirs
    expected = timing.warm_up(ours.call, lambda: None, 0.3, ours)
    calls, spent, steady = agent.warm_up(theirs.call, 0.3)
    assert (calls, steady) == (expected[0], expected[2])
    assert spent == pytest.approx(expected[1])


@pytest.mark.parametrize("count", [10, 64, 333, 10_000])
def test_its_interval_of_the_median_is_ours_but_for_a_rank(count: int) -> None:
    """The samples are looked at again here; there they only decide when to stop."""
    agent, samples = module(), list(map(float, range(1, count + 1)))
    rank = _largest_with_cdf_below(0.025, count, 0.5)
    middle = (count + 1) / 2
    half = middle - samples[rank]
    assert agent.known(samples, (half + 1.01) / middle)
    assert not agent.known(samples, (half - 1.01) / middle)


def test_it_samples_until_the_median_is_known() -> None:
    agent = module()
    asked = {"warmup_s": 0.02, "min_samples": 64, "max_samples": 1000, "median_within": 0.01}
    for durations, expected in (([0.001] * 9999, 64), ([0.001, 0.003] * 9999, 1000)):
        scripted = Scripted(durations)
        agent.clock = scripted
        assert len(agent.measure(scripted.call, asked, 100.0)["samples_s"]) == pytest.approx(expected, rel=0.4)
    scripted = Scripted([0.1] * 99)
    agent.clock = scripted
    found = agent.measure(scripted.call, asked, 0.5)
    assert sum(found["samples_s"]) == pytest.approx(0.5, abs=0.11), "no longer than the budget"


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 3), (13, 7), (17, 8), (21, 10)])
def test_it_reads_the_versions_of_a_file(tmp_path: Path, opset: int, ir_version: int) -> None:
    (tmp_path / "model.onnx").write_bytes(matrix(opset, ir_version))
    assert module().onnx_versions(str(tmp_path / "model.onnx")) == (ir_version, opset)


@pytest.mark.parametrize(("version", "opset"), [("1.4.0", 12), ("1.10.0", 15), ("1.11.0", 16), ("1.16.3", 19), ("1.31.1", None)])
def test_it_knows_what_versions_of_onnx_runtime_read(version: str, opset: int | None) -> None:
    reads = module().OnnxRuntime.reads(version)
    assert (reads or (None, None))[0] == opset


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Layer(CaskConvolution): Conv_0 + Relu_2, Tactic: 157, Reformatted Input Tensor 0 to Conv_0[Half(1,3,8,8)] -> "
         "191[Half(1,16,8,8)]", ("CaskConvolution", "Half", "1,16,8,8")),
        ("[01/02/2026-10:00:00] [V] [TRT] Layer(CaskConvolution): Conv_0, Tactic: 0x02d9, in[Float(1,3,8,8)] -> x[Half(1,4,8,8)]",
         ("CaskConvolution", "Float", "1,4,8,8")),
        ("Layer(CaskConvolution): /conv/Conv, input (Half[1,3,8,8]) -> hidden (Float[1,4,8,8])",
         ("CaskConvolution", "Half", "1,4,8,8")),
    ],
)  # fmt: skip
def test_it_reads_how_layers_were_built(line: str, expected: tuple[str, str, str]) -> None:
    trtexec = module().Trtexec
    found = trtexec.LAYER.search(line)
    given, made = trtexec.TENSOR.findall(found.group("given"))[0], trtexec.TENSOR.findall(found.group("made"))[0]
    assert (found.group("kind"), given[0] or given[2], made[1] or made[3]) == expected


@pytest.mark.parametrize(
    ("number", "version"), [("8201", "8.2.1"), ("8503", "8.5.3"), ("100200", "10.2.0"), ("101401", "10.14.1"), ("", None)]
)
def test_it_reads_the_version_of_trtexec(tmp_path: Path, number: str, version: str | None) -> None:
    tool = tmp_path / "trtexec"
    tool.write_text(f"#!/bin/sh\necho '&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec --help'\n")
    tool.chmod(0o755)
    assert module().Trtexec.version_of(str(tool)) == version


def test_what_a_library_raises_is_an_outcome() -> None:
    theirs = type("Fail", (RuntimeError,), {"__module__": "onnxruntime.capi.onnxruntime_pybind11_state"})
    expected: list[tuple[Exception, str]] = [
        (theirs("no kernel"), "unsupported"),
        (ValueError("shape"), "failed"),
        (ImportError("x"), "unavailable"),
        (RuntimeError("CUDA error: Out of memory"), "out_of_memory"),
    ]
    for error, outcome in expected:
        assert module().outcome_of(error) == outcome


# -- power ------------------------------------------------------------------------------------------------------


def sysfs(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "bus" / "i2c" / "devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


NANO = {
    "6-0040/name": "ina3221x", "6-0040/iio:device0/rail_name_0": "POM_5V_IN", "6-0040/iio:device0/in_power0_input": "2875",
    "6-0040/iio:device0/rail_name_1": "POM_5V_GPU", "6-0040/iio:device0/in_power1_input": "120",
}  # fmt: skip
ORIN = {
    "1-0040/name": "ina3221", "1-0040/hwmon/hwmon3/update_interval": "500",
    "1-0040/hwmon/hwmon3/in1_label": "VDD_IN", "1-0040/hwmon/hwmon3/in1_input": "5000", "1-0040/hwmon/hwmon3/curr1_input": "1200",
    "1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV", "1-0040/hwmon/hwmon3/in2_input": "5000",
    "1-0040/hwmon/hwmon3/curr2_input": "100", "1-0040/hwmon/hwmon3/in3_label": "NC", "1-0040/hwmon/hwmon3/in3_input": "1",
    "1-0040/hwmon/hwmon3/curr3_input": "1", "1-0040/hwmon/hwmon3/in7_label": "sum of shunt voltages",
    "1-0040/hwmon/hwmon3/in7_input": "1", "1-0040/hwmon/hwmon3/curr7_input": "1",
}  # fmt: skip
AGX = {
    "1-0040/name": "ina3221x", "1-0040/iio_device/rail_name_0": "GPU", "1-0040/iio_device/in_power0_input": "1500",
    "1-0041/name": "ina3221x", "1-0041/iio_device/rail_name_1": "CPU", "1-0041/iio_device/in_power1_input": "500",
}  # fmt: skip
RAILS = {
    "nano": {"POM_5V_IN", "POM_5V_GPU"},
    "orin": {"VDD_IN", "VDD_CPU_GPU_CV"},
    "agx": {"CPU", "GPU"},
    "thor": {"VIN"},
}
THOR = {"2-0044/name": "ina238", "2-0044/hwmon/hwmon1/power1_input": "31500000"}


@pytest.mark.parametrize(
    ("board", "files", "watts", "rate_hz", "remark"),
    [
        ("nano", NANO, 2.875, 5.0, []),
        ("orin", ORIN, 6.0, 2.0, []),
        ("agx", AGX, 2.0, 5.0, ["power is the sum of the rails CPU, GPU"]),
        ("thor", THOR, 31.5, 5.0, []),
    ],
    ids=["nano", "orin", "agx", "thor"],
)
def test_power_is_read_in_every_form(
    tmp_path: Path, board: str, files: dict[str, str], watts: float, rate_hz: float, remark: list[str]
) -> None:
    agent = module()
    agent.SYSFS = str(sysfs(tmp_path, files))
    power = agent.Power()
    power.sample()
    power.sample()
    found, said = power.read(7)
    assert found == {"unit": "W", "scope": "machine", "values": [watts, watts], "rate_hz": rate_hz, "inferences": 7}
    assert said == remark
    assert set(power.rails) == RAILS[board], "no channel that is not connected, nor the sum of the shunts"


def test_power_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    agent = module()
    agent.SYSFS = str(tmp_path)
    found, said = agent.Power().read(7)
    assert (found["values"], said) == ([], [])
    assert found["unavailable"].startswith("no INA3221, INA226 or INA238 in ")
    agent.SYSFS = str(sysfs(tmp_path, {**NANO, "6-0040/iio:device0/in_power0_input": "garbage"}))
    assert agent.Power().used == ["POM_5V_GPU"], "a rail that cannot be read is none"
    agent.SYSFS = str(sysfs(tmp_path, NANO))
    found, _ = agent.Power().read(0)
    assert found["unavailable"] == "it lasted shorter than 0.2 s"


def test_state_leaves_out_the_sensor_that_always_says_the_same(tmp_path: Path) -> None:
    zones: dict[str, Any] = {"thermal_zone0": ("CPU-therm", "41500"), "thermal_zone1": ("PMIC-Die", "100000")}
    for name, (kind, heat) in zones.items():
        (tmp_path / "class" / "thermal" / name).mkdir(parents=True)
        (tmp_path / "class" / "thermal" / name / "type").write_text(kind)
        (tmp_path / "class" / "thermal" / name / "temp").write_text(heat)
    gpu = tmp_path / "class" / "devfreq" / "57000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "cur_freq").write_text("921600000")
    agent = module()
    agent.SYSFS = str(tmp_path)
    found = agent.state()
    assert found["temperature"]["values"] == [41.5]
    assert found["gpu_clock"]["values"] == [921.6e6]


def test_a_limit_of_p99_gets_the_samples_that_its_bound_takes() -> None:
    """At 33 ms each 662 samples are 21.8 s, instead of the 31 of one second."""
    asked: dict[str, Any] = {}

    def ask(*_: Any, **given: Any) -> tuple[Timed, None]:
        asked.update(given)
        return Timed(), None

    there: Any = SimpleNamespace(_board=SimpleNamespace(ask=ask))
    Agent.timed(there, None, Settings(p99_within_s=33e-3), None)
    assert (asked["min_samples"], asked["sampling_s"]) == (662, pytest.approx(662 * 33e-3))
    Agent.timed(there, None, Settings(), None)
    assert (asked["min_samples"], asked["sampling_s"]) == (64, 1.0)
