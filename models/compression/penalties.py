"""Training that pushes weights to zero: by their size, or by how little the outputs depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plumbline.models.addition import Addition, under
from plumbline.models.compression.unstructured import Kept, weights


class L1(Addition):
    """The sum of the sizes of all weights as a term of the loss, and weights rounded to so many decimals.

    The Jetson Nano study (ch. 4.5) rounds when training is done; here the weights themselves are rounded, in place, after each
    tenth of the steps and after the last one, so that the optimiser goes on from the rounded weights.
    What is zero when training begins stays zero. Raises ValueError for a penalty below 0, or fewer than 0 decimals.
    """

    ROUNDINGS = 10

    def __init__(self, penalty: float, decimals: int) -> None:
        if not penalty >= 0 or decimals < 0:
            raise ValueError(f"expected a penalty and decimals of 0 or more, got {penalty} and {decimals}")
        self._penalty, self._decimals, self._rounded, self._kept = penalty, decimals, 0, Kept()

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self._kept.begin(net, parent)

    def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
        return loss + self._penalty * sum((weight.abs().sum() for weight in weights(net).values()), loss.new_zeros(()))

    @torch.no_grad()
    def stepped(self, net: nn.Module, done: float) -> None:
        self._kept.stepped(net, done)
        if (now := int(done * self.ROUNDINGS + 1e-9)) > self._rounded:
            self._rounded = now
            for weight in weights(net).values():
                weight.round_(decimals=self._decimals).add_(0.0)  # no -0.0, which takes room on disk

    def state(self) -> dict[str, Tensor]:
        return {"rounded": torch.tensor(self._rounded), **self._kept.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._rounded = int(state["rounded"])
        self._kept.restore({name: mask for name, mask in state.items() if name != "rounded"})


class Sensitivity(Addition):
    """SeReNe (Tartaglione, Bragagnolo et al. 2021, Sensitivity-based regularization of neurons).

    The sensitivity of neuron i is S = (1 / C) sum over the C outputs y_k of |dy_k / dp|, p being what it sums up before its
    activation, in the mean over pictures and places; its insensitivity max(0, 1 - S). Each step also takes `rate` * w *
    insensitivity from the weights into it; after each tenth of the steps weights no larger than `threshold` are zero, and stay
    it, as do those that are when training begins. S costs a backward pass for each class, so it is taken anew every `EVERY`
    steps.
    """

    EVERY, THRESHOLDS = 20, 10

    def __init__(self, rate: float, threshold: float) -> None:
        if not rate >= 0 or not threshold >= 0:
            raise ValueError(f"expected a rate and a threshold of 0 or more, got {rate} and {threshold}")
        self._rate, self._threshold, self._steps, self._kept = rate, threshold, 0, Kept()
        self._cut = 0
        self._insensitive: dict[str, Tensor] = {}

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self._kept.begin(net, parent)

    def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
        if self._steps % self.EVERY == 0:
            sensitive = sensitivity(net, inputs)
            self._insensitive = {name: (1 - values).clamp_min(0) for name, values in sensitive.items()}
        self._steps += 1
        return loss

    @torch.no_grad()
    def stepped(self, net: nn.Module, done: float) -> None:
        self._kept.stepped(net, done)
        for name, weight in weights(net).items():
            if name in self._insensitive:
                shape = (-1, *(1 for _ in weight.shape[1:]))
                weight.mul_(1 - self._rate * self._insensitive[name].reshape(shape).to(weight))
        if (now := int(done * self.THRESHOLDS + 1e-9)) > self._cut:
            self._cut = now
            for weight in weights(net).values():
                weight.masked_fill_(weight.abs() <= self._threshold, 0)
            self._kept.begin(net, net)

    def state(self) -> dict[str, Tensor]:
        return {
            "steps": torch.tensor(self._steps),
            "cut": torch.tensor(self._cut),
            **{f"insensitive.{name}": values for name, values in self._insensitive.items()},
            **{f"kept.{name}": mask for name, mask in self._kept.state().items()},
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._steps, self._cut = int(state["steps"]), int(state["cut"])
        self._insensitive = under("insensitive.", state)
        self._kept.restore(under("kept.", state))


def sensitivity(net: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return how much the outputs depend on each neuron, shape (out,), by the name of its layer's weight.

    That is the mean of |dy / dp| over outputs y, pictures and places, of each neuron of a linear layer or convolution with
    pre-activation p. The net is run in eval mode, so that no running statistics change.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    modules: dict[str, Any] = {path: module for path, module in net.named_modules() if isinstance(module, kinds)}
    sums: dict[str, Tensor] = {}

    def keep(path: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            sums[path] = output
            return output.clone()  # an activation in place is not to change what is kept

        return hook

    hooks = [module.register_forward_hook(keep(path)) for path, module in modules.items()]
    training = net.training
    try:
        with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
            outputs = net.eval()(inputs.float())
            found = {path: torch.zeros(modules[path].weight.shape[0], device=inputs.device) for path in sums}
            for k in range(outputs.shape[1]):
                slopes = torch.autograd.grad(outputs[:, k].sum(), list(sums.values()), retain_graph=True, allow_unused=True)
                for path, slope in zip(sums, slopes):
                    if slope is not None:
                        channels = slope.ndim - 1 if isinstance(modules[path], nn.Linear) else 1
                        found[path] += slope.abs().transpose(0, channels).flatten(1).mean(1) / outputs.shape[1]
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return {f"{path}.weight" if path else "weight": values for path, values in found.items()}
