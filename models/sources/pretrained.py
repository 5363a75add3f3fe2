"""Weights that torchvision and timm publish, from their caches or the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

from plumbline import NotHere
from plumbline.files import sha256
from plumbline.models.model import Model
from plumbline.models.sources.outside import timm_size

if TYPE_CHECKING:
    from torch import Tensor


class NoWeights(NotHere):
    """Published weights that are neither in a cache nor to be had from here; the message says why."""


def fetch(model: Model, image_size: int) -> tuple[dict[str, Tensor], str, str | None]:
    """Return the state dict, what it is called, and the SHA-256 of the published file where there is a single one.

    Raises `NoWeights`.
    """
    assert model.pretrained is not None
    library, _, name = model.pretrained.partition(":")
    return _torchvision(name) if library == "torchvision" else _timm(name, image_size)


def _torchvision(name: str) -> tuple[dict[str, Tensor], str, str]:
    import torch
    from torchvision import models as zoo

    entries = zoo.get_model_weights(name)
    if not len(entries):
        raise NoWeights(f"torchvision publishes no weights for {name}")
    weights = entries.DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.exists():
        try:
            weights.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise NoWeights(f"{path.name} is not in torch.hub's cache, and could not be had: {error}") from error
    digest = sha256(path)
    published = path.stem.rpartition("-")[2]  # torch.hub's way: the name ends in the first digits of the SHA-256
    if not digest.startswith(published):
        raise NoWeights(
            f"{path.name} in torch.hub's cache is damaged: its SHA-256 begins with {digest[:8]}, not {published}; delete it"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)  # tensors only; nothing else is unpickled
    return state, f"torchvision {weights} ({path.name})", digest


def _timm(name: str, image_size: int) -> tuple[dict[str, Tensor], str, str | None]:
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise NoWeights(f"timm publishes no weights for {name}")
    try:
        net = timm.create_model(name, pretrained=True, **timm_size(config, image_size))
    except (OSError, RuntimeError) as error:  # requests' and the hub's errors are OSErrors
        reason = str(error).strip().partition("\n")[0]
        raise NoWeights(f"timm's {name} is not in the hub's cache, and could not be had: {reason}") from error
    file = try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    digest = sha256(Path(file)) if isinstance(file, str) else None
    return net.state_dict(), f"timm {config.hf_hub_id or config.url}", digest
