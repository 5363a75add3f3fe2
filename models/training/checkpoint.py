"""Tensors and facts in one safetensors file, written in one piece and with a checksum over all of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import PlumblineError

if TYPE_CHECKING:
    from torch import Tensor


KEY = "plumbline"  # of the metadata


class BadCheckpoint(PlumblineError, ValueError):
    """A file that is not one of this project's safetensors files, is cut off, or has changed since it was written."""


class NotKept(PlumblineError, OSError):
    """A file that cannot be written: no right to, or no room."""


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a file; whoever reads `path` meanwhile, or after a crash, finds the old one or the new one, whole.

    Raises `NotKept`.
    """
    from safetensors.torch import save_file

    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts, sort_keys=True)
    # one key: safetensors writes several in any order, and the same net would have several digests
    told = json.dumps({"facts": text, "sha256": _digest(stored, text)})
    write(path, lambda part: save_file(stored, part, metadata={KEY: told}))


def save_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors alone, as any program that reads safetensors takes them. Raises `NotKept`."""
    from safetensors.torch import save_file

    stored = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write(path, lambda part: save_file(stored, part))


def write(path: Path, make: Callable[[Path], object]) -> None:
    """Have a file made beside `path`, and then put it in that place. Raises `NotKept`."""
    from safetensors import SafetensorError

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(part)
        os.chmod(part, 0o666 & ~_umask())  # safetensors gives the file to its owner alone
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise NotKept(f"{path} cannot be written: {error}; $XDG_CACHE_HOME names another place") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file. Raises `BadCheckpoint`; nothing is unpickled."""
    stored, metadata = _read(path)
    if not metadata:
        raise BadCheckpoint(f"{path} was not written by this project: it has no checksum")
    return stored, json.loads(metadata["facts"])


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file; one of this project's must be as it was written. Raises `BadCheckpoint`."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is no whole safetensors file: {error}") from error
    metadata = json.loads(metadata[KEY]) if KEY in metadata else metadata
    if not {"facts", "sha256"} <= metadata.keys():
        return stored, {}
    if _digest(stored, metadata["facts"]) != metadata["sha256"]:
        raise BadCheckpoint(f"{path} was changed after it was written: its checksum is another one")
    return stored, metadata


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of names, types, shapes, bytes and facts."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
