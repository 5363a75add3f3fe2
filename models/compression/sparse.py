"""Layers that store and multiply only what is not zero, with activations kept channel-major."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plumbline import Unfit
from plumbline.models.compression import kernel


class NoProduct(Unfit):
    """The device or the type has no product of a matrix of this format."""


class CompressedRows(nn.Module):
    """A layer whose matrix is in compressed sparse rows (CSR), and the activation behind it."""

    rows: Tensor  # where each row begins in `columns`: int32, (out + 1,)
    columns: Tensor  # of each value, sorted in a row: int32, (stored,)

    def __init__(self, outputs: int, stored: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.register_buffer("rows", torch.zeros(outputs + 1, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(stored, dtype=torch.int32))
        self.values = nn.Parameter(torch.zeros(stored))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def dense(self) -> nn.Linear | nn.Conv2d:
        """Return the same layer with its zeros, and without the activation."""
        raise NotImplementedError


class SparseLinear(CompressedRows):
    """A linear layer in compressed sparse rows (CSR), and the activation behind it.

    Inputs have shape (..., in), outputs (..., out), as `nn.Linear` has it. In memory the output lies channel-major, as (out, n):
    that is how the product of a sparse matrix with a dense one comes out, and how the next one wants it. What works element
    by element keeps the strides, so between two sparse layers nothing is transposed.

    In floats of 16 bits what is stored is multiplied in float32, as no library has such a product for CPUs. A zero that is not
    stored is never multiplied: infinity and NaN in the inputs do not reach all outputs.
    """

    def __init__(self, in_features: int, out_features: int, stored: int, bias: bool = True, activation: str = "none") -> None:
        super().__init__(out_features, stored, bias, activation)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def of(cls, dense: nn.Linear) -> SparseLinear:
        """Return the same layer without its zeros."""
        return _filled(cls(dense.in_features, dense.out_features, _count(dense.weight), dense.bias is not None), dense)

    def dense(self) -> nn.Linear:
        return _unfolded(self, _linear(self.in_features, self.out_features, self.bias, self.values))

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] != self.in_features:
            raise ValueError(f"expected inputs of shape (..., {self.in_features}), got {tuple(inputs.shape)}")
        outputs = _multiplied(self, inputs.reshape(-1, self.in_features).t())
        return outputs.t().reshape(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, stored={self.values.numel()}, activation={self.activation}"


class SparseConv2d(CompressedRows):
    """A convolution without groups in CSR: one of 1x1 is a product with the picture as it lies, others unfold it first.

    Inputs have shape (n, in, height, width), outputs (n, out, height, width).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stored: int,
        bias: bool = True,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
        dilation: tuple[int, ...] = (1, 1),
        activation: str = "none",
    ) -> None:
        super().__init__(out_channels, stored, bias, activation)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation = stride, padding, dilation

    @classmethod
    def of(cls, dense: nn.Conv2d) -> SparseConv2d:
        """Return the same layer without its zeros. Raises ValueError for groups, and for padding that is not with zeros."""
        if dense.groups != 1 or dense.padding_mode != "zeros" or isinstance(dense.padding, str):
            raise ValueError(f"expected a convolution of one group, padded with a number of zeros, got {dense}")
        return _filled(
            cls(
                dense.in_channels,
                dense.out_channels,
                dense.kernel_size,
                _count(dense.weight),
                dense.bias is not None,
                dense.stride,
                dense.padding,
                dense.dilation,
            ),
            dense,
        )

    def dense(self) -> nn.Conv2d:
        layer = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            _pair(self.kernel_size),
            _pair(self.stride),
            _pair(self.padding),
            _pair(self.dilation),
            bias=self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        return _unfolded(self, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        count, _, *size = inputs.shape
        height, width = (
            (size[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel_size[i] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        )
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            unfolded = inputs[:, :, :: self.stride[0], :: self.stride[1]].flatten(2)
        else:
            unfolded = functional.unfold(inputs, self.kernel_size, self.dilation, self.padding, self.stride)
        outputs = _multiplied(self, unfolded.transpose(0, 1).flatten(1))
        # of patches, whose features are what comes last in all that follows, they lie side by side
        patches = self.kernel_size == self.stride != (1, 1)
        outputs = outputs.t().contiguous().t() if patches else outputs.contiguous()
        return outputs.reshape(self.out_channels, count, height, width).transpose(0, 1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, stored={self.values.numel()}, activation={self.activation}"
        )


class RowMajorLinear(nn.Module):
    """The layer of the Jetson Nano study (ch. 4.5), to be compared with: coordinates (COO), activations row-major."""

    coordinates: Tensor  # row and column of each value: int64, (2, stored)

    def __init__(self, in_features: int, out_features: int, stored: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("coordinates", torch.zeros(2, stored, dtype=torch.int64))
        self.values = nn.Parameter(torch.zeros(stored))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self._matrix: Tensor | None = None  # of `_made_of`; to make it takes longer than to multiply by it
        self._made_of: Tensor | None = None

    @classmethod
    def of(cls, dense: nn.Linear) -> RowMajorLinear:
        """Return the same layer without its zeros."""
        layer = cls(dense.in_features, dense.out_features, _count(dense.weight), dense.bias is not None).to(dense.weight)
        found = dense.weight.detach().nonzero().t()
        with torch.no_grad():
            layer.coordinates.copy_(found)
            layer.values.copy_(dense.weight[found[0], found[1]])
            if layer.bias is not None:
                layer.bias.copy_(dense.bias)
        return layer.train(dense.training)

    def dense(self) -> nn.Linear:
        """Return the same layer with its zeros."""
        layer = _linear(self.in_features, self.out_features, self.bias, self.values)
        with torch.no_grad():
            layer.weight.zero_()[self.coordinates[0], self.coordinates[1]] = self.values
        return layer.train(self.training)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training or self._matrix is None or self._made_of is not self.values or self._matrix.dtype != self.values.dtype:
            shape = (self.out_features, self.in_features)
            self._matrix = torch.sparse_coo_tensor(
                self.coordinates, self.values, shape, is_coalesced=True, check_invariants=False
            )
            self._made_of = self.values
        outputs = torch.sparse.mm(self._matrix, inputs.flatten(0, -2).t()).t().reshape(*inputs.shape[:-1], -1)
        return outputs if self.bias is None else outputs + self.bias


class SemiStructuredLinear(nn.Module):
    """A linear layer of which two of four weights in a row are zero (2:4; Mishra et al. 2021).

    NVIDIA GPUs of compute capability 8.0 and newer have such a product. Until `pack` is called, the zeros are stored.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._packed = False
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def of(cls, dense: nn.Linear) -> SemiStructuredLinear:
        """Return the same layer. Raises ValueError where a row has more than two weights in a four."""
        if dense.in_features % 4 or int((dense.weight.view(-1, 4) != 0).sum(1).max()) > 2:
            raise ValueError(f"expected two of four weights to be zero, as prune50+pattern=2:4 leaves them, got {dense}")
        layer = cls(dense.in_features, dense.out_features, dense.bias is not None).to(dense.weight)
        layer.load_state_dict(dense.state_dict())
        return layer.train(dense.training)

    def dense(self) -> nn.Linear:
        """Return the same layer, multiplied like any other."""
        layer = _linear(self.in_features, self.out_features, self.bias, self.weight)
        with torch.no_grad():
            layer.weight.copy_(self.weight.to_dense() if self._packed else self.weight)
        return layer.train(self.training)

    def pack(self) -> None:
        """Leave the zeros out. Raises NoProduct where the device or the type has none."""
        if self._packed:
            return
        from torch.sparse import to_sparse_semi_structured

        device = self.weight.device
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise NoProduct("2:4 sparsity: expected an NVIDIA GPU of compute capability 8.0 or newer; sparse runs anywhere")
        if self.weight.dtype not in (torch.float16, torch.bfloat16):
            raise NoProduct(f"2:4 sparsity: expected fp16 or bf16, got {self.weight.dtype}")
        self.weight, self._packed = nn.Parameter(to_sparse_semi_structured(self.weight.detach()), requires_grad=False), True

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias)


SETTLED = (CompressedRows, RowMajorLinear, SemiStructuredLinear)  # of which `settle` decides whether they are worth it


def sparsified(net: nn.Module, format: str = "csr") -> nn.Module:
    """Return a copy of a net whose linear layers and convolutions store and multiply only what is not zero.

    `settle` takes those back that are slower for it. Layers whose weights another module reads (`nn.MultiheadAttention`) and
    grouped convolutions stay dense; in the formats `coo` and `2:4` all convolutions do. Raises ValueError for 2:4 where more than
    two of four weights are not zero.
    """
    net = deepcopy(net)
    for path, module in replaceable(net).items():
        if type(module) not in (nn.Linear, nn.Conv2d):
            continue
        layer: nn.Module
        if isinstance(module, nn.Linear):
            if format == "2:4" and (module.in_features % 64 or module.out_features % 32):  # no kernel takes those
                continue
            layer = {"coo": RowMajorLinear.of, "csr": SparseLinear.of, "2:4": SemiStructuredLinear.of}[format](module)
        elif (
            isinstance(module, nn.Conv2d)
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and format == "csr"
        ):
            layer = SparseConv2d.of(module)
        else:
            continue
        net = replaced(net, path, layer)
    return net


def replaceable(net: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a net by path, but for those whose weights `nn.MultiheadAttention` reads itself."""
    inside = tuple(f"{path}." for path, module in net.named_modules() if isinstance(module, nn.MultiheadAttention))
    return {path: module for path, module in net.named_modules() if not path.startswith(inside)}


def replaced(net: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Return the net with another module at a path, in place; the module itself where the path is that of the net."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
    return net


def _linear(ins: int, outs: int, bias: Tensor | None, like: Tensor) -> nn.Linear:
    """A linear layer with that bias; its weights are still to be written."""
    layer = nn.Linear(ins, outs, bias is not None, device="meta", dtype=like.dtype).to_empty(device=like.device)
    if bias is not None:
        with torch.no_grad():
            layer.bias.copy_(bias)
    return layer


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def _count(weight: Tensor) -> int:
    return int(weight.detach().count_nonzero())


def compressed_rows(weight: Tensor) -> dict[str, Tensor]:
    """Return `rows`, `columns` and `values` of a matrix or kernel, as sparse layers keep them."""
    matrix = weight.detach().flatten(1)
    found = matrix.nonzero()
    ends = torch.bincount(found[:, 0], minlength=len(matrix)).cumsum(0)
    rows = functional.pad(ends, (1, 0)).int()
    return {"rows": rows, "columns": found[:, 1].int(), "values": matrix[found[:, 0], found[:, 1]]}


def _filled(layer: Any, dense: nn.Linear | nn.Conv2d) -> Any:
    """`layer` with the numbers of `dense`, in its type and on its device."""
    layer.to(device=dense.weight.device, dtype=dense.weight.dtype)
    with torch.no_grad():
        for name, kept in compressed_rows(dense.weight).items():
            getattr(layer, name).copy_(kept)
        if dense.bias is not None:
            layer.bias.copy_(dense.bias)
    return layer.train(dense.training)


def _unfolded(layer: CompressedRows, dense: Any) -> Any:
    with torch.no_grad():
        matrix = dense.weight.zero_().flatten(1)
        matrix[_row_of_each(layer.rows), layer.columns.long()] = layer.values
        if layer.bias is not None:
            dense.bias.copy_(layer.bias)
    return dense.train(layer.training)


def _row_of_each(rows: Tensor) -> Tensor:
    """The row of each value."""
    counts = (rows[1:] - rows[:-1]).long()
    return torch.repeat_interleave(torch.arange(len(counts), device=rows.device), counts)


def _multiplied(layer: CompressedRows, inputs: Tensor) -> Tensor:
    """activation(bias + W @ inputs), (out, n) of (in, n)."""
    learning = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (layer.values, layer.bias, inputs)
    )
    if not learning:
        return product(layer.rows, layer.columns, layer.values, layer.bias, inputs, layer.activation)
    outputs = _Product.apply(layer.rows, layer.columns, layer.values, layer.bias, inputs)
    return _activated(outputs, layer.activation)


def product(
    rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: Tensor, activation: str = "none"
) -> Tensor:
    """Return activation(bias + W @ inputs), (out, n) of (in, n), by kernel.c where it can; else by torch's, for CPUs MKL's."""
    narrow = inputs.dtype
    wide = torch.promote_types(narrow, torch.float32)
    values, inputs, bias = values.to(wide), inputs.to(wide), None if bias is None else bias.to(wide)
    if wide == torch.float32 and inputs.device.type == "cpu" and kernel.missing() is None:
        return kernel.product(rows, columns, values, bias, inputs, activation).to(narrow)
    shape = (rows.numel() - 1, inputs.shape[0])
    if 0 in (*shape, inputs.shape[1], values.numel()):  # which MKL does not take
        outputs = inputs.new_zeros(shape[0], inputs.shape[1])
    else:
        outputs = torch.sparse_csr_tensor(rows, columns, values, shape, check_invariants=False) @ inputs.contiguous()
    return _activated(outputs if bias is None else outputs + bias.unsqueeze(1), activation).to(narrow)


def _activated(outputs: Tensor, activation: str) -> Tensor:
    return {"none": lambda x: x, "relu": functional.relu, "gelu": functional.gelu}[activation](outputs)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
        return product(rows, columns, values, bias, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        rows, columns, values, _, activations = inputs
        ctx.save_for_backward(rows, columns, values, activations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, values, inputs = ctx.saved_tensors
        wide = torch.promote_types(gradient.dtype, torch.float32)
        of_values = of_bias = of_inputs = None
        row_of_each = _row_of_each(rows)
        if ctx.needs_input_grad[2]:
            of_values = torch.empty_like(values)
            for part in torch.split(
                torch.arange(values.numel(), device=values.device), max(1, PRODUCTS // max(1, inputs.shape[1]))
            ):
                products = gradient[row_of_each[part]].to(wide) * inputs[columns[part].long()].to(wide)
                of_values[part] = products.sum(1).to(values.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = gradient.to(wide).sum(1).to(values.dtype)
        if ctx.needs_input_grad[4]:
            by_column = torch.argsort(columns, stable=True)
            starts = rows.new_zeros(inputs.shape[0] + 1)
            starts[1:] = torch.bincount(columns, minlength=inputs.shape[0]).cumsum(0)
            of_inputs = product(starts, row_of_each[by_column].int(), values[by_column], None, gradient)
        return None, None, of_values, of_bias, of_inputs


def densified(net: nn.Module) -> nn.Module:
    """Return a copy of a net whose sparse layers have their zeros again: the same function, by other means."""
    net = deepcopy(net)
    for path, module in list(net.named_modules()):
        if isinstance(module, SETTLED):
            net = replaced(net, path, _dense(module))
    return net


def _dense(layer: Any) -> nn.Module:
    """The same function with all zeros, its activation behind it."""
    behind = {"none": None, "relu": nn.ReLU(), "gelu": nn.GELU()}[getattr(layer, "activation", "none")]
    return layer.dense() if behind is None else nn.Sequential(layer.dense(), behind)


# What starts a call and what waits until it is done, of each that is raced; seconds of each.
Race = Callable[[tuple[Callable[[], Any], Callable[[], None]], tuple[Callable[[], Any], Callable[[], None]]], Sequence[float]]
TIMMS = ("timm.layers.mlp", "Mlp")  # fc1, act, drop1, norm, fc2, drop2, in that order
PRODUCTS = 1 << 24  # of gradients and inputs that are held at once


@torch.inference_mode()
def settle(net: nn.Module, *inputs: Any, race: Race) -> list[str]:
    """Choose for each sparse layer whether it leaves its zeros out or is a dense layer, in place.

    It is timed on what it gets in this net: `race` returns the seconds of two calls, taken in turns. Then those in CSR are given
    the activation behind them. Returns the paths of those that are sparse, for `settled`.
    Raises NoProduct for 2:4 where the device or the type has none.
    """
    kept: dict[str, Any] = {path: module for path, module in net.named_modules() if isinstance(module, SETTLED)}
    changed = True
    while changed:  # what a layer gets lies in memory as the layer before leaves it, and that one may be dense now
        changed, seen = False, _inputs(net, kept, inputs)
        for path in [path for path in kept if path in seen]:
            layer, dense = kept[path], _dense(kept[path])
            if isinstance(layer, SemiStructuredLinear):
                layer.pack()
            given = seen.pop(path)
            wait = torch.cuda.synchronize if given.is_cuda else _nothing
            sparse_s, dense_s = race((partial(layer, given), wait), (partial(dense, given), wait))
            if sparse_s >= dense_s:
                replaced(net, path, dense)
                del kept[path]
                changed = True
    _fuse(net)
    return list(kept)


def settled(net: nn.Module, sparse: Sequence[str]) -> int | None:
    """Apply a choice of `settle` to another copy of the net, in place, timing nothing.

    Returns how many layers are sparse; None of a net in which none was to be. Raises NoProduct as `settle` does.
    """
    there = any(isinstance(module, SETTLED) for module in net.modules())
    for path, module in list(net.named_modules()):
        if not isinstance(module, SETTLED):
            continue
        if path not in sparse:
            replaced(net, path, _dense(module))
        elif isinstance(module, SemiStructuredLinear):
            module.pack()
    _fuse(net)
    return len(sparse) if there else None


def _inputs(net: nn.Module, layers: Mapping[str, nn.Module], inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """What each layer gets in a net; without those that get nothing."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        return lambda _module, arguments: seen.setdefault(path, arguments[0])

    hooks = [module.register_forward_pre_hook(keep(path)) for path, module in layers.items()]
    net(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def _nothing() -> None:
    """A CPU has nothing to wait for."""


def _fuse(net: nn.Module) -> None:
    """Give the activation behind a sparse layer to the layer, where a container shows that it is behind it, in place."""
    uses = Counter(id(child) for module in net.modules() for child in module._modules.values())
    for module in net.modules():
        in_order = type(module).forward is nn.Sequential.forward
        timms = (type(module).__module__, type(module).__name__) == TIMMS
        if not in_order and not timms:
            continue
        children = list(module._modules.items())
        for (_, first), (name, second) in zip(children, children[1:]):
            activation = None if second is None else _named(second)
            once = uses[id(first)] == 1
            if isinstance(first, CompressedRows) and once and first.activation == "none" and activation is not None:
                first.activation = activation
                setattr(module, name, nn.Identity())


def _named(module: nn.Module) -> str | None:
    if isinstance(module, nn.ReLU):
        return "relu"
    if isinstance(module, nn.GELU) and getattr(module, "approximate", "none") == "none":
        return "gelu"
    return None
