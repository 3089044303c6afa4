"""Sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412): learn where the loss is low all around, not at one point alone.

    gradient at the weights ─► weights moved uphill by a small radius ─► gradient there ─► weights as they were ─► one usual step by it

A step takes twice the time. From few examples a pretrained model generalises better so (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wordmill.core.errors import UsageError
from wordmill.train.optim import Optimizer


def check_radius(radius: float, optimizer: Optimizer) -> None:
    """Raises `UsageError` where weights are bfloat16: that they are moved by so little would be lost in their rounding."""
    if radius and any(p.dtype in (torch.bfloat16, torch.float16) for p in optimizer.parameters.values()):
        raise UsageError("weights in bfloat16 can't be moved by so little", where="train.sam",
                         fix="Use --dtype fp32 (or mixed, in fine-tuning), or leave it away")  # fmt: skip


@contextmanager
def uphill(optimizer: Optimizer, radius: float) -> Iterator[None]:
    """Inside, all weights that learn lie `radius` (Euclidean, over all of them) further along the gradients that were collected, which
    are dropped, so that those of the place reached can be. Afterwards the weights are as before, to the bit."""
    by = radius / (optimizer.gradient_norm() + 1e-12)
    before = {name: optimizer.parameters[name].detach().clone() for name in optimizer.gradient}
    with torch.no_grad():
        for name, gradient in optimizer.gradient.items():
            optimizer.parameters[name].add_(gradient * by)
    optimizer.gradient.clear()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                optimizer.parameters[name].copy_(weight)
