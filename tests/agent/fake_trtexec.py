"""Stands in for TensorRT's trtexec: options, files and lines of version 8.2.1 on a Jetson Nano, computed by ONNX Runtime.

The lines have the form of those that people have posted of trtexec v8201 on a Tegra X1. Files are written as `exportJSONTrace`,
`exportJSONOutput` and `dumpBuffer` do: samples/common/sampleReporting.cpp and sampleUtils in https://github.com/NVIDIA/TensorRT,
release 8.2. Numbers have the six digits of a C++ stream, which is `%g`; the trace holds the warm-up, too.

`--behaviour` is its fault, one of those in tests/agent/.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

LINES = Path(__file__).with_name("trtexec-8.2.1.txt").read_text()
COMPUTE_MS, COPY_MS = 1.25, 0.125  # of an inference; the warm-up is slower


def options(arguments: list[str]) -> dict[str, str]:
    split = (argument.partition("=") for argument in arguments if argument.startswith("--"))
    return {name: value for name, _, value in split}


def say(part: str, **fields: Any) -> None:
    text = LINES.split(f"=== {part}\n")[1].split("\n=== ")[0]
    for name, value in fields.items():
        text = text.replace(f"${name}$", str(value))
    print(text, flush=True)


def fixed(file: str, shapes: str) -> Any:
    import onnx

    model = onnx.load(file)
    name, _, dimensions = shapes.partition(":")
    for given in model.graph.input:
        if given.name == name:
            for dimension, size in zip(given.type.tensor_type.shape.dim, dimensions.split("x"), strict=True):
                dimension.dim_value = int(size)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def layers(model: Any, number_format: str) -> str:
    """What the builder says at its end, for each node that multiplies."""
    graph = model.graph
    known = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

    def shown(name: str) -> str:
        sizes = [dimension.dim_value for dimension in known[name].type.tensor_type.shape.dim]
        return f"{name}[{number_format}({','.join(map(str, sizes))})]"

    found = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            kind = "CaskConvolution" if node.op_type == "Conv" else "MatrixMultiply"
            found.append(
                f"Layer({kind}): {node.name or node.op_type}, Tactic: 1, {shown(node.input[0])} -> {shown(node.output[0])}"
            )
    return "\n".join(found)


def infer(engine: str, inputs: str, scale: float) -> list[tuple[str, Any]]:
    import numpy
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(engine, settings, providers=["CPUExecutionProvider"])
    name, _, file = inputs.partition(":")
    data = numpy.fromfile(file, numpy.float32)
    (given,) = session.get_inputs()
    sizes = [size if isinstance(size, int) else -1 for size in given.shape]
    names = [output.name for output in session.get_outputs()]
    return list(zip(names, [output * scale for output in session.run(names, {name: data.reshape(sizes)})], strict=True))


def export_outputs(file: str, outputs: list[tuple[str, Any]]) -> None:
    parts = []
    for name, values in outputs:
        numbers = ", ".join(f"{value:g}" for value in values.ravel().tolist())
        dimensions = "x".join(map(str, values.shape))
        parts.append(f'{{ "name" : "{name}"\n  , "dimensions" : "{dimensions}"\n  , "values" : [ {numbers} ]\n  }}\n')
    Path(file).write_text("[\n  " + ", ".join(parts) + "]\n")


def export_times(file: str, warm_ms: float, duration_ms: float, iterations: int) -> int:
    """As many inferences as fit, one after the other; returns how many are warm."""
    now, lines, counted = 0.0, list[str](), 0
    while counted < iterations or now < warm_ms + duration_ms:
        compute = COMPUTE_MS * (1.0 + 0.01 * (len(lines) % 3)) * (2.0 if now < warm_ms / 2 else 1.0)
        start = now + COPY_MS
        counted += start >= warm_ms
        end = start + compute
        fields = {
            "startEnqMs": now, "endEnqMs": now + 0.05, "startH2dMs": now, "endH2dMs": start, "startComputeMs": start,
            "endComputeMs": end, "startD2hMs": end, "endD2hMs": end + COPY_MS, "h2dMs": COPY_MS, "computeMs": compute,
            "d2hMs": COPY_MS, "latencyMs": 2 * COPY_MS + compute, "endToEndMs": 2 * COPY_MS + compute,
        }  # fmt: skip
        lines.append("{ " + ", ".join(f'"{name}" : {value:g}' for name, value in fields.items()) + " }\n")
        now = end + COPY_MS
    Path(file).write_text("[\n  " + ", ".join(lines) + "]\n")
    return counted


def main() -> int:
    behaviour, arguments = sys.argv[2], sys.argv[3:]
    asked, command = options(arguments), "trtexec " + " ".join(arguments)
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # {command}", flush=True)
    if "--help" in asked:
        return 0
    if pid := os.environ.get("FAKE_TRTEXEC_PID"):
        Path(pid).write_text(str(os.getpid()))
    if behaviour == "hang":
        time.sleep(600)
    if behaviour == "kill the worker":
        os.kill(os.getppid(), signal.SIGKILL)
    if "--onnx" in asked:
        if behaviour in ("no operator", "no memory"):
            say(behaviour, command=command)
            return 1
        half = "--fp16" in asked and behaviour != "never half"
        model = fixed(asked["--onnx"], asked["--shapes"]) if "--shapes" in asked else fixed(asked["--onnx"], "")
        shutil.copyfile(asked["--onnx"], asked["--saveEngine"])
        say("build", command=command, layers=layers(model, "Half" if half else "Float"))
        return 0
    timing = float(asked["--duration"]) > 0
    trial = Path(asked["--loadEngine"]).stat().st_size < 1000  # the file that doubles its input
    wrong = behaviour == "wrong" or (behaviour == "wrong but in the trial" and not trial)
    outputs = infer(asked["--loadEngine"], asked["--loadInputs"], 1.5 if wrong else 1.0)
    if behaviour == "slow":
        time.sleep(1)
    if behaviour == "overflow" and not trial:
        outputs = [(name, values * float("inf")) for name, values in outputs]
    if timing and behaviour == "other when timed":
        outputs = [(name, values * 1.1) for name, values in outputs]
    export_outputs(asked["--exportOutput"], outputs)
    warm_ms, duration_ms = float(asked["--warmUp"]), float(asked["--duration"]) * 1e3
    counted = export_times(asked["--exportTimes"], warm_ms, duration_ms, int(asked["--iterations"]))
    if behaviour == "other format":
        Path(asked["--exportTimes"]).write_text('[{"milliseconds": 3}]')
    if timing:
        time.sleep(float(asked["--duration"]))
    sizes = "x".join(map(str, outputs[0][1].shape))
    say("infer", command=command, counted=counted, warm_ms=f"{warm_ms:g}", sizes=sizes, numbers=prod(outputs[0][1].shape))
    return 0


if __name__ == "__main__":
    sys.exit(main())
