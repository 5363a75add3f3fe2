"""Single weights set to zero: the smallest, or random ones, at once or bit by bit while the net is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from plumbline.models.addition import Addition

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHUNK = 1 << 22  # weights looked at in one go
HIGH = 16  # the upper bits by which weights are sorted first; then the lower ones


def prune(
    net: nn.Module,
    sparsity: float,
    by: str = "magnitude",
    scope: str = "global",
    layers: str = "all",
    pattern: str = "any",
    seed: int = 0,
) -> nn.Module:
    """Return a copy of a net in which a share of the weights is zero, exactly, to one weight.

    `by` is `magnitude` (the smallest go, of two that are equal the first) or `random`; `scope` says whether that is the share of
    all weights together, `global`, or of each, `layer`. Weights are those of linear layers and convolutions (of the `linear` ones
    alone), biases are not. Besides the copy nothing as large as the weights is held. (Han et al. 2015, Learning both weights and
    connections.) The `pattern` 2:4 leaves of each four weights in a row the two largest, in linear layers with a multiple of 4
    inputs (Mishra et al. 2021, Accelerating sparse deep neural networks).
    Raises ValueError for a sparsity outside 0 to 1, and for 2:4 with another than a half, or with random weights.
    """
    if pattern != "any" and (sparsity, by) != (0.5, "magnitude"):
        raise ValueError(f"pattern 2:4: half of the weights go, the smaller ones; got {sparsity:.0%} by {by}")
    pruned = deepcopy(net)
    if pattern == "any":
        zero(list(weights(pruned, layers).values()), sparsity, by, scope, seed)
    else:
        _zero_two_of_four(weights(pruned, "linear").values())
    return pruned


def check_weights(net: nn.Module) -> None:
    """Raise ValueError, with their names, for layers whose weights are not their own.

    Techniques cannot change those one by one: they are computed from other tensors when they are read (weight norm), or are one
    tensor under two names (tied).
    """
    for path, module in net.named_modules():
        if isinstance(module, LAYERS) and "weight" not in module._parameters:
            raise ValueError(
                f"expected layers with weights of their own, got {path or 'a net'}, whose weight is computed from others (as "
                "weight norm does); fold it in before: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight'), or "
                "torch.nn.utils.remove_weight_norm(layer)"
            )
    first: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if (other := first.setdefault(id(parameter), name)) != name:
            raise ValueError(
                f"expected layers with weights of their own, got {other} and {name}, which are one tensor; give the "
                "second a copy: layer.weight = nn.Parameter(layer.weight.detach().clone()); "
                "of a layer in two places copy.deepcopy(layer)"
            )


@torch.no_grad()
def _zero_two_of_four(matrices: Iterable[Tensor]) -> None:
    for matrix in matrices:
        if matrix.shape[1] % 4 == 0:
            fours = matrix.view(-1, 4)
            fours.scatter_(1, fours.abs().argsort(dim=1, stable=True)[:, :2], 0)


def weights(net: nn.Module, layers: str = "all") -> dict[str, nn.Parameter]:
    """Return what is pruned of a net, by name: the matrices and kernels of its layers, each once.

    `layers`: of linear layers and convolutions (`all`), or of the `linear` ones alone.
    """
    kinds = (nn.Linear, nn.MultiheadAttention, *(() if layers == "linear" else (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    names = {"weight", "in_proj_weight"}
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in net.named_modules()
        if isinstance(module, kinds)
        for name, parameter in module.named_parameters(recurse=False)
        if name in names and parameter.ndim > 1
    }


@torch.no_grad()
def zero(tensors: Sequence[Tensor], sparsity: float, by: str = "magnitude", scope: str = "global", seed: int = 0) -> None:
    """Set a share of tensors to zero, in place."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity: expected a share from 0 to 1, got {sparsity}")
    groups = [tensors] if scope == "global" else [[tensor] for tensor in tensors]
    for number, group in enumerate(groups):
        count = round(sparsity * sum(tensor.numel() for tensor in group))
        _zero_lowest(_Scores(group, by, seed + number), count)


class _Scores:
    """A number for each weight, in chunks: bits of a float32 that is not negative, which order as the floats do."""

    def __init__(self, tensors: Sequence[Tensor], by: str, seed: int) -> None:
        self._flat, self._by, self._seed = [tensor.view(-1) for tensor in tensors], by, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights, and their scores as int32."""
        generator = torch.Generator().manual_seed(self._seed)
        for flat in self._flat:
            for part in torch.split(flat, CHUNK):
                random = self._by == "random"
                score = torch.rand(len(part), generator=generator).to(part.device) if random else part.abs().float()
                yield part, score.view(torch.int32)


def _zero_lowest(scores: _Scores, count: int) -> None:
    """Two counts, by the upper and then by the lower bits, find the highest score that goes; no weight is ever sorted."""
    if count == 0:
        return
    high, below = _crossed((score >> HIGH for _, score in scores), count, 1 << (31 - HIGH))
    low, further = _crossed((score[score >> HIGH == high] & (1 << HIGH) - 1 for _, score in scores), count - below, 1 << HIGH)
    threshold, ties = high << HIGH | low, count - below - further
    for part, score in scores:
        goes = score < threshold
        level = (score == threshold).nonzero().squeeze(1)[:ties]
        goes[level] = True
        ties -= len(level)
        part.masked_fill_(goes, 0)


def _crossed(parts: Iterable[Tensor], count: int, bins: int) -> tuple[int, int]:
    """The first value with which at least `count` are reached, and how many are smaller."""
    histogram = torch.zeros(bins, dtype=torch.int64)
    for part in parts:
        histogram += torch.bincount(part, minlength=bins).cpu()
    reached = histogram.cumsum(0)
    value = int(torch.searchsorted(reached, count))
    return value, int(reached[value] - histogram[value])


def polynomial(sparsity: float, done: float, until: float = 0.75) -> float:
    """Return the sparsity after the share `done` of the training; all of `sparsity` is reached at the share `until`.

    Source: Zhu & Gupta 2017, "To prune, or not to prune", equation 1.
    """
    return sparsity * (1 - (1 - min(1.0, done / until)) ** 3)


class Gradual(Addition):
    """While the net is trained its smallest weights go, more and more; what has gone stays zero."""

    STEPS = 100  # of the schedule

    def __init__(self, sparsity: float, scope: str = "global", layers: str = "all") -> None:
        self._sparsity, self._scope, self._layers, self._pruned = sparsity, scope, layers, -1

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self._kept = Kept()
        self._kept.begin(net, parent)

    def stepped(self, net: nn.Module, done: float) -> None:
        self._kept.stepped(net, done)
        now = int(done * self.STEPS)
        if now > self._pruned:
            chosen = list(weights(net, self._layers).values())
            zero(chosen, polynomial(self._sparsity, now / self.STEPS), scope=self._scope)
            self._kept.begin(net, net)
            self._pruned = now

    def state(self) -> dict[str, Tensor]:
        return {"pruned": torch.tensor(self._pruned), **self._kept.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._pruned = int(state["pruned"])
        self._kept.restore({name: mask for name, mask in state.items() if name != "pruned"})


class Kept(Addition):
    """What is zero when training begins stays zero."""

    def __init__(self) -> None:
        self._masks: dict[str, Tensor] = {}

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self._masks = {name: weight.detach() != 0 for name, weight in weights(net).items()}

    @torch.no_grad()
    def stepped(self, net: nn.Module, done: float) -> None:
        found = weights(net)
        for name, mask in self._masks.items():
            found[name].masked_fill_(~mask.to(found[name].device), 0)  # a product would leave -0.0, which takes room on disk

    def state(self) -> dict[str, Tensor]:
        return dict(self._masks)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._masks = dict(state)
