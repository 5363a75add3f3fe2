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
    """Set a share of the weights to zero, with the context's seed."""
    return unstructured.prune(net, sparsity, by, scope, layers, pattern, 0 if context is None else context.seed)


def filters(net: nn.Module, context: Context | None, *, share: float, by: str, keep: float, unit: int) -> nn.Module:
    """Remove whole channels until that share of the MACs is gone. Raises ValueError where no context gives a picture."""
    if context is None:
        raise ValueError("channels are found by running the net: expected a picture, got none")
    batch = context.labelled(TAYLOR) if by == "taylor" else None
    return structured.prune(net, share, context.example(), by, batch, keep, unit)


def svd(net: nn.Module, context: Context | None, *, share: float) -> nn.Module:
    """Replace layers by products of two thinner ones."""
    return lowrank.factorise(net, share)


def share(net: nn.Module, context: Context | None, *, bits: int) -> nn.Module:
    """Let the weights of each layer share 2**bits values."""
    return sharing.share(net, bits)


def huffman(net: nn.Module, context: Context | None) -> nn.Module:
    """Return the same net: what runs in a benchmark is decoded from its file, and compared with what this one computes."""
    return deepcopy(net)


def sparse(net: nn.Module, context: Context | None, *, format: str) -> nn.Module:
    """Store and multiply only what is not zero."""
    return sparsified(net, format)


def tune(context: Context, *, epochs: int, rate: float) -> Addition:
    """Train further: zeros stay zero, shared weights shared."""
    return sharing.Tuned()


def gradual(context: Context, *, sparsity: float, scope: str, layers: str, epochs: int, rate: float) -> Addition:
    """Prune more and more while the net is trained."""
    return unstructured.Gradual(sparsity, scope, layers)


def l1(context: Context, *, penalty: float, decimals: int, epochs: int, rate: float) -> Addition:
    """Train with the sizes of the weights in the loss."""
    return L1(penalty, decimals)


def serene(context: Context, *, decay: float, threshold: float, epochs: int, rate: float) -> Addition:
    """Train with weights shrunk that the outputs hardly depend on."""
    return Sensitivity(decay, threshold)


def distill(context: Context, *, teacher: str, temperature: float, alpha: float, epochs: int, rate: float) -> Addition:
    """Train by the scores of a teacher, too."""
    return Distillation(context.teacher(teacher), temperature, alpha)
