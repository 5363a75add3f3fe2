"""A compressed net on disk: its tensors, and in which modules it differs from the one that its model builds.

It is built again from nothing but the file: on the meta device, where the dense parent takes no memory, and then with the file's
own tensors. The file is safetensors, or Deep Compression's (`models.compression.coding`), in which sparse layers have their zeros
again: coded they take next to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plumbline import PlumblineError
from plumbline.models.compression import coding
from plumbline.models.compression.sparse import (
    CompressedRows,
    RowMajorLinear,
    SemiStructuredLinear,
    SparseConv2d,
    SparseLinear,
    compressed_rows,
    replaced,
)
from plumbline.models.model import Model
from plumbline.models.training import checkpoint
from plumbline.models.weights.seeding import changes_in_eval

# How each kind of module is described: the arguments that make it, which are also its attributes.
CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
KINDS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: (*CONVOLUTION, "groups", "padding_mode"),
    nn.BatchNorm2d: ("num_features", "eps", "momentum"),
    nn.LayerNorm: ("normalized_shape", "eps"),
    nn.Sequential: (),
    nn.Identity: (),
    RowMajorLinear: ("in_features", "out_features"),
    SemiStructuredLinear: ("in_features", "out_features"),
    SparseLinear: ("in_features", "out_features", "activation"),
    SparseConv2d: (*CONVOLUTION, "activation"),
}


class CannotStore(PlumblineError, TypeError):
    """A technique made something of a net that has no description here."""


def save(net: nn.Module, model: Model, image_size: int, path: Path, coded: bool = False) -> dict[str, int] | None:
    """Write a net that was made of a model. Returns the bytes after each stage of a coded file. Raises `CannotStore`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in net.state_dict(keep_vars=True).items()}
    facts = {"of": [model.name, image_size], "changes": _changes(net, _parent(model, image_size))}
    if not coded:
        checkpoint.save(path, tensors, facts)
        return None
    for name, module in _sparse(net).items():
        for key in ("rows", "columns", "values"):
            del tensors[_within(name, key)]
        tensors[_within(name, "weight")] = module.dense().weight
    file, stages = coding.encode(tensors, facts)
    checkpoint.write(path, lambda part: part.write_bytes(file))
    return stages


def load(model: Model, image_size: int, path: Path) -> nn.Module:
    """Build the net of a file, in eval mode. Raises `BadCheckpoint` for a file that is cut off, changed, or of another model."""
    with path.open("rb") as file:
        coded = file.read(len(coding.MAGIC)) == coding.MAGIC
    try:
        tensors, facts = coding.decode(path.read_bytes()) if coded else checkpoint.load(path)
    except checkpoint.BadCheckpoint as reason:
        raise checkpoint.BadCheckpoint(f"{path.name}: {reason}; plumbline compress writes it anew") from reason
    if facts.get("of") != [model.name, image_size]:
        was = "no compressed net" if "of" not in facts else "of {} at {} pixels".format(*facts["of"])
        raise checkpoint.BadCheckpoint(f"{path.name} is {was}, expected one of {model.name} at {image_size} pixels")
    net = _parent(model, image_size)
    for name, change in facts["changes"].items():
        net = _changed(net, name, change)
    for name in _sparse(net) if coded else ():
        if (weight := tensors.pop(_within(name, "weight"), None)) is not None:
            tensors |= {_within(name, key): kept for key, kept in compressed_rows(weight).items()}
    if differing := sorted(set(net.state_dict()) ^ set(tensors)):
        raise checkpoint.BadCheckpoint(f"{path.name} is of another {model.name} than this one: {', '.join(differing[:3])}")
    for name, tensor in tensors.items():
        _put(net, name, tensor)
    left = [name for name, tensor in (*net.named_parameters(), *net.named_buffers()) if tensor.is_meta]
    if left:  # what a net computes when it is built, and does not keep
        whole = dict(model.instantiate(image_size).named_buffers())
        for name in left:
            _put(net, name, whole[name])
    return net.eval()


def _sparse(net: nn.Module) -> dict[str, CompressedRows]:
    return {name: module for name, module in net.named_modules() if isinstance(module, CompressedRows)}


def _within(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parent(model: Model, image_size: int) -> nn.Module:
    with torch.device("meta"):
        return model.instantiate(image_size)


def _changes(net: nn.Module, parent: nn.Module) -> dict[str, Any]:
    before = dict(parent.named_modules())
    if changes_in_eval(net) and (gone := before.keys() - dict(net.named_modules()).keys()):
        raise CannotStore(f"{min(gone)} is folded into other layers in eval mode; no way is known to build that from a file")
    changes: dict[str, Any] = {}
    for name, module in net.named_modules():
        same = before.get(name)
        if same is not None and _alike(same, module):
            differing = _differing(module, same)
            if differing:
                changes[name] = {"set": differing}
            continue
        kind = next((kind for kind in KINDS if type(module) is kind), None)
        if kind is None:
            raise CannotStore(
                f"{name or 'the net itself'} is now a {type(module).__name__}; no way is known to build one from a file"
            )
        made = {key: getattr(module, key) for key in KINDS[kind]}
        if hasattr(module, "bias") and kind not in (nn.BatchNorm2d, nn.LayerNorm):
            made["bias"] = module.bias is not None
        if hasattr(module, "values"):
            made["stored"] = module.values.numel()
        changes[name] = {"kind": kind.__name__, "with": made}
    return changes


def _alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules are of one class; one that is defined in a builder is another object each time, of the same name."""
    one, other = type(first), type(second)
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _differing(module: nn.Module, parent: nn.Module) -> dict[str, Any]:
    """The plain attributes, sizes among them, that are no longer what they were."""
    plain = (bool, int, float, str, tuple)
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, plain) and key != "training" and vars(parent).get(key) != value
    }


def _changed(net: nn.Module, name: str, change: dict[str, Any]) -> nn.Module:
    if "set" in change:
        module = net.get_submodule(name)
        for key, value in change["set"].items():
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
        return net
    kind = {kind.__name__: kind for kind in KINDS}[change["kind"]]
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in change["with"].items()}
    with torch.device("meta"):
        return replaced(net, name, kind(**made))


def _put(net: nn.Module, name: str, tensor: Tensor) -> None:
    """A tensor in the place of a parameter or buffer, whatever that one's shape was."""
    path, _, key = name.rpartition(".")
    module = net.get_submodule(path)
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[key] = tensor
