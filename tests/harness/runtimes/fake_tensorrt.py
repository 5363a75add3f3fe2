"""TensorRT's Python module as far as the adapter calls it: names and signatures of the bindings of 10.13 and 11.4.

An engine is the ONNX file itself; ONNX Runtime executes it on the CPU, from the addresses and to the addresses that a context was
given. Its inspector tells what `inspected` says.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import onnxruntime

__version__ = "11.4.0.106"
inspected: dict[str, Any] = {"Layers": []}
asked: dict[str, Any] = {}  # what the last builder was told
unsupported: set[str] = set()  # operators that the parser does not take
failure: str | None = None  # what a builder says that makes no engine


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0  # 1 in TensorRT 10


class BuilderFlag(enum.Enum):
    TF32 = enum.auto()


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, DETAILED, NONE = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


class DataType(enum.Enum):
    FLOAT, HALF, INT64 = range(3)


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        asked.clear()

    def create_network(self, flags: int = 0) -> SimpleNamespace:
        asked["strongly_typed"] = flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(file=None)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: SimpleNamespace, config: BuilderConfig) -> bytes | None:
        asked.update(flags=set(config.flags), verbosity=config.profiling_verbosity)
        if failure is not None:
            self._logger.log(ILogger.ERROR, failure)
            return None
        return bytes(onnx.load(network.file).SerializeToString())


class BuilderConfig:
    def __init__(self) -> None:
        self.flags, self.profiling_verbosity = {BuilderFlag.TF32}, ProfilingVerbosity.LAYER_NAMES_ONLY

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self.flags

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        asked["profile"] = profile.shapes
        return 0


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = (min, opt, max)


class OnnxParser:
    def __init__(self, network: SimpleNamespace, logger: ILogger) -> None:
        self._network, self._wrong = network, list[Any]()

    def parse_from_file(self, model: str) -> bool:
        self._network.file = model
        self._wrong = [node for node in onnx.load(model).graph.node if node.op_type in unsupported]
        return not self._wrong

    @property
    def num_errors(self) -> int:
        return len(self._wrong)

    def get_error(self, index: int) -> SimpleNamespace:
        node = self._wrong[index]
        return SimpleNamespace(
            node_operator=lambda: node.op_type, node_name=lambda: node.name, desc=lambda: "No importer registered for op."
        )


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        try:
            return Engine(serialized_engine)
        except Exception as error:  # noqa: BLE001 - as the library does: it is told to the logger, whatever it is
            self._logger.log(ILogger.ERROR, str(error))
            return None


class Engine:
    def __init__(self, plan: bytes) -> None:
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.outputs = {value.name: value for value in self.session.get_outputs()}

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Inspector:
        return Inspector()

    def get_tensor_dtype(self, name: str) -> DataType:
        return {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}[self.outputs[name].type]


class Inspector:
    execution_context: Context | None = None

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert self.execution_context is not None, "without a context formats are N/A due to dynamic shapes"
        assert format is LayerInformationFormat.JSON
        return json.dumps(inspected)


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._addresses = engine, dict[str, int]()
        (given,) = engine.session.get_inputs()
        self._input, self._kind = given.name, given.type
        self._shape: tuple[int, ...] = ()
        self.profiler: IProfiler | None = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name != self._input or shape != asked["profile"][name][0]:
            return False
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], *self._engine.outputs[name].shape[1:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        kind = numpy.dtype("float16" if self._kind == "tensor(float16)" else "float32")
        images = numpy.frombuffer(_memory(self._addresses[self._input], self._shape, kind), kind).reshape(self._shape)
        for name, array in zip(self._engine.outputs, self._engine.session.run(None, {self._input: images}), strict=True):
            ctypes.memmove(self._addresses[name], array.ctypes.data, array.nbytes)
        if self.profiler is not None:
            for layer in inspected["Layers"]:
                self.profiler.report_layer_time(layer["Name"], 2.0)
        return True


def _memory(address: int, shape: tuple[int, ...], kind: numpy.dtype[Any]) -> Any:
    return (ctypes.c_char * (int(numpy.prod(shape)) * kind.itemsize)).from_address(address)
