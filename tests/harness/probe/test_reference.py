"""What a cell is compared with."""

from __future__ import annotations

import torch
from torch import nn

from plumbline import models


def test_a_reference_is_computed_on_a_copy() -> None:
    model, images = models.find("tests.faulty:DECAYING"), torch.rand(2, 1, 8, 8)
    before = images.clone()
    net: nn.Module = model.instantiate(8).eval()
    first = model.run(net, images)
    assert torch.equal(model.run(net, images), first)
    assert torch.equal(images, before)
