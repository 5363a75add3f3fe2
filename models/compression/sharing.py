"""Weights that share a few values: k-means in each layer, and training that moves the values and not who shares them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from plumbline.models.addition import Addition, under
from plumbline.models.compression.unstructured import Kept, weights

ITERATIONS = 100  # of k-means, at most


def share(net: nn.Module, bits: int = 5) -> nn.Module:
    """Return a copy of a net in which the weights of each layer that are not zero take at most 2**bits values.

    The values are the means of k-means' clusters, whose first ones lie evenly between the smallest and the largest weight (Han
    et al. 2016, Deep compression, section 3.2: large weights are few and matter). Zeros stay zeros, and are nobody's
    share. Raises ValueError for bits outside 1 to 8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits of a shared weight: expected 1 to 8, got {bits}")
    shared = deepcopy(net)
    with torch.no_grad():
        for weight in weights(shared).values():
            kept = weight != 0
            if bool(kept.any()):
                weight[kept] = clustered(weight[kept], 1 << bits)
    return shared


def clustered(values: Tensor, clusters: int) -> Tensor:
    """Return a vector with each value replaced by the mean of its cluster, by Lloyd's algorithm on the line."""
    ordered, order = values.double().sort()
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    means = torch.linspace(float(ordered[0]), float(ordered[-1]), clusters, dtype=torch.float64, device=values.device)
    bounds = None
    for _ in range(ITERATIONS):
        # on the line a cluster is a stretch between the middles of neighbouring means
        middles = torch.searchsorted(ordered, (means[1:] + means[:-1]) / 2)
        now = torch.cat([middles.new_zeros(1), middles, middles.new_tensor([len(ordered)])])
        if bounds is not None and bool((now == bounds).all()):
            break
        bounds = now
        sizes = bounds[1:] - bounds[:-1]
        means = torch.where(sizes > 0, (sums[bounds[1:]] - sums[bounds[:-1]]) / sizes.clamp_min(1), means)
    assert bounds is not None
    replaced = torch.empty_like(values)
    replaced[order] = torch.repeat_interleave(means, bounds[1:] - bounds[:-1]).to(values.dtype)
    return replaced


class Tuned(Addition):
    """Keep zeros zero and shared weights shared while a net is trained further.

    A shared value moves by the mean of its weights' steps (Han et al. 2016, "Deep compression", section 3.3, takes the sum).
    """

    SHARED = 256  # values of a layer with more than that are its weights' own

    def begin(self, net: nn.Module, parent: nn.Module) -> None:
        self._kept = Kept()
        self._kept.begin(net, parent)
        self._members: dict[str, Tensor] = {}
        for name, weight in weights(net).items():
            values, members = torch.unique(weight.detach(), return_inverse=True)
            if len(values) <= self.SHARED + 1:
                self._members[name] = (members + 1).masked_fill(weight == 0, 0).to(torch.int32)

    @torch.no_grad()
    def stepped(self, net: nn.Module, done: float) -> None:
        self._kept.stepped(net, done)
        found = weights(net)
        for name, groups in self._members.items():
            weight, members = found[name], groups.to(found[name].device).long().flatten()
            count = int(members.max()) + 1
            sums = torch.zeros(count, dtype=torch.float64, device=weight.device).index_add_(0, members, weight.flatten().double())
            means = sums / torch.bincount(members, minlength=count).clamp_min(1)
            means[0] = 0
            weight.copy_(means[members].reshape(weight.shape))

    def state(self) -> dict[str, Tensor]:
        shared = {f"members.{name}": members for name, members in self._members.items()}
        return {**shared, **{f"kept.{name}": mask for name, mask in self._kept.state().items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._members = under("members.", state)
        self._kept.restore(under("kept.", state))
