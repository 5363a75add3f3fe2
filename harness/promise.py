"""What a compressed net promises: sizes, MACs, and the speed-up that they would allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.counts import torch_layers
from models.compression import coding
from models.compression.sparse import densified
from models.compression.unstructured import weights

if TYPE_CHECKING:
    from torch import nn


def of(parent: nn.Module, net: nn.Module, example: tuple[Any, ...], file: Path | None, coded: bool) -> dict[str, Any]:
    """The fields of `harness.facts.Promise`, and `layers`, those of the compressed net in the form of a formula.

    `coded` says that on disk it is Deep Compression's file; else it is the `file` of tensors that the net is built from again, if
    there is one.
    """
    dense = densified(net)
    before, after = torch_layers(parent, example), torch_layers(dense, example)
    shares = {
        name.rpartition(".")[0]: int(weight.count_nonzero()) / max(1, weight.numel()) for name, weight in weights(dense).items()
    }
    macs = {name: layer.macs for name, layer in after.items()}
    tensors = dense.state_dict()
    stages = coding.encode(tensors)[1] if coded else None
    return {
        "parameters_dense": sum(parameter.numel() for parameter in parent.parameters()),
        "parameters": sum(parameter.numel() for parameter in dense.parameters()),
        "parameters_nonzero": sum(int(parameter.count_nonzero()) for parameter in dense.parameters()),
        "parameters_stored": sum(parameter.numel() for parameter in net.parameters()),
        "macs_dense": sum(layer.macs for layer in before.values()),
        "macs": sum(macs.values()),
        "macs_effective": round(sum(count * shares.get(name, 1.0) for name, count in macs.items())),
        "bytes_dense": sum(tensor.numel() * tensor.element_size() for tensor in parent.state_dict().values()),
        "bytes": stages["coded"] if stages else None if file is None else file.stat().st_size,
        "stages": stages,
        "layers": [
            {"name": name, "parameters": layer.parameters, "macs": layer.macs, "fan_in": layer.macs // max(1, layer.outputs)}
            for name, layer in after.items()
            if layer.macs or layer.parameters
        ],
    }
