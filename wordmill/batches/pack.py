"""From token shards to rows: which document pieces stand where, as a pure function of seed and row number.

Nothing is remembered between calls, so resuming needs a step number and no replay. An epoch is one shuffled order of
all documents, laid end to end and cut into rows of `context` targets; every target of the corpus stands in exactly
one row of every epoch, and the last row is padded rather than dropped.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wordmill.batches.batch import IGNORE, Batch, tensor

if TYPE_CHECKING:
    from wordmill.batches.store import TokenStore


class _Epoch(NamedTuple):
    """One epoch's order."""

    documents: np.ndarray
    """(n_docs,) the order of the documents."""
    starts: np.ndarray
    """(n_docs + 1,) where each of them starts in the epoch's stream of targets."""
    rows: np.ndarray
    """(n_rows,) the order of the rows."""


def _generator(seed: int, epoch: int) -> np.random.Generator:
    """Counter-based, so that any epoch's order can be drawn without those before it."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))


class _Rows:
    """What both ways of cutting share: the stream of an epoch, and filling one row from a stretch of it."""

    def __init__(self, store: TokenStore, context: int, rows: int, seed: int, *, shuffle: bool = True) -> None:
        assert store.n_tokens > 0 and context > 0 and rows > 0
        self.store, self.context, self.rows, self.seed, self.shuffle = store, context, rows, seed, shuffle
        self.lengths = np.diff(store.offsets)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def targets_per_epoch(self) -> int:
        """Targets in the corpus."""
        return int(self.store.n_tokens)

    def _n_rows(self) -> int:
        return -(-self.targets_per_epoch // self.context)

    def _draw_epoch(self, epoch: int) -> _Epoch:
        generator = _generator(self.seed, epoch)
        documents = generator.permutation(self.store.n_docs) if self.shuffle else np.arange(self.store.n_docs)
        starts = np.concatenate(([0], np.cumsum(self.lengths[documents])))
        rows = generator.permutation(self._n_rows()) if self.shuffle else np.arange(self._n_rows())
        return _Epoch(documents, starts, rows)

    def _fill(self, epoch: _Epoch, start: int, stop: int, out: tuple[np.ndarray, ...], *, restart: bool) -> None:
        """Fill one row with targets start…stop of the epoch's stream; what lies beyond stays padding.

        `restart`: a document that is cut at the row's start counts its positions from 0 there (it is a new context);
        otherwise they go on (the recurrent state does).
        """
        ids, targets, positions, pieces = out
        at, index = start, int(np.searchsorted(epoch.starts, start, side="right")) - 1
        for piece in range(stop - start):  # at most one piece a target
            if at >= stop:
                break
            document = epoch.documents[index]
            skipped = at - epoch.starts[index]
            n = min(stop, epoch.starts[index + 1]) - at
            first = self.store.offsets[document] + skipped
            tokens = self.store.tokens[first : first + n + 1]
            here = slice(at - start, at - start + n)
            ids[here], targets[here], pieces[here] = tokens[:-1], tokens[1:], piece
            base = 0 if restart else skipped
            positions[here] = np.arange(base, base + n)
            at, index = at + n, index + 1

    def _blank(self, rows: int) -> tuple[np.ndarray, ...]:
        """Rows of padding. At least one, so that a process without rows of its own has something to pass through the model."""
        shape = (max(1, rows), self.context)
        pad = self.store.tokens[0]  # the document mark: any token will do, since nobody looks at padding
        return np.full(shape, pad, np.int64), np.full(shape, IGNORE, np.int64), np.full(shape, -1, np.int64), np.full(shape, -1, np.int32)

    @staticmethod
    def _batch(arrays: tuple[np.ndarray, ...]) -> Batch:
        ids, targets, positions, pieces = arrays
        single = bool((pieces == pieces[:, :1]).all())
        return Batch(tensor(ids), tensor(targets), tensor(positions), None if single else tensor(pieces))


class PackedRows(_Rows):
    """Rows for models that see one context at a time (Transformers): every row stands alone, in shuffled order.

    With `limit`, there are that many rows in all, and those of the last step beyond it are padding: so a run of whole
    epochs sees every target equally often, whatever number of rows a step has.
    """

    def __init__(self, store: TokenStore, context: int, rows: int, seed: int, *, shuffle: bool = True, limit: int | None = None) -> None:
        super().__init__(store, context, rows, seed, shuffle=shuffle)
        self.limit = limit

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every target once."""
        return self._n_rows()

    def rows_for(self, targets: float) -> int:
        """Rows that hold that many targets; exact for whole epochs."""
        return max(1, round(targets / self.targets_per_epoch * self.rows_per_epoch))

    def steps(self, targets: float) -> int:
        """Steps in which at least that many targets are seen."""
        return -(-self.rows_for(targets) // self.rows)

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """Rows `first`…`last` (all, by default) of the batch of step `step`: its global row numbers are step·rows + i."""
        last = self.rows if last is None else last
        arrays = self._blank(last - first)
        for i in range(first, last):
            if self.limit is not None and step * self.rows + i >= self.limit:
                break
            epoch_number, number = divmod(step * self.rows + i, self.rows_per_epoch)
            epoch = self._epoch(epoch_number)
            start = int(epoch.rows[number]) * self.context
            stop = min(start + self.context, self.targets_per_epoch)
            self._fill(epoch, start, stop, tuple(x[i - first] for x in arrays), restart=True)
        return self._batch(arrays)


class CarriedRows(_Rows):
    """Rows for recurrent models: each of `rows` lanes reads its own stretch of the epoch's stream from start to end,
    `context` targets a step, and the model's state goes on from one step to the next."""

    def __init__(self, store: TokenStore, context: int, rows: int, seed: int, *, shuffle: bool = True) -> None:
        super().__init__(store, context, rows, seed, shuffle=shuffle)
        self.lane = -(-self.targets_per_epoch // rows)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every target is seen once."""
        return -(-self.lane // self.context)

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every target once."""
        return self.steps_per_epoch * self.rows

    def steps(self, targets: float) -> int:
        """Steps in which at least that many targets are seen."""
        return max(1, math.ceil(targets / self.targets_per_epoch * self.steps_per_epoch - 1e-9))

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """Lanes `first`…`last` (all, by default) of step `step`."""
        last = self.rows if last is None else last
        arrays = self._blank(last - first)
        epoch_number, column = divmod(step, self.steps_per_epoch)
        epoch = self._epoch(epoch_number)
        for lane in range(first, last):
            begin, end = lane * self.lane, min((lane + 1) * self.lane, self.targets_per_epoch)
            start, stop = min(begin + column * self.context, end), min(begin + (column + 1) * self.context, end)
            row = tuple(x[lane - first] for x in arrays)
            self._fill(epoch, start, stop, row, restart=False)
            if column == 0 and stop > start:
                # A lane that starts in mid-document starts with an empty state, so its positions count from there;
                # later steps keep the document's own count: only "0 or not" matters to a recurrent model.
                row[2][0] = 0
        return self._batch(arrays)
