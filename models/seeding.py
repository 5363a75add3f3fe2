"""Weights for a model that has none, such that different inputs give different outputs.

Agreement means something only on outputs that differ: a plainly initialised ResNet-50 answers one class
to everything, and the spread of MobileNetV3's logits is 1.6e-10, so that any absolute tolerance passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def pictures(count: int, channels: int, image_size: int, seed: int) -> Tensor:
    """Random pictures with structure at every scale; float32, shape (count, channels, image_size, image_size).

    White noise would not do: averaged over 224 x 224 pixels, every noise picture looks the same.
    """
    import torch
    from torch.nn import functional

    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, channels, image_size, image_size)
    size = 1
    while size <= image_size:
        noise = torch.randn(count, channels, size, size, generator=random)
        total += functional.interpolate(noise, size=(image_size, image_size), mode="bilinear", align_corners=False)
        size *= 2
    return total / total.std()


def seed_weights(net: nn.Module, images: Tensor, run: Callable[[Tensor], Tensor] | None = None, *, head: bool = True) -> None:
    """Give `net` batch-norm statistics, and a head whose outputs have unit spread between the images. In place.

    `run` gets from images to the tensor that is compared, where `net` alone does not. Without `head` the head is left as
    it is: what a detector makes of its last layer is not proportional to it.
    Raises ValueError where the outputs do not depend on the input at all.
    """
    import torch
    from torch import nn

    run = run or net.__call__
    net.eval()
    _calm(net)
    normalise(net, images, run)
    with torch.no_grad():
        last = next((module for module in reversed(list(net.modules())) if isinstance(module, (nn.Linear, nn.Conv2d))), None)
        if head and last is not None:
            nn.init.normal_(last.weight, std=last.weight[0].numel() ** -0.5)  # some heads start at zero (timm's Mixer)
        scale = spread(run(images))
        if not scale > 0:
            raise ValueError("the outputs are the same for every input; nothing can be compared on them")
        if head and last is not None:
            last.weight /= scale
            if last.bias is not None:
                last.bias /= scale


def normalise(net: nn.Module, images: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> None:
    """Give the batch norms of `net` the statistics of these images, in place; in eval mode afterwards. `run` as above."""
    import torch
    from torch import nn

    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average over the calibration batch
        norm.train()
    if norms:
        with torch.no_grad():
            (run or net.__call__)(images)
    net.eval()


def _calm(net: nn.Module) -> None:
    """Keep seeded layers from amplifying rounding errors, as no trained net does. In place.

    Each pair of a batch norm at zero mean and a ReLU multiplies a small difference between two inputs by
    sqrt(pi / (pi - 1)) = 1.21 (Yang et al. 2019, "A Mean Field Theory of Batch Normalization"): after MobileNetV1's 27,
    the rounding errors of bfloat16 are half of the outputs' spread (RMS).
    """
    from torch import nn

    blocks = [block for block in net.modules() if hasattr(block, "downsample")]  # residual, of torchvision or timm
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for block in blocks:  # ResNet-50: 0.43 with branches of full strength, 0.08 with 0.3
        last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
        if last is not None:
            nn.init.constant_(last.weight, 0.3)
    if not blocks:
        for norm in norms:  # a ReLU that cuts off a sixth instead of half multiplies it by 1.06
            if norm.affine:
                nn.init.ones_(norm.bias)
    if not norms and not any(isinstance(module, (nn.LayerNorm, nn.GroupNorm)) for module in net.modules()):
        # torch's own weights let signals fade with every ReLU, until biases are all that is left (He et al. 2015, section 2.2)
        for layer in net.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def spread(outputs: Tensor) -> float:
    """Root mean square, over the outputs, of their standard deviation between the inputs (first axis)."""
    return float(outputs.double().var(dim=0).mean().sqrt())
