"""What a compressed net promises: sizes, MACs, and the speed-up that they would allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.models.compression.sparse import densified
from plumbline.models.compression.unstructured import weights
from plumbline.models.counting.counts import as_layers, torch_layers

if TYPE_CHECKING:
    from torch import nn


def of(
    parent: nn.Module, net: nn.Module, example: tuple[Any, ...], file: Path | None, stages: dict[str, int] | None
) -> dict[str, Any]:
    """Return the fields of `harness.facts.Promise`, and `layers`, those of the compressed net in the form of a formula.

    `file` is what the net is built from again, if there is one, and `stages` what the coding of it took to each stage.
    """
    dense = densified(net)
    before, after = torch_layers(parent, example), torch_layers(dense, example)
    shares = {  # attention's three matrices in one are multiplied dense
        name.removesuffix(".weight"): int(weight.count_nonzero()) / max(1, weight.numel())
        for name, weight in weights(dense).items()
        if name.endswith("weight") and not name.endswith("in_proj_weight")
    }
    macs = {name: layer.macs for name, layer in after.items()}
    return {
        "parameters_dense": sum(parameter.numel() for parameter in parent.parameters()),
        "parameters": sum(parameter.numel() for parameter in dense.parameters()),
        "parameters_nonzero": sum(int(parameter.count_nonzero()) for parameter in dense.parameters()),
        "parameters_stored": sum(parameter.numel() for parameter in net.parameters()),
        "macs_dense": sum(layer.macs for layer in before.values()),
        "macs": sum(macs.values()),
        "macs_effective": round(sum(count * shares.get(name, 1.0) for name, count in macs.items())),
        "bytes_dense": sum(tensor.numel() * tensor.element_size() for tensor in parent.state_dict().values()),
        "bytes": None if file is None else file.stat().st_size,
        "stages": stages,
        "layers": as_layers(after),
    }
