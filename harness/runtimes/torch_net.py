"""A torch net in another number format, on another device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plumbline.harness.outcomes import Unsupported
from plumbline.harness.precisions import Precision
from plumbline.harness.runtimes.adapter import RunConfig, Runtime
from plumbline.harness.runtimes.kernels import Kernel

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plumbline.models import Layer


class TorchRuntime(Runtime):
    """What every runtime that calls torch does alike."""

    def __init__(self, model: Any, config: RunConfig) -> None:
        import torch

        # fp32 means fp32: TF32 is a precision of its own
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision.name == "tf32"
        self._config, self._device, self._dtype = config, torch.device(config.device), getattr(torch, config.precision.dtype)
        if config.device_kind == "cuda":
            self.synchronize = torch.cuda.synchronize  # type: ignore[method-assign]

    def fetch(self, outputs: Any) -> Any:
        import torch

        return moved(outputs, torch.device("cpu"), torch.float32)


def moved(tree: Any, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format | None = None) -> Any:
    """Every tensor of a structure on the device, those of floating point in `dtype`, pictures in the memory format."""
    import torch
    from torch.utils._pytree import tree_map_only

    def move(tensor: Tensor) -> Tensor:
        placed = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        return placed.contiguous(memory_format=memory_format) if memory_format is not None and placed.ndim == 4 else placed

    return tree_map_only(torch.Tensor, move, tree)


def convert(net: nn.Module, precision: Precision) -> None:
    """Bring a net in eval mode into a precision, in place; `share_in` tells how much of it followed.

    Integer arithmetic is torchao's, for linear layers: weights per channel, activations quantised anew for each token. Where
    only the weights are small, every matrix and kernel is stored so, and made large again before each use.
    Raises Unsupported where that needs torchao, and it is missing.
    """
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    dtype = getattr(torch, precision.dtype)
    if dtype != torch.float32:  # what a net folds in eval mode is no parameter, and stays in the format that those had then
        net.train().to(dtype)
    net.eval().requires_grad_(False)
    if precision.integer:
        with _torchao():
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        quantize_(net, Int8DynamicActivationInt8WeightConfig())
    if precision.weights is None:
        return

    class Small(nn.Module):
        """Between a weight and how it is stored (`torch.nn.utils.parametrize`)."""

        def forward(self, stored: Tensor, scale: Tensor | None = None) -> Tensor:
            return stored.float() if scale is None else stored.float() * scale

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
            if precision.weights == "float16":
                return (weight.half(),)
            scale = weight.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
            return (weight / scale).round().to(torch.int8), scale

    for module in list(net.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if name.endswith("weight") and weight.ndim > 1:
                parametrize.register_parametrization(module, name, Small(), unsafe=True)


def in_integers(net: nn.Module, example: Tensor, calibration: Tensor, *, seven_bits: bool = False) -> nn.Module:
    """Return a net in static 8-bit integers, for inductor on x86: convolutions and linear layers, weights per channel (torchao).

    `example` is a batch of pictures, `calibration` pictures from which ranges are taken, float32. Raises ValueError where
    torchao is missing or cannot.
    """
    import torch

    with _torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(reduce_range=seven_bits))
    prepared = prepare_pt2e(torch.export.export(net, (example,), strict=True).module(), quantizer)
    for images in batches(calibration, len(example)):
        prepared(images)
    return convert_pt2e(prepared)


@contextmanager
def _torchao() -> Iterator[None]:
    """Return what is imported from torchao; raises Unsupported where that is missing."""
    try:
        yield
    except ImportError as error:
        raise Unsupported(
            f"integers in torch are torchao's: {error}; pip install -e '.[torchao]' in the project's folder"
        ) from error


def batches(images: Tensor, batch: int) -> list[Tensor]:
    """Whole batches of pictures, as many as there are; where there is not even one, one filled up with repeats."""
    rows = [index % len(images) for index in range(max(batch, len(images) - len(images) % batch))]
    return [images[rows[start : start + batch]] for start in range(0, len(rows), batch)]


def share_in(net: nn.Module, precision: Precision, layers: Iterable[Layer]) -> float:
    """Return the share of the layers' MACs whose weights are stored as the precision says, by what the tensors say of themselves.

    Products that read no weights (attention's) count as floating point.
    """
    import torch

    expected = torch.int8 if precision.integer else getattr(torch, precision.weights or precision.dtype)
    floats = [tensor.dtype for tensor in (*net.parameters(), *net.buffers()) if tensor.is_floating_point()]
    if precision.weights is None and not precision.integer:
        return sum(dtype == expected for dtype in floats) / max(1, len(floats)) if floats else 1.0
    stored = set()
    for name, tensor in net.named_parameters():
        if getattr(tensor, "qdata", tensor).dtype == expected:  # torchao's tensors say float32 of themselves
            stored.add(name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0])
    macs = {layer.name: layer.macs for layer in layers}
    return sum(amount for name, amount in macs.items() if name in stored) / max(1, sum(macs.values()))


def profiled(run: Callable[[Any], Any], placed: Any, repeats: int) -> list[Kernel]:
    """By torch's own profiler: operators on the CPU, or, where there are any, kernels on a CUDA device."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    run(placed)
    with profile(activities=[ProfilerActivity.CPU, *cuda]) as profiler:
        for _ in range(repeats):
            run(placed)
    on_device = any(event.self_device_time_total for event in profiler.key_averages())
    return [
        Kernel(event.key, event.key.partition("::")[0], seconds)
        for event in profiler.key_averages()
        if (seconds := (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e6 / repeats)
    ]


def stored_bytes(net: nn.Module) -> int:
    """Bytes of a net's parameters and buffers as they are stored."""
    held = [*net.parameters(), *net.buffers()]
    return sum(part.numel() * part.element_size() for tensor in held for part in _parts(tensor))


def _parts(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of which a tensor subclass is made; itself, where it is none."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _parts(getattr(tensor, name))]
