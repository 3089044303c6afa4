"""Rows of whole pieces: for objectives that put something around each document, or change its length.

An epoch is one shuffled order of all documents, as in pack.py, but laid end to end with a place for each token that stands around them:

    [bos] d1 … dn eos [bos] d1 … dn eos …       cut into rows of `places`

A document that is cut is two pieces, and each piece gets its bos and eos all the same. Every token of text stands in exactly one row of an
epoch. Which pieces a row has is a pure function of seed and row number, and so is the generator that corrupts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wordmill.batches.pack import PackedRows

if TYPE_CHECKING:
    from wordmill.batches.store import TokenStore

Ids = npt.NDArray[np.int64]


def row_generator(seed: int, row: int) -> np.random.Generator:
    """The random numbers of one global row number. Counter-based; the counter starts where no epoch's order does (pack.py)."""
    return np.random.Generator(np.random.Philox(key=[seed, row], counter=[0, 0, 0, 1]))


def unbiased(x: float, generator: np.random.Generator) -> int:
    """A whole number, x in expectation: x rounded up with the probability of what follows the point."""
    return int(x + generator.random())


class PieceRows(PackedRows):
    """Which pieces of text each row has. `places` are the row's places in the epoch's stream, of which a document of n tokens takes n + 1,
    or n + 2 with `lead` (a bos before it)."""

    def __init__(
        self, store: TokenStore, places: int, rows: int, seed: int, *, lead: bool, shuffle: bool = True, limit: int | None = None
    ) -> None:
        super().__init__(store, places, rows, seed, shuffle=shuffle, limit=limit)
        self.places, self.lead = places, int(lead)
        self.lengths = np.diff(store.offsets) + self.lead
        self.places_per_epoch = int(self.lengths.sum())

    def _n_rows(self) -> int:
        return -(-self.places_per_epoch // self.places)

    def pieces(self, row: int) -> list[Ids]:
        """The pieces of text (n,) of a global row, in their order; none for a row beyond `limit`."""
        if self.limit is not None and row >= self.limit:
            return []
        epoch_number, number = divmod(row, self.rows_per_epoch)
        epoch = self._epoch(epoch_number)
        start = int(epoch.rows[number]) * self.places
        stop = min(start + self.places, self.places_per_epoch)
        first, last = np.searchsorted(epoch.starts, (start, stop), side="right") - 1
        found = []
        for index in range(int(first), min(int(last), len(epoch.documents) - 1) + 1):
            document, begin = epoch.documents[index], int(epoch.starts[index]) + self.lead
            text = int(self.store.offsets[document]) + 1  # the mark before a document is not text
            n = int(self.lengths[document]) - 1 - self.lead
            a, b = max(start - begin, 0), min(stop - begin, n)
            if b > a:
                found.append(self.store.tokens[text + a : text + b].astype(np.int64))
        return found
