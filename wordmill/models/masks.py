"""Who sees whom: what the layers of one forward pass share, made once a pass.

Shapes: B batch, T queries, S keys, H query heads. A position of −1 marks padding, which nobody but padding sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wordmill.models import kernels
from wordmill.models.cache import KVCache
from wordmill.models.config import TransformerConfig

Stretch = tuple[Tensor | None, Tensor | None]
"""For each query (B, T) int32 the first key that it sees and one past the last; None: from the row's start, up to itself."""


@dataclass(frozen=True)
class Memory:
    """What a separate encoder made of a source."""

    hidden: Tensor
    """(B, S, D)."""
    positions: Tensor
    """(B, S): place of each token in its document, −1 for padding."""
    documents: Tensor | None
    """(B, S): which document of the row a token belongs to; None: one a row."""


class View(NamedTuple):
    """What all layers of one forward pass share."""

    biases: dict[int, Tensor | None]
    """For each window size, what is added to the scores (B or 1, 1 or H, T, S), or None where plain causal or full attention is right."""
    rotary: dict[int, tuple[Tensor, Tensor]]
    """For each window size, cosines and sines; empty without rotary positions."""
    cache: KVCache | None
    stretches: dict[int, Stretch] | None
    """For each window size, which keys each query sees, where the CPU kernels serve; else None."""
    memory: Memory | None = None
    crossing: Tensor | None = None
    """What is added to the scores of source tokens (B, 1, T, S); None: every query sees every source token."""
    blind: Tensor | None = None
    """Queries (B, T, 1) with no source token to see: they get nothing from cross-attention. None: there are none."""


def apart(positions: Tensor, documents: Tensor | None, causal: bool) -> Tensor | None:
    """`documents` with padding as a document of its own (−1); None where no mask is needed: no padding, or, for a causal
    model, padding behind everything else."""
    padding = positions < 0
    if not bool(padding.any()):
        return documents
    if documents is None:
        if causal and not bool((padding[:, :-1] & ~padding[:, 1:]).any()):
            return None
        documents = torch.zeros_like(positions)
    return documents.masked_fill(padding, -1)


def stretches(config: TransformerConfig, documents: Tensor | None, shape: torch.Size, weight: Tensor) -> dict[int, Stretch] | None:
    """What the CPU kernels take for a mask: documents are runs within a row, so a query's keys are one stretch. None where
    they don't serve."""
    batch, length = shape
    fits = length <= kernels.LONGEST and config.head_size <= kernels.LARGEST_HEAD and config.rope_share == 1
    if not fits or config.positions == "relative" or config.attention_softcap or not kernels.usable(weight):
        return None
    place = torch.arange(length, dtype=torch.int32).expand(batch, length)
    start, stop = torch.zeros_like(place), torch.full_like(place, length)
    if documents is not None:
        begins = torch.ones(batch, length, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        start = torch.where(begins, place, 0).cummax(1).values.to(torch.int32)
        ends = torch.ones_like(begins)
        ends[:, :-1] = begins[:, 1:]
        stop = torch.where(ends, place + 1, length).flip(1).cummin(1).values.flip(1).to(torch.int32)
        if bool(((begins & (documents == 0)).sum(1) > 1).any()):
            return None  # padding in the middle of a document
    found: dict[int, Stretch] = {}
    for window in set(config.windows):
        cut = bool(window) and window < length
        first = (torch.maximum(start, place - (window - 1)) if cut else start).contiguous() if documents is not None or cut else None
        last = None if config.causal else (torch.minimum(stop, place + window) if cut else stop).contiguous()
        found[window] = first, last
    return found


def self_bias(
    config: TransformerConfig,
    window: int,
    positions: Tensor,
    documents: Tensor | None,
    cache: KVCache | None,
    dtype: torch.dtype,
    prefix: Tensor | None = None,
) -> Tensor | None:
    """The additive mask (B or 1, 1, T, S) for one window size, or None where none is needed: one document a row costs nothing.

    `prefix` (B, T) bool: keys that all of their document see. With a cache it says nothing: what was written there stays."""
    length, device = positions.shape[1], positions.device
    if cache is not None:
        slots = torch.arange(cache.used, device=device)
        query = positions[:1] if cache.uniform else positions
        if length == 1 and cache.uniform and not window:
            return None
        allowed = slots <= query[:, :, None].clamp(min=0)
        if window:
            allowed &= slots > query[:, :, None] - window
    else:
        if documents is None and prefix is None and (not window or window >= length):
            return None
        place = torch.arange(length, device=device)
        distance = (place[:, None] - place)[None]
        allowed = distance >= 0 if config.causal else torch.ones_like(distance, dtype=torch.bool)
        if prefix is not None:
            allowed = allowed | prefix[:, None, :]
        if window:
            allowed = allowed & (distance.abs() < window)
        if documents is not None:
            allowed = allowed & (documents[:, :, None] == documents[:, None, :])
    return _additive(allowed, dtype)[:, None]


def distances(positions: Tensor, cache: KVCache | None) -> Tensor:
    """Key's place − query's place, (B or 1, T, S). Without a cache all rows agree: within a document, places differ as positions do."""
    length, device = positions.shape[1], positions.device
    if cache is None:
        place = torch.arange(length, device=device)
        return (place - place[:, None])[None]
    query = positions[:1] if cache.uniform else positions
    return torch.arange(cache.used, device=device) - query[:, :, None]


def crossing(
    positions: Tensor, documents: Tensor | None, source: Tensor, source_documents: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """The additive mask of cross-attention (B, 1, T, S) and the queries that see nothing (B, T, 1); None where there is nothing to hide.

    A query of a document sees the source tokens of the document with the same number; without documents all are number 0.
    """
    allowed = (source >= 0)[:, None, :].expand(-1, positions.shape[1], -1)
    if documents is not None or source_documents is not None:
        ours = torch.zeros_like(positions) if documents is None else documents
        theirs = torch.zeros_like(source) if source_documents is None else source_documents
        allowed = allowed & (ours[:, :, None] == theirs[:, None, :])
    if bool(allowed.all()):
        return None, None
    blind = ~allowed.any(-1, keepdim=True)
    return _additive(allowed | blind, dtype)[:, None], blind if bool(blind.any()) else None


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -math.inf)
