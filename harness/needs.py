"""How much memory a cell needs in eager torch on a CPU, before it runs: by what its inference asks the allocator for.

docs/fit.md says how far that was off. Other runtimes plan their memory themselves; of them nothing is predicted.
"""

from __future__ import annotations

from functools import cache

from msgspec import Struct
from msgspec.structs import replace

from plumbline import PlumblineError, models
from plumbline.harness import heap
from plumbline.harness.cell import Cell
from plumbline.models import DENSE
from plumbline.models.counting.operations import TYPES, trace

# Bytes beyond what is counted, from cells of the default tier (docs/fit.md): while weights are loaded, which are there twice
# then, and while a net runs for the first time, when kernels are generated.
LOADING, RUNNING = 14e6, 65e6
FRAMEWORK = 505e6  # of Python with torch and its CUDA libraries, as `process_base` of a record has it
MOST_BATCH = 1024


class Unpredicted(PlumblineError, ValueError):
    """A cell of which no memory can be predicted; says why."""


class Needs(Struct, frozen=True):
    """Bytes that a cell needs: of its weights, of an inference beside them, and of the whole process at its peak."""

    weights: int
    inference: int
    process: int

    @staticmethod
    def of(cell: Cell, framework: float = FRAMEWORK) -> Needs:
        """Predict a cell's needs. `framework` is what a process has before it loads a net. Raises Unpredicted."""
        if cell.variant != DENSE or cell.runtime != "eager" or cell.precision not in TYPES or cell.device_kind != "cpu":
            got = f"{cell.variant}, {cell.runtime}, {cell.precision}"
            raise Unpredicted(f"memory is predicted of a dense net in eager {', '.join(TYPES)} on a CPU, got {got}")
        weights, inference = _traced(cell.model, cell.image_size, cell.batch, cell.precision)
        pictures = cell.batch * models.find(cell.model).dataset(cell.image_size).channels * cell.image_size**2 * 4
        stored = weights * (1 if cell.precision == "fp32" else 2)  # in fp32
        process = framework + max(2 * stored + LOADING, weights + pictures + inference + RUNNING)
        return Needs(weights, inference, round(process))


@cache
def _traced(model: str, image_size: int, batch: int, precision: str) -> tuple[int, int]:
    """Return the bytes of weights, and those that an inference holds beside them at its peak. Raises Unpredicted."""
    try:
        found = trace(models.find(model), image_size, batch, TYPES[precision])
    except ValueError as reason:
        raise Unpredicted(str(reason)) from reason
    return found.weights_bytes, heap.peak_bytes(found.asked)


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
