"""A student that learns from a teacher's scores as well as from labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from plumbline.models.addition import Addition


class Distillation(Addition):
    """alpha T^2 KL(teacher / T, student / T) + (1 - alpha) times the loss of the labels (Hinton et al. 2015, section 2).

    `teacher` is a trained net. Raises ValueError where it scores other classes than the student, for a temperature of 0 or less,
    and for an alpha outside 0 to 1.
    """

    def __init__(self, teacher: nn.Module, temperature: float = 4.0, alpha: float = 0.9) -> None:
        if not temperature > 0 or not 0 <= alpha <= 1:
            raise ValueError(f"expected a temperature above 0 and an alpha from 0 to 1, got {temperature} and {alpha}")
        self._teacher, self._temperature, self._alpha = teacher.eval().requires_grad_(False), temperature, alpha

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self._teacher.to(next(net.parameters()).device)

    def loss(self, loss: Tensor, net: nn.Module, inputs: Tensor, outputs: Tensor, labels: Tensor, done: float) -> Tensor:
        with torch.no_grad():
            taught = self._teacher(inputs).float()
        if taught.shape != outputs.shape:
            raise ValueError(f"the teacher scores {taught.shape[1]} classes, the student {outputs.shape[1]}")
        soft = [functional.log_softmax(scores / self._temperature, dim=1) for scores in (outputs, taught)]
        distance = functional.kl_div(soft[0], soft[1], reduction="batchmean", log_target=True)
        return self._alpha * self._temperature**2 * distance + (1 - self._alpha) * loss
