"""The techniques of `models.compression.variants`, by net, context and options."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from plumbline.models.addition import Addition
from plumbline.models.compression import lowrank, sharing, structured, unstructured
from plumbline.models.compression.distillation import Distillation
from plumbline.models.compression.penalties import L1, Sensitivity
from plumbline.models.compression.sparse import sparsified

if TYPE_CHECKING:
    from torch import nn

    from plumbline.models.compression.variants import Context

TAYLOR = 64  # pictures on which the loss is expanded


def prune(
    net: nn.Module, context: Context | None, *, sparsity: float, by: str, scope: str, layers: str, pattern: str
) -> nn.Module:
    return unstructured.prune(net, sparsity, by, scope, layers, pattern, 0 if context is None else context.seed)


def filters(net: nn.Module, context: Context | None, *, share: float, by: str, keep: float, unit: int) -> nn.Module:
    if context is None:
        raise ValueError("channels are found by running the net: wanted a picture, came none")
    batch = context.labelled(TAYLOR) if by == "taylor" else None
    return structured.prune(net, share, context.example(), by, batch, keep, unit)


def svd(net: nn.Module, context: Context | None, *, share: float) -> nn.Module:
    return lowrank.factorise(net, share)


def share(net: nn.Module, context: Context | None, *, bits: int) -> nn.Module:
    return sharing.share(net, bits)


def huffman(net: nn.Module, context: Context | None) -> nn.Module:
    """The same net: what runs in a benchmark is decoded from its file, and compared with what this one computes."""
    return deepcopy(net)


def sparse(net: nn.Module, context: Context | None, *, format: str) -> nn.Module:
    return sparsified(net, format)


def tune(context: Context, *, epochs: int, rate: float) -> Addition:
    return sharing.Tuned()


def gradual(context: Context, *, sparsity: float, scope: str, layers: str, epochs: int, rate: float) -> Addition:
    return unstructured.Gradual(sparsity, scope, layers)


def l1(context: Context, *, penalty: float, decimals: int, epochs: int, rate: float) -> Addition:
    return L1(penalty, decimals)


def serene(context: Context, *, decay: float, threshold: float, epochs: int, rate: float) -> Addition:
    return Sensitivity(decay, threshold)


def distill(context: Context, *, teacher: str, temperature: float, alpha: float, epochs: int, rate: float) -> Addition:
    return Distillation(context.teacher(teacher), temperature, alpha)
