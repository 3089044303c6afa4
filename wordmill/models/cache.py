"""What a decoder remembers between calls: the keys and values of every token so far."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values, one slot a position, made once at full size.

    A token at position p of row b lies in slot p of that row, so rows of different lengths stand side by side without
    left padding. Padding (position −1) goes to one spare slot at the end that nobody reads. In memory all slots of a head lie side by
    side, as attention reads them.
    Shapes: B rows, S slots, G key/value heads, K head size.
    """

    def __init__(
        self, layers: int, batch: int, slots: int, groups: int, head_size: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (batch, groups, slots + 1, head_size)
        self.slots = slots
        self.used = 0
        self.uniform = True
        self.keys = [torch.zeros(shape, dtype=dtype, device=device).transpose(1, 2) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device).transpose(1, 2) for _ in range(layers)]
        """(B, S + 1, G, K) a layer."""
        self.cross: list[tuple[Tensor, Tensor]] = []
        """Keys and values of the sources, a pair a layer (sources, S, G, K), once an encoder–decoder has read them."""
        self.owners: Tensor | None = None
        """(B,) which source each row has read: the beams of a prompt share one. None: each its own."""
        self.even = True
        """Whether each source has as many rows as any other, one after the other."""
        self.source: tuple[Tensor, Tensor | None] | None = None
        """Positions and documents of the source's tokens (B, S)."""

    def extend(self, positions: Tensor) -> None:
        """Note that tokens at `positions` (B, T) are about to be written; call once before the layers."""
        self.uniform = positions.shape[0] == 1 or bool((positions == positions[:1]).all())
        # Rows that stand at one place have nothing beyond it: what lies there is of rows that have left.
        self.used = max(0 if self.uniform else self.used, int(positions.max()) + 1)
        assert self.used <= self.slots, f"position {self.used - 1} in a cache of {self.slots}"
        first = int(positions[0, 0])
        run = (
            self.uniform
            and first >= 0
            and bool((positions[0] == torch.arange(first, first + positions.shape[1], device=positions.device)).all())
        )
        self._slice = slice(first, first + positions.shape[1]) if run else None
        self._index = None if run else torch.where(positions < 0, self.slots, positions)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, T, G, K) of the tokens noted last; returns all of this layer's up to the last used slot (B, S, G, K)."""
        keys, values = self.keys[layer], self.values[layer]
        if self._slice is not None:
            keys[:, self._slice], values[:, self._slice] = k, v
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]
            keys[rows, self._index], values[rows, self._index] = k, v
        return keys[:, : self.used], values[:, : self.used]

    def select(self, rows: Tensor) -> None:
        """Keep only the rows named, in that order (finished prompts leave the batch; beams are reordered)."""
        self.keys = [_selected(x, rows, self.used) for x in self.keys]
        self.values = [_selected(x, rows, self.used) for x in self.values]
        if self.cross:
            kept, self.owners = torch.unique_consecutive(rows if self.owners is None else self.owners[rows], return_inverse=True)
            if not torch.equal(kept, torch.arange(len(self.cross[0][0]), device=kept.device)):
                self.cross = [(_selected(k, kept, k.shape[1]), _selected(v, kept, v.shape[1])) for k, v in self.cross]
            each, rest = divmod(len(rows), len(kept))
            self.even = not rest and bool((self.owners.view(len(kept), each) == self.owners[::each, None]).all())
        if self.source is not None:
            positions, documents = self.source
            self.source = positions[rows], None if documents is None else documents[rows]

    def crossed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the sources (sources or B, S, G, K): the same number of rows in turn belong to each."""
        k, v = self.cross[layer]
        return (k, v) if self.even or self.owners is None else (k[self.owners], v[self.owners])


def _selected(x: Tensor, rows: Tensor, used: int) -> Tensor:
    """Rows of x (B, S, G, K), of which the first `used` slots count; in the memory of x, where they fit."""
    whole = x.transpose(1, 2)
    wanted = whole[:, :, :used].index_select(0, rows)
    if len(rows) > len(whole):
        whole = whole.new_zeros(len(rows), *whole.shape[1:])
    whole[: len(rows), :, :used] = wanted
    return whole[: len(rows)].transpose(1, 2)
