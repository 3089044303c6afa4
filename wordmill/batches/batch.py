"""One step's tensors. Shapes: B rows, T tokens, S source tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""The target that is not counted in a loss."""
ASKED = -1
"""The target of a place where the model is to say something, which is not counted by itself: one of several to choose among."""


@dataclass(frozen=True)
class Source:
    """What an encoder reads, where the model has one."""

    input_ids: Tensor
    """(B, S) int64."""
    positions: Tensor
    """(B, S) int64: place in the document; −1 for padding."""
    documents: Tensor | None
    """(B, S) int32: numbered as the batch's, −1 for padding. None exactly when the batch's `documents` is None."""

    def rows(self, start: int, stop: int) -> Source:
        """Some of the rows, `documents` with them."""
        return Source(*(None if x is None else x[start:stop] for x in (self.input_ids, self.positions, self.documents)))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Source:
        """On another device."""
        moved = (None if x is None else x.to(device, non_blocking=True) for x in (self.input_ids, self.positions, self.documents))
        return Source(*moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Batch:
    """What a model sees in one forward pass, and what it should have said."""

    input_ids: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64, `IGNORE` where nothing is to be learned (and `ASKED`)."""
    positions: Tensor
    """(B, T) int64: place in the document; 0 where one starts, −1 for padding."""
    documents: Tensor | None
    """(B, T) int32: which document of the row a token belongs to. None when every row holds a piece of one document."""
    source: Source | None = None
    """What the encoder reads; a decoder's token sees the source of its own document only."""
    prefix: Tensor | None = None
    """(B, T) bool: tokens that every token of their document sees, also one that stands before them (a prefix LM). None: there are none."""
    types: Tensor | None = None
    """(B, T) int64: the kind of each token (BERT's first and second text). None: all are of the first kind."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What an objective needs beside the targets, by name: tensors whose first dimension is B."""

    @property
    def n_targets(self) -> int:
        """How many targets count."""
        return int((self.targets >= 0).sum())

    @property
    def places(self) -> Tensor:
        """See `counted_places`."""
        return counted_places(self.targets)

    @property
    def n_tokens(self) -> int:
        """How many places hold something to be read, the source's included."""
        return sum(int((x.positions >= 0).sum()) for x in (self, self.source) if x is not None)

    @property
    def n_padding(self) -> int:
        """How many places hold nothing, the source's included."""
        return sum(x.positions.numel() for x in (self, self.source) if x is not None) - self.n_tokens

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows: a micro-batch. Keeps `documents` only if one of these rows needs it."""
        documents = None if self.documents is None else self.documents[start:stop]
        source = None if self.source is None else self.source.rows(start, stop)
        if single(documents) and (source is None or single(source.documents)):
            documents = None
            source = None if source is None else Source(source.input_ids, source.positions, None)
        prefix, types = (None if x is None else x[start:stop] for x in (self.prefix, self.types))
        extra = {name: x[start:stop] for name, x in self.extra.items()}
        return Batch(
            self.input_ids[start:stop], self.targets[start:stop], self.positions[start:stop], documents, source, prefix, types, extra
        )

    def to(self, device: torch.device) -> Batch:
        """On another device; from pinned memory the copy overlaps with work."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("source", "extra")}
        source = None if self.source is None else self.source.to(device)
        extra = {name: x.to(device, non_blocking=True) for name, x in self.extra.items()}
        tensors = {name: None if x is None else x.to(device, non_blocking=True) for name, x in moved.items()}
        return Batch(**tensors, source=source, extra=extra)


def counted_places(targets: Tensor) -> Tensor:
    """Where `targets` (B, T) are not `IGNORE`, counted over all rows: (N,). At least one place, whose target is `IGNORE` where none counts,
    so that a process without targets still takes part in the exchange of gradients."""
    found = (targets.flatten() != IGNORE).nonzero()[:, 0]
    return found if len(found) else found.new_zeros(1)


def single(documents: Tensor | None) -> bool:
    """Whether every row is of one document from its first place to its last; then nobody has to be kept apart."""
    return documents is None or bool((documents == documents[:, :1]).all())


def tensor(array: np.ndarray) -> Tensor:
    """A tensor over a NumPy array's memory."""
    return torch.from_numpy(np.ascontiguousarray(array))
