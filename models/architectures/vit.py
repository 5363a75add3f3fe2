"""Vision transformers (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", table 1), torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from plumbline.models.data.datasets import Preparation
from plumbline.models.layers import Layer, attention, conv2d, linear, multihead, norm
from plumbline.models.model import Floor, Model
from plumbline.models.sources.outside import torchvision_builder

if TYPE_CHECKING:
    from torch import nn


def torchvision_layers(image_size: int, channels: int, classes: int, patch: int, blocks: int, width: int) -> Iterator[Layer]:
    """Return the formula; `width` is the hidden size D, the MLP is 4 D wide. The number of heads changes no count."""
    grid = image_size // patch
    tokens = grid * grid + 1
    yield conv2d("conv_proj", channels, width, patch, grid, bias=True)
    yield Layer("class_token", width)
    yield Layer("encoder.pos_embedding", tokens * width)
    for block in range(blocks):
        path = f"encoder.layers.encoder_layer_{block}"
        yield norm(f"{path}.ln_1", width)
        yield from multihead(f"{path}.self_attention", tokens, width)
        yield norm(f"{path}.ln_2", width)
        yield linear(f"{path}.mlp.0", width, 4 * width, rows=tokens)
        yield linear(f"{path}.mlp.3", 4 * width, width, rows=tokens)
    yield norm("encoder.ln", width)
    yield linear("heads.head", width, classes)


def timm_layers(image_size: int, channels: int, classes: int, patch: int, blocks: int, width: int) -> Iterator[Layer]:
    """Return the same arithmetic under timm's names, with the products of attention apart from its projections."""
    grid = image_size // patch
    tokens = grid * grid + 1
    yield conv2d("patch_embed.proj", channels, width, patch, grid, bias=True)
    yield Layer("cls_token", width)
    yield Layer("pos_embed", tokens * width)
    for block in range(blocks):
        path = f"blocks.{block}"
        yield norm(f"{path}.norm1", width)
        yield linear(f"{path}.attn.qkv", width, 3 * width, rows=tokens)
        yield attention(f"{path}.attn", tokens, 1, width, width)
        yield linear(f"{path}.attn.proj", width, width, rows=tokens)
        yield norm(f"{path}.norm2", width)
        yield linear(f"{path}.mlp.fc1", width, 4 * width, rows=tokens)
        yield linear(f"{path}.mlp.fc2", 4 * width, width, rows=tokens)
    yield norm("norm", width)
    yield linear("head", width, classes)


def _timm(name: str) -> Callable[..., nn.Module]:
    def build(image_size: int, channels: int, classes: int) -> nn.Module:
        import timm

        return timm.create_model(name, img_size=image_size, in_chans=channels, num_classes=classes)

    return build


MODELS = [
    *(
        Model(
            name,
            torchvision_builder(name),
            partial(torchvision_layers, patch=16, blocks=blocks, width=width),
            data=("imagenet",),
            sizes=range(16, 1025, 16),
            floors={"imagenet": Floor(top1=top1, top5=top5, images=50_000, source="torchvision, IMAGENET1K_V1")},
            source="Dosovitskiy et al. 2020, table 1; torchvision",
            preparation=Preparation(crop=crop),
            pretrained=f"torchvision:{name}",
        )
        for name, blocks, width, top1, top5, crop in [
            ("vit_b_16", 12, 768, 0.81072, 0.95318, 224 / 256),
            ("vit_l_16", 24, 1024, 0.79662, 0.94638, 224 / 242),
        ]
    ),
    *(
        Model(
            name,
            _timm(f"{name}_patch16_224"),
            partial(timm_layers, patch=16, blocks=12, width=width),
            data=("imagenet",),
            sizes=range(16, 1025, 16),
            floors={"imagenet": Floor(top1=top1, top5=top5, images=50_000, source="timm, results-imagenet.csv")},
            source="Touvron et al. 2021, table 1, without distillation; timm",
            preparation=Preparation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=0.9, bicubic=True),
            pretrained=f"timm:{name}_patch16_224.augreg_in21k_ft_in1k",
        )
        for name, width, top1, top5 in [("vit_tiny", 192, 0.75454, 0.92844), ("vit_small", 384, 0.81384, 0.96136)]
    ),
]
