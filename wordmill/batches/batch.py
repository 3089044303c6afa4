"""One step's tensors. Shapes: B rows, T tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""The target that is not counted in a loss."""


@dataclass(frozen=True)
class Batch:
    """What a model sees in one forward pass, and what it should have said."""

    input_ids: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64, `IGNORE` where nothing is to be learned."""
    positions: Tensor
    """(B, T) int64: place in the document; 0 where one starts, −1 for padding."""
    documents: Tensor | None
    """(B, T) int32: which document of the row a token belongs to. None when every row holds a piece of one document."""

    @property
    def n_targets(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORE).sum())

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows: a micro-batch. Keeps `documents` only if one of these rows needs it."""
        documents = None if self.documents is None else self.documents[start:stop]
        if documents is not None and bool((documents == documents[:, :1]).all()):
            documents = None
        return Batch(self.input_ids[start:stop], self.targets[start:stop], self.positions[start:stop], documents)

    def to(self, device: torch.device) -> Batch:
        """On another device; from pinned memory the copy overlaps with work."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{name: None if x is None else x.to(device, non_blocking=True) for name, x in moved.items()})


def tensor(array: np.ndarray) -> Tensor:
    """A tensor over a NumPy array's memory."""
    return torch.from_numpy(np.ascontiguousarray(array))
