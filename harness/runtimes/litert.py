"""LiteRT (TensorFlow Lite) executes a .tflite file on the CPU, by XNNPACK."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.outcomes import Unsupported, first_line
from plumbline.harness.runtimes.adapter import RunConfig, Runtime
from plumbline.harness.runtimes.torch_net import batches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer

SIGNATURE, INPUT = "serving_default", "args_0"  # what the converter calls them
PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}
# What an operator multiplies: type of activations, type of stored weights, whether these are made large before.
STORED = {
    ("FLOAT32", "FLOAT32", False): "fp32", ("INT8", "INT8", False): "int8-static", ("FLOAT32", "INT8", False): "int8-dynamic",
    ("FLOAT32", "INT8", True): "w8", ("FLOAT32", "FLOAT16", True): "w16",
}  # fmt: skip


class LiteRT(Runtime):
    """An interpreter of a .tflite file, with XNNPACK, its usual delegate.

    The converter writes one batch only. Threads are set, and seen as threads of the process: LiteRT has no way to ask.
    """

    libraries = ("ai_edge_litert", "litert_torch", "litert_quantizer")
    extra = "litert"
    no_wheel: ClassVar[Mapping[str, str]] = {"aarch64": "litert-converter"}
    precisions = ("fp32", "int8-dynamic", "int8-static", "w8", "w16")
    artefact = "model.tflite"
    one_batch = True
    runs = "file"
    keeps_memory = "LiteRT plans all memory when it loads a file, and an inference takes nothing"

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        """Libraries only: a first conversion takes ten seconds, and says by itself what is wrong."""
        import ai_edge_litert.interpreter  # noqa: F401

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
        import litert_torch
        from litert_quantizer import quantizer

        try:
            litert_torch.convert(net, (example,)).export(str(file))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise Unsupported(f"LiteRT's converter: {first_line(error)}") from error
        recipe = _recipe(config)
        if recipe is None:
            return {}
        made = quantizer.Quantizer(str(file), recipe)
        ranges = None
        if made.need_calibration:
            assert calibration is not None
            fed = [{INPUT: images.numpy()} for images in batches(calibration, len(example))]
            ranges = _ranges(file, {SIGNATURE: fed}, recipe, config.threads)
        result = made.quantize(ranges, enable_progress_report=False, enable_progress_bar=False)
        result.export_model(str(file), overwrite=True)
        return {}

    def __init__(self, file: Path, config: RunConfig) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._file, self._config = file, config
        before = _process_threads()
        self._interpreter = Interpreter(model_path=str(file), num_threads=config.threads)
        self._interpreter.allocate_tensors()
        self._threads = 1 + _process_threads() - before
        self._input, self._output = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]

    def place(self, arguments: tuple[Any, ...]) -> Any:
        (images,) = arguments
        return images.contiguous().numpy()

    def run(self, placed: Any) -> Any:
        self._interpreter.set_tensor(self._input["index"], placed)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])

    def fetch(self, outputs: Any) -> Any:
        import torch

        return torch.from_numpy(outputs)

    def weights_bytes(self) -> int:
        """Return the bytes of the file's weights; XNNPACK does not say what it packed."""
        return self._file.stat().st_size

    def read_back(self) -> dict[str, Any]:
        """Return, as `delegates`, into how many pieces XNNPACK took the graph; many mean that some is left to slower kernels."""
        operators = [found["op_name"] for found in self._interpreter._get_ops_details()]
        return {"threads": self._threads, "delegates": operators.count("DELEGATE")}

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """By the operators of the file that multiply: XNNPACK executes them as they stand there."""
        found = Counter(_formats(self._file))
        return found[self._config.precision.name] / max(1, sum(found.values()))


def _recipe(config: RunConfig) -> Any:
    """How LiteRT's quantizer is asked for a precision; None where it need not be asked."""
    from litert_quantizer import qtyping, recipe, recipe_manager
    from litert_quantizer.algorithm_manager import AlgorithmName

    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    manager = recipe_manager.RecipeManager()
    if config.precision.name == "int8-static":
        manager.add_static_config(".*", everything, 8, 8)
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):  # floating point in and out
            manager.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
        return manager.get_quantization_recipe()
    if config.precision.name == "w16":
        manager.add_weight_only_config(".*", everything, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
        return manager.get_quantization_recipe()
    if config.precision.name == "int8-dynamic":
        return recipe.dynamic_wi8_afp32()
    return recipe.weight_only_wi8_afp32() if config.precision.name == "w8" else None


def _ranges(file: Path, fed: dict[str, list[dict[str, Any]]], recipe: Any, threads: int) -> Any:
    """Return the least and the largest value of each tensor over the calibration.

    The quantizer's own calibration takes a moving average of them, and clips: an MLP's error was 2.2 times its tolerance.
    """
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    found = calibrator.Calibrator(file.read_bytes(), num_threads=threads, qsv_update_func=qsv_utils.min_max_update)
    found.calibrate(fed, manager)
    return found.get_model_qsvs()


def _formats(file: Path) -> Iterator[str]:
    """Return the precision of each operator of a .tflite file that multiplies by stored weights."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    types, operators = _names(schema.TensorType), _names(schema.BuiltinOperator)
    model = flatbuffer_utils.read_model(str(file))

    def kind(operator: Any) -> str:
        return operators[model.operatorCodes[operator.opcodeIndex].builtinCode]

    for graph in model.subgraphs:
        enlarged = {made.outputs[0]: made.inputs[0] for made in graph.operators if kind(made) == "DEQUANTIZE"}
        for operator in graph.operators:
            if kind(operator) not in PRODUCTS:
                continue
            images, weights = operator.inputs[2 if kind(operator) == "TRANSPOSE_CONV" else 0], operator.inputs[1]
            large = weights in enlarged
            stored = enlarged.get(weights, weights)
            types_read = (types[graph.tensors[images].type], types[graph.tensors[stored].type], large)
            yield STORED.get(types_read, "x".join(types_read[:2]))


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


def _process_threads() -> int:
    """Of this process, by Linux' count; 0 elsewhere."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0
