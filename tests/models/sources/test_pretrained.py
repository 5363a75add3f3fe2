"""Weights that others have published."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from plumbline.files import sha256
from plumbline.models import find
from plumbline.models.sources.pretrained import NoWeights, fetch
from plumbline.models.weights.weights import locate


def test_published_weights_are_asked_for_where_somebody_publishes_them(tmp_path: Path) -> None:
    resnet, mixer = find("resnet50"), find("mixer_b16")
    assert locate(resnet, 224, None, tmp_path).kind == "seeded"
    assert locate(resnet, 224, None, tmp_path, published=True).kind == "published"
    assert locate(mixer, 32, None, tmp_path, published=True).kind == "seeded"  # they know ImageNet's classes
    assert "neither torchvision nor timm" in locate(find("resnet20"), 32, None, tmp_path, published=True).reason
    (tmp_path / "imagenet_resnet50.safetensors").touch()
    assert locate(resnet, 224, tmp_path, tmp_path, published=True).kind == "file"


def test_published_weights_that_cannot_be_had_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the cache nor to be downloaded; a damaged file in the cache is not taken."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(NoWeights, match=r"not in torch.hub's cache, and could not be had: .*no network here"):
        fetch(find("resnet18"), 224)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    torch.save(find("resnet18").instantiate(224).state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    with pytest.raises(NoWeights, match=r"damaged: its SHA-256 begins with .*, not f37072fd"):
        fetch(find("resnet18"), 224)


def test_published_weights_come_with_source_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name fits its SHA-256, as torch.hub's do, is loaded strictly."""
    state = find("resnet18").instantiate(224).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "w")
    digest = sha256(tmp_path / "w")
    name = f"resnet18-{digest[:8]}.pth"
    (tmp_path / "w").rename(tmp_path / "checkpoints" / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    entry = torchvision.models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(type(entry), "url", f"https://somewhere/{name}")
    found, source, theirs = fetch(find("resnet18"), 224)
    assert theirs == digest
    assert name in source
    assert "IMAGENET1K_V1" in source
    assert all(torch.equal(found[key], state[key]) for key in state)
