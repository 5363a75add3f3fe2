"""Whole channels removed, with everything that depends on them (DepGraph, Fang et al. 2023), by Torch-Pruning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plumbline import PlumblineError
from plumbline.models.counting.counts import torch_layers

LAYERS = (nn.Conv2d, nn.Linear)
UNIT = 16  # channels that go together, so that what is left still fills vectors; fewer where there are few


class TooMuch(PlumblineError, ValueError):
    """More is to be removed than the groups allow."""


@dataclass
class Group:
    """Channels of `root`, and the layers that lose channels with it.

    `units` are (importance, channels that are removed together), the least important first. `sides` are (layer, whether its
    `out` or `in` channels go, how many of them for each channel of `root`).
    """

    root: nn.Module
    units: list[tuple[float, list[int]]]
    sides: list[tuple[nn.Module, str, float]]


@torch.enable_grad()  # by which the graph is found
def prune(
    net: nn.Module,
    share: float,
    example: Tensor,
    by: str = "magnitude",
    batch: tuple[Tensor, Tensor] | None = None,
    keep: float = 0.1,
    unit: int = UNIT,
) -> nn.Module:
    """Return a copy of a net without a share of its MACs: as few channels go as reach it, to one unit.

    `by` is `magnitude` (the L2 norm of all weights of a channel in all layers that share it) or `taylor` (how much the loss would
    change, to first order, on `batch`, pictures and labels; Molchanov et al. 2019), in the mean of each group 1, and compared
    over all layers. Of each group at least the share `keep` stays. `example` has shape (1, channels, height, width). Channels
    whose dependencies Torch-Pruning cannot follow are left alone: those that attention splits into heads, that token mixing
    transposes, or that a shortcut pads; `groups` says which are left. Raises `TooMuch`, with the share that can be reached.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share of the MACs that go: expected 0 to less than 1, got {share}")
    if not 0 < keep <= 1 or unit < 1:
        raise ValueError(f"channels that stay, and go together: expected a share above 0 and 1 or more, got {keep} and {unit}")
    net = deepcopy(net).eval()
    if share == 0:
        return net
    learning = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    net.requires_grad_(True)
    if by == "taylor":
        _gradients(net, batch)
    graph, found = groups(net, example, by, unit)
    net.zero_grad(set_to_none=True)
    chosen = _chosen(net, found, share, example, keep)
    for group in found:
        channels = sorted(chosen.get(group.root, []))
        if channels:
            graph.get_pruning_group(group.root, _out(group.root), channels).prune()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(learning[name])
    return net


@torch.enable_grad()
def groups(net: nn.Module, example: Tensor, by: str = "magnitude", unit: int = UNIT) -> tuple[Any, list[Group]]:
    """Torch-Pruning's graph of a net, and the groups of it that can be pruned."""
    import torch_pruning

    importance = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
    }[by]()
    graph, usable = _graph(net, example), []
    names = {module: name for name, module in net.named_modules()}
    shape = _shapes(net(example))
    for group in _all_groups(graph, net):
        root = group[0].dep.target.module
        if not _whole(group) or not _runs(net, names[root], example, shape):
            continue
        scores = importance(group)
        width = len(scores)
        size = max(1, min(unit, width // 4))
        order = scores.argsort().tolist()
        units = [order[start : start + size] for start in range(0, width - width % size, size)]
        scored = [(float(scores[part].mean()), part) for part in units]
        usable.append(Group(root, scored, list(_sides(group, width))))
    return graph, usable


def _graph(net: nn.Module, example: Tensor) -> Any:
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on parameters that no layer owns
        return torch_pruning.DependencyGraph().build_dependency(net, example_inputs=example)


def _all_groups(graph: Any, net: nn.Module) -> Iterator[Any]:
    last = [module for module in net.modules() if isinstance(module, LAYERS)][-1]
    yield from graph.get_all_groups(ignored_layers=[last], root_module_types=list(LAYERS))


def _out(module: nn.Module) -> Any:
    import torch_pruning

    if isinstance(module, nn.Linear):
        return torch_pruning.prune_linear_out_channels
    assert isinstance(module, nn.Conv2d)
    if module.groups == module.out_channels > 1:
        return torch_pruning.prune_depthwise_conv_out_channels
    return torch_pruning.prune_conv_out_channels


def _side(dependency: Any) -> str:
    return "out" if "out" in dependency.handler.__name__ else "in"


def _whole(group: Any) -> bool:
    """Whether all of the channels of each layer of a group are among those it names; where not, something was not understood."""
    covered: dict[tuple[nn.Module, str], set[int]] = {}
    for dependency, channels in group:
        module, side = dependency.target.module, _side(dependency)
        if isinstance(module, LAYERS):
            covered.setdefault((module, side), set()).update(channels)
    return all(channels == set(range(_width(*key))) for key, channels in covered.items())


def _width(module: nn.Module, side: str) -> int:
    """How many channels go into a layer, or come out."""
    assert isinstance(module, LAYERS)
    if side == "out":
        return int(module.weight.shape[0])
    return int(module.weight.shape[1]) * (module.groups if isinstance(module, nn.Conv2d) else 1)


def _runs(whole: nn.Module, name: str, example: Tensor, shapes: list[tuple[int, ...]]) -> bool:
    """Return whether a net without the first channel of a layer's outputs still runs, with outputs of the same shapes.

    On the CPU: on the meta device that takes longer, as torch decomposes norms and activations there in Python.
    """
    net = deepcopy(whole, {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())})  # which pruning replaces
    try:
        root = net.get_submodule(name)
        _graph(net, example).get_pruning_group(root, _out(root), [0]).prune()
        return _shapes(net(example)) == shapes
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    """Of all tensors in what a net returns, itself one or dictionaries and sequences of them."""
    if isinstance(outputs, Tensor):
        return [tuple(outputs.shape)]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    return [shape for each in outputs for shape in _shapes(each)] if isinstance(outputs, (tuple, list)) else []


def _sides(group: Any, width: int) -> Iterator[tuple[nn.Module, str, float]]:
    for dependency, channels in group:
        if isinstance(dependency.target.module, LAYERS):
            yield dependency.target.module, _side(dependency), len(channels) / width


def _gradients(net: nn.Module, batch: tuple[Tensor, Tensor] | None) -> None:
    if batch is None:
        raise ValueError("importance by Taylor expansion: expected pictures and labels, got none")
    scores = net(batch[0])
    if not isinstance(scores, Tensor):
        raise ValueError(
            f"importance by Taylor expansion: expected a net that returns scores, got {type(scores).__name__}; "
            "by=magnitude needs no loss"
        )
    torch.autograd.backward(functional.cross_entropy(scores, batch[1]))


def _chosen(net: nn.Module, found: list[Group], share: float, example: Tensor, keep: float) -> dict[nn.Module, list[int]]:
    """The channels that go, by the root of their group: the fewest units, least important first."""
    counted = torch_layers(net, (example,))
    macs = {module: counted[name].macs for name, module in net.named_modules()}
    whole = sum(macs.values())
    order = sorted(
        ((score, index, number) for index, group in enumerate(found) for number, (score, _) in enumerate(group.units)),
        key=lambda unit: unit[0],
    )
    spare = [int((1 - keep) * sum(len(channels) for _, channels in group.units)) for group in found]
    left = {(module, side): 1.0 for group in found for module, side, _ in group.sides}
    now, target = float(whole), (1 - share) * whole
    chosen: dict[nn.Module, list[int]] = {}

    def of(module: nn.Module) -> float:
        one_side = isinstance(module, nn.Conv2d) and module.groups > 1
        factor = left.get((module, "out"), 1.0)
        return macs.get(module, 0) * (factor if one_side else factor * left.get((module, "in"), 1.0))

    for _, index, number in order:
        if now <= target:
            return chosen
        group = found[index]
        _, channels = group.units[number]
        if len(channels) > spare[index]:
            continue
        spare[index] -= len(channels)
        modules = {module for module, _, _ in group.sides}
        before = sum(map(of, modules))
        for module, side, each in group.sides:
            left[module, side] -= each * len(channels) / _width(module, side)
        now += sum(map(of, modules)) - before
        chosen.setdefault(group.root, []).extend(channels)
    if now <= target:
        return chosen
    most = 1 - now / whole
    raise TooMuch(
        f"a share of {share:.1%} of the MACs is to go; the {len(found)} groups of channels that can be pruned allow {most:.1%} "
        f"(each keeps {keep:.0%} of its channels at least; a smaller keep= or unit= may allow more)"
    )
