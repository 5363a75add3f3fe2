"""Weights for a model that has none, such that different inputs give different outputs.

Agreement means something only on outputs that differ: a plainly initialised ResNet-50 answers one class
to everything, and the spread of MobileNetV3's logits is 1.6e-10, so that any absolute tolerance passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isclose
from typing import TYPE_CHECKING, Any

from plumbline.tensors import spread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models.model import Model

CALIBRATION = 16  # pictures from which seeded batch norms take their statistics


def pictures(count: int, channels: int, image_size: int, seed: int) -> Tensor:
    """Return random pictures with structure at every scale; float32, shape (count, channels, image_size, image_size).

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


def calibration(model: Model, image_size: int, seed: int) -> Tensor:
    """Return the pictures from which seeded weights take their statistics, (CALIBRATION, channels, image_size, image_size)."""
    return pictures(CALIBRATION, model.dataset(image_size).channels, image_size, seed)


def seeded(model: Model, image_size: int, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Build a model with weights by torch's current seed, such that different pictures have different outputs.

    `seed` is that of the pictures. Returns the net in eval mode, and the weights as they are to be stored: eval mode may make
    something else of them. Raises ValueError where the outputs do not depend on the input at all.
    """
    built = model.instantiate(image_size)
    again = partial(model.instantiate, image_size)
    net = seed_weights(built, calibration(model, image_size, seed), model.run, head=model.outputs is None, again=again)
    return net, dict(built.state_dict())


Run = Callable[["nn.Module", "Tensor"], "Tensor"]


def call(net: nn.Module, images: Tensor) -> Tensor:
    """Run a net that takes pictures and returns one tensor."""
    outputs: Tensor = net(images)
    return outputs


def seed_weights(
    net: nn.Module, images: Tensor, run: Run = call, *, head: bool = True, again: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Give `net` batch-norm statistics, and a head whose outputs have unit spread between the images.

    Where something is made of what the head returns, that gets unit size instead: scaled until the net's outputs have unit
    spread, probabilities of 1,000 classes would be ones and zeros, and no small error would change them.

    `net` is as it was built, and its weights are changed in place. Returned is the net with these weights in eval mode: the
    same one, or one that is built by `again`, where eval mode makes something else of it (`changes_in_eval`), so that weights
    given to it afterwards would come too late. `run` gets from a net and images to the tensor that is compared. Without `head`
    the head is left as it is: what a detector makes of its last layer is not proportional to it.
    Raises ValueError where the outputs do not depend on the input at all.
    """
    import torch
    from torch import nn

    apart = again is not None and changes_in_eval(net)

    def evaluated() -> nn.Module:
        """The net in eval mode, with the weights that it has by now."""
        if again is None or not apart:
            return net.eval()
        other = again()
        other.load_state_dict(net.state_dict())
        return other.eval()

    with torch.no_grad():
        _calm(net)
        last = next((module for module in reversed(list(net.modules())) if isinstance(module, (nn.Linear, nn.Conv2d))), None)
        standing = evaluated()
        if apart and set(_norms(net)) - set(_norms(standing)):  # folded into other layers: they need theirs before that
            normalise(net.train(), images, run)
            standing = evaluated()
        normalise(standing, images, run)
        for name, norm in _norms(standing).items() if apart else ():
            net.get_submodule(name).load_state_dict(norm.state_dict())
        if head and last is not None:
            nn.init.normal_(last.weight, std=last.weight[0].numel() ** -0.5)  # some heads start at zero (timm's Mixer)
        standing = evaluated()
        place = next((name for name, module in net.named_modules() if module is last), None)
        scale = _scale(standing, dict(standing.named_modules()).get(place or ""), images, run)
        if head and last is not None:
            if isinstance(length := getattr(last, "weight_g", None), torch.Tensor):  # weight norm computes the weight anew
                length /= scale
            else:
                last.weight /= scale
            if last.bias is not None:
                last.bias /= scale
        return evaluated()


def _scale(net: nn.Module, head: nn.Module | None, images: Tensor, run: Run) -> float:
    """Return the number by which the head has to be divided.

    That is the spread of its outputs where they are the net's, and the spread of the net's where the head is not called or its
    rows are not images; where the net makes something of the head's outputs, their root mean square, so that nothing saturates.
    """
    import torch

    own: list[tuple[float, float]] = []

    def see(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if isinstance(outputs, torch.Tensor) and len(outputs) == len(images):  # at once: what comes next may write into them
            own.append((spread(outputs), float(outputs.double().square().mean().sqrt())))

    hook = None if head is None else head.register_forward_hook(see)
    try:
        whole = spread(run(net, images))
    finally:
        if hook is not None:
            hook.remove()
    if not whole > 0:
        raise ValueError("the outputs are the same for every input; nothing can be compared on them")
    of_head, size = own[-1] if own else (whole, whole)
    return whole if of_head == 0 or isclose(of_head, whole) else size


def changes_in_eval(net: nn.Module) -> bool:
    """Return whether a module of a net overrides `train` or `eval`, and so may fold weights when it is put into eval mode.

    Merged LoRA layers and re-parametrised convolutions do; weights that are loaded afterwards have no effect on them.
    """
    from torch import nn

    usual = (nn.Module.train, nn.Module.eval)
    return any(
        getattr(method, "__func__", None) is not known
        for module in net.modules()
        for method, known in zip((module.train, module.eval), usual)
    )


def normalise(net: nn.Module, images: Tensor, run: Run = call) -> None:
    """Give the batch norms of `net` the statistics of these images, in place; they are in eval mode afterwards."""
    import torch

    norms = list(_norms(net).values())
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average over the calibration batch
        norm.train()
    if norms:
        with torch.no_grad():
            run(net, images)
    for norm in norms:
        norm.eval()


def _norms(net: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    from torch import nn

    return {name: module for name, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}


def _calm(net: nn.Module) -> None:
    """Keep seeded layers from amplifying rounding errors, as no trained net does. In place.

    Each pair of a batch norm at zero mean and a ReLU multiplies a small difference between two inputs by
    sqrt(pi / (pi - 1)) = 1.21 (Yang et al. 2019, "A Mean Field Theory of Batch Normalization"): after MobileNetV1's 27,
    the rounding errors of bfloat16 are half of the outputs' spread (RMS).
    """
    from torch import Tensor, nn
    from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm

    blocks = [block for block in net.modules() if hasattr(block, "downsample")]  # residual, of torchvision or timm
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for block in blocks:  # ResNet-50: 0.43 with branches of full strength, 0.08 with 0.3
        last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
        if isinstance(
            weight := getattr(last, "weight", None), Tensor
        ):  # instance norms have none as they come, and some norms are Identity
            nn.init.constant_(weight, 0.3)
    if not blocks:
        for norm in norms:  # a ReLU that cuts off a sixth instead of half multiplies it by 1.06
            if norm.affine:
                nn.init.ones_(norm.bias)
    if not norms and not any(isinstance(module, (nn.LayerNorm, nn.GroupNorm, InstanceNorm)) for module in net.modules()):
        # torch's own weights let signals fade with every ReLU, until biases are all that is left (He et al. 2015, section 2.2)
        for layer in net.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
