"""How much memory a cell needs on a CPU, before it runs: by its weights, and by what its inference holds meanwhile.

Eager torch: what its operations ask the allocator for. ONNX Runtime and OpenVINO: how often the weights are there while a file is
loaded and after it, and what the results of a graph take (models/counting/operations.py). docs/fit.md says how far that was off.
"""

from __future__ import annotations

from functools import cache

from msgspec import Struct
from msgspec.structs import replace

from plumbline import PlumblineError, models
from plumbline.harness import heap
from plumbline.harness.cell import Cell
from plumbline.models import DENSE
from plumbline.models.counting.operations import TYPES, Trace, trace

# Bytes beyond what is counted, from cells of the default tier (docs/fit.md): while weights are loaded, which are there twice
# then, and while a net runs for the first time, when kernels are generated.
LOADING, RUNNING = 14e6, 65e6
# Bytes that a session takes whatever the net is: the library and its imports, what it sets up, and what compiles a net. Of
# SqueezeNet 1.1 at batch 1, in ONNX Runtime 1.31 and OpenVINO 2026.4.
SESSION = {"onnxruntime": 37e6, "openvino": 110e6}
FRAMEWORK = 505e6  # of Python with torch and its CUDA libraries, as `process_base` of a record has it
MOST_BATCH = 1024


class Unpredicted(PlumblineError, ValueError):
    """A cell of which no memory can be predicted; says why."""


class Needs(Struct, frozen=True):
    """Bytes that a cell needs: of its weights, of an inference beside them, and of the whole process at its peak.

    In ONNX Runtime and OpenVINO `inference` is the first one's, as a further one takes nothing.
    """

    weights: int
    inference: int
    process: int

    @staticmethod
    def of(cell: Cell, framework: float = FRAMEWORK) -> Needs:
        """Predict a cell's needs. `framework` is what a process has before it loads a net. Raises Unpredicted."""
        eager = cell.runtime == "eager" and cell.precision in TYPES
        planned = cell.runtime in SESSION and cell.precision == "fp32"
        if cell.variant != DENSE or not (eager or planned) or cell.device_kind != "cpu":
            got = f"{cell.variant}, {cell.runtime}, {cell.precision}"
            known = f"eager {', '.join(TYPES)}, or {' or '.join(SESSION)} fp32, on a CPU"
            raise Unpredicted(f"memory is predicted of a dense net in {known}, got {got}")
        found = _traced(cell.model, cell.image_size, cell.batch, cell.precision)
        weights = found.weights_bytes
        pictures = cell.batch * models.find(cell.model).dataset(cell.image_size).channels * cell.image_size**2 * 4
        if planned:
            return _planned(cell.runtime, found, framework, pictures)
        stored, inference = weights * (1 if cell.precision == "fp32" else 2), heap.peak_bytes(found.asked)  # stored in fp32
        process = framework + max(2 * stored + LOADING, weights + pictures + inference + RUNNING)
        return Needs(weights, inference, round(process))


def _planned(runtime: str, found: Trace, framework: float, pictures: int) -> Needs:
    """Return the needs in a runtime that reads a file and knows the whole graph.

    ONNX Runtime has weights twice while it loads, in the file's message and as tensors, and those of convolutions once more, in
    blocks of channels; then once. Its first inference asks an arena for one result after the other, and keeps that; from it the
    sizes are known, and the second gets one block for all of them (SessionOptions.enable_mem_pattern). OpenVINO keeps the weights
    of the file beside those that it packs, and plans one block for all results when it compiles.
    """
    weights, live = found.weights_bytes, found.live_bytes
    if runtime == "onnxruntime":
        most = max(2 * weights + found.kernels_bytes, weights + pictures + 2 * live)
    else:
        most = 2 * weights + pictures + live
    return Needs(weights, live, round(framework + SESSION[runtime] + most))


@cache
def _traced(model: str, image_size: int, batch: int, precision: str) -> Trace:
    """Follow an inference on the meta device. Raises Unpredicted."""
    try:
        return trace(models.find(model), image_size, batch, TYPES[precision])
    except ValueError as reason:
        raise Unpredicted(str(reason)) from reason


def largest_batch(cell: Cell, limit: int, framework: float = FRAMEWORK) -> int | None:
    """Return the largest batch that is predicted to fit into a limit, in bytes; None where not even one picture does.

    MOST_BATCH may be more than the largest one. Raises Unpredicted.
    """

    def fits(batch: int) -> bool:
        return Needs.of(replace(cell, batch=batch), framework).process <= limit

    if not fits(1):
        return None
    low, high = 1, 2
    while high <= MOST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1 and high <= MOST_BATCH:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
