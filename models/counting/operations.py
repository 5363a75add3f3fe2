"""What an inference does, operation by operation, and what it holds meanwhile: on the meta device, without numbers.

An operation is a call that eager torch makes of its library of kernels, ATen. One that only looks at its input in another way, as
a view, is none.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumbline.fastpath import without_attention_fast_path
from plumbline.models.model import Model

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # by the precision of a cell
# Operations that a runtime with a graph folds into the one before, or does in place where their input is not read again.
IN_PLACE = {
    "batch_norm", "relu", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "add", "mul", "clone",
}  # fmt: skip
BLOCK = 16  # channels that oneDNN keeps together, with AVX-512; the last block is filled up


@dataclass(frozen=True)
class Operation:
    """One call of a kernel, for a whole batch: `macs` by torch's counter, `bytes` that it reads and writes, each tensor once.

    `groups` are those of a convolution; as many as it has channels make it depthwise.
    """

    name: str
    macs: int
    bytes: int
    groups: int = 1


@dataclass(frozen=True)
class Trace:
    """The operations of an inference in their order, and the bytes of its weights and statistics.

    `asked` is what it asks the allocator for beside weights and pictures, in order: a block by its number and bytes, the same
    number with 0 bytes where it gives the block back. `live_bytes` are the most that its results take at one time where IN_PLACE
    is done so, and `kernels_bytes` those of the weights that convolutions have.
    """

    operations: tuple[Operation, ...]
    weights_bytes: int
    asked: tuple[tuple[int, int], ...]
    live_bytes: int = 0
    kernels_bytes: int = 0

    @property
    def macs(self) -> int:
        return sum(operation.macs for operation in self.operations)

    @property
    def bytes(self) -> int:
        """What all operations read and write."""
        return sum(operation.bytes for operation in self.operations)


def trace(model: Model, image_size: int, batch: int = 1, dtype: str = "float32") -> Trace:
    """Follow an inference of `batch` pictures, with weights and pictures of a type of torch's.

    Raises ValueError for a model that has no torch net, or whose way depends on its numbers.
    """
    import torch

    if model.build is None or model.inputs is not None:
        raise ValueError(f"{model.name}: expected a torch net that takes pictures alone, so that it runs without numbers")
    kind = getattr(torch, dtype)
    try:
        with torch.device("meta"):
            net = model.instantiate(image_size).eval().to(kind)
            pictures = torch.empty(batch, model.dataset(image_size).channels, image_size, image_size, dtype=kind)
        return trace_net(net, pictures)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f"{model.name}: expected a net that runs without numbers, got {error}") from error


def trace_net(net: nn.Module, pictures: Tensor) -> Trace:
    """Follow an inference of a net on the meta device; shape of the pictures (batch, channels, height, width)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from plumbline.models.counting.products import formulas

    held = [*net.parameters(), *net.buffers()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_attention_fast_path())
        stack.enter_context(torch.no_grad())
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=formulas()))
        follower = stack.enter_context(_follower(counter, [*held, pictures]))
        follower.reads(net(pictures))
    kernels = sum(_bytes(tensor) for tensor in net.parameters() if tensor.ndim == 4)
    live = live_bytes(follower.asked, follower.read, follower.in_place)
    return Trace(tuple(follower.operations), sum(map(_bytes, held)), tuple(follower.asked), live, kernels)


def live_bytes(asked: Sequence[tuple[int, int]], read: Collection[int], in_place: Collection[int]) -> int:
    """Return the most bytes that blocks take at one time where a graph is known: those that nothing reads are not made.

    A block of `in_place` takes none where the next thing that happens is that another one of its size is given back.
    """
    events = [event for event in asked if event[0] in read]
    sizes, live, most = dict[int, int](), 0, 0
    for (number, size), (given_back, _) in itertools.pairwise([*events, (0, 0)]):
        if size:
            sizes[number] = size
            moved = number in in_place and given_back != number and sizes.get(given_back) == size
            live += size
            most = max(most, live - (size if moved else 0))
        else:
            live -= sizes.pop(number)
    return most


def _follower(counter: Any, known: list[Tensor]) -> Any:
    """Return a mode that follows each call of a kernel, and which storages there are. Its base class takes torch."""
    import torch
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.operations: list[Operation] = []
            self.asked: list[tuple[int, int]] = []
            self.read, self.in_place = set[int](), set[int]()  # of the blocks: those that are read, and results of IN_PLACE
            self._blocks = {tensor.untyped_storage()._cdata: 0 for tensor in known}  # by storage; these are held anyway
            self._numbers = itertools.count(1)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = counter.get_total_flops()
            out = func(*args, **(kwargs or {}))
            macs = (counter.get_total_flops() - before) // 2
            given, made = (list(_tensors(tree_leaves(each))) for each in ((args, kwargs), out))
            there = {tensor.untyped_storage()._cdata for tensor in given}
            new = [tensor for tensor in made if tensor.untyped_storage()._cdata not in there]
            convolved = func is torch.ops.aten.convolution.default
            copy = next(self._numbers)
            if convolved:
                self.asked.append((copy, _blocked(made[0])))
            for tensor in new:
                self._hold(tensor.untyped_storage())
            self.reads((args, kwargs))
            if any(word in func._schema.name for word in IN_PLACE):
                self.in_place.update(self._blocks.get(tensor.untyped_storage()._cdata, 0) for tensor in new)
            if convolved:
                self.asked.append((copy, 0))
            if new or func._schema.is_mutable:
                moved, groups = sum(map(_bytes, (*given, *made))), args[8] if convolved else 1
                self.operations.append(Operation(func._schema.name, macs, moved, groups))
            return out

        def reads(self, tree: Any) -> None:
            """Take in that tensors of a structure are read, by an operation or by whoever asked for the inference."""
            keys = (tensor.untyped_storage()._cdata for tensor in _tensors(tree_leaves(tree)))
            self.read.update(self._blocks[key] for key in keys if key in self._blocks)

        def _hold(self, storage: Any) -> None:
            key = storage._cdata
            if key not in self._blocks and storage.nbytes():
                self._blocks[key] = next(self._numbers)
                self.asked.append((self._blocks[key], storage.nbytes()))
                weakref.finalize(storage, self._free, key)

        def _free(self, key: int) -> None:
            self.asked.append((self._blocks.pop(key), 0))

    def _tensors(leaves: list[Any]) -> Iterator[Tensor]:
        yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))

    return Follower()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _blocked(out: torch.Tensor) -> int:
    """Return the bytes of the block that oneDNN asks torch for beside a convolution's result, on a CPU.

    It computes in an order of its own, in blocks of channels; the copy is there until torch's own result is written. (torch's
    profiler sees this one and none of the input. What oneDNN takes without asking torch is not seen here either.)
    """
    channels = out.shape[1]
    return _bytes(out) // channels * (-(-channels // BLOCK) * BLOCK)
