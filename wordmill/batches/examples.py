"""Rows of whole examples for fine-tuning: several in a row, none cut, next to no padding; a pure function of seed and step.

An epoch is one shuffled order of all examples; a step takes the next `rows` of them (the last step of an epoch what is left) and lays
them into as few rows as `capacity` tokens a row allow, the rows of about equal length. Examples in a row don't see each other
(`documents`), and their positions start at 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from wordmill.batches.batch import IGNORE, Batch, Source, single, tensor

Ids = npt.NDArray[np.int64]

WIDTHS = 8
"""Rows are a multiple of this wide. oneDNN compiles a product for every shape it meets and keeps a thousand of them: with rows as wide as
the longest just is, these took 0.4 GB of a run's memory (docs/log.md)."""


FILLED = (1.0, 0.75, 0.5)
"""Shares of a row's capacity that are tried."""
ACROSS = 1000
"""Width of rows at which looking at all pairs of a row costs as much as all else, about: a BERT of width 384 on a CPU (docs/log.md)."""


@dataclass(frozen=True)
class Encoded:
    """One example as the model sees it."""

    ids: Ids
    """(T,) tokens, special ones included: of the decoder, in an encoder–decoder."""
    targets: Ids
    """(T,) what is to be said at each place; `IGNORE` where nothing is."""
    types: Ids | None = None
    """(T,) token types, where there are several."""
    source: Ids | None = None
    """(S,) what a separate encoder reads."""
    extra: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Further values of the example, by name; in a batch they stand as (rows, most examples of a row, …)."""
    cut: int = 0
    """Tokens of the example's text that were left out because it was too long."""
    places: Ids | None = None
    """(P, 2) for each target the stretch of the text that its token stands for: start, and one past the end; None: no task asks."""
    pieces: tuple[Encoded, ...] = ()
    """What is read in its place, where it is longer than the model reads at a time: parts that overlap. A label stands in one of them; an
    answer in each that holds all of it."""

    @property
    def length(self) -> int:
        """Tokens, the source's included."""
        return len(self.ids) + (0 if self.source is None else len(self.source))


def in_pieces(examples: Sequence[Encoded]) -> tuple[list[Encoded], list[int]]:
    """What is read of the examples: they themselves, or the pieces of those that have some; and whose each is, by number."""
    parts = [(part, number) for number, one in enumerate(examples) for part in one.pieces or (one,)]
    return [part for part, _ in parts], [number for _, number in parts]


class ExampleRows:
    """Batches of examples for the training loop. `shares`: how often each is drawn, in proportion (then an epoch is a draw with
    replacement); None: each once an epoch."""

    def __init__(
        self, examples: Sequence[Encoded], rows: int, seed: int, *, capacity: int = 0, shares: npt.NDArray[np.float64] | None = None
    ) -> None:
        assert examples and rows > 0
        self.examples, self.rows, self.seed, self.capacity, self.shares = examples, rows, seed, capacity, shares
        self._order = lru_cache(maxsize=2)(self._draw)

    @property
    def rows_per_epoch(self) -> int:
        """Examples."""
        return len(self.examples)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which all are seen."""
        return -(-len(self.examples) // self.rows)

    def _draw(self, epoch: int) -> Ids:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        n = len(self.examples)
        if self.shares is None:
            return generator.permutation(n)
        return generator.choice(n, n, p=self.shares / self.shares.sum())

    def chosen(self, step: int) -> list[int]:
        """The numbers of the examples of a step."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return [int(i) for i in self._order(epoch)[at * self.rows : (at + 1) * self.rows]]

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """Examples `first`…`last` (all, by default) of a step, packed."""
        return pack([self.examples[i] for i in self.chosen(step)[first:last]], self.capacity, like=self.examples[0])[0]


def pack(examples: Sequence[Encoded], capacity: int = 0, *, like: Encoded | None = None) -> tuple[Batch, list[int]]:
    """The examples in rows of at most `capacity` tokens (0, or less than the longest: as many as the longest has), padded to the next
    multiple of `WIDTHS`, and the order in which they stand there, row by row. Without examples, one row of padding shaped as `like`."""
    if not examples:
        assert like is not None
        batch, _ = pack([like], capacity)
        return Batch(batch.input_ids, batch.targets.fill_(IGNORE), batch.positions, batch.documents, batch.source, None, batch.types,
                     batch.extra), []  # fmt: skip
    lengths = [max(len(e.ids), 0 if e.source is None else len(e.source)) for e in examples]
    bins = cheapest(lengths, capacity)
    order = [index for row in bins for index in row]
    rows = [[examples[index] for index in row] for row in bins]
    source = None
    if examples[0].source is not None:
        read = [[one.source for one in row if one.source is not None] for row in rows]
        width = _width(read)
        source = Source(tensor(side_by_side(read, width=width)), *places_of(read, width=width))
    ids = [[one.ids for one in row] for row in rows]
    width = _width(ids)
    positions, documents = places_of(ids, width=width)
    types = [[one.types for one in row if one.types is not None] for row in rows] if examples[0].types is not None else None
    targets = [[one.targets for one in row] for row in rows]
    batch = Batch(tensor(side_by_side(ids, width=width)), tensor(side_by_side(targets, IGNORE, width=width)), positions,
                  documents if source is not None or not single(documents) else None, source,
                  types=None if types is None else tensor(side_by_side(types, width=width)), extra=_extra(examples, bins))  # fmt: skip
    return batch, order


def _width(rows: Sequence[Sequence[Ids]]) -> int:
    """How wide the rows are, padding included."""
    return _padded(max(sum(map(len, row)) for row in rows))


def _padded(length: int) -> int:
    return -(-length // WIDTHS) * WIDTHS


def side_by_side(rows: Sequence[Sequence[Ids]], fill: int = 0, *, width: int = 0, dtype: type = np.int64) -> npt.NDArray[Any]:
    """Rows of runs (T,), one run after the other, as an array (rows, width): as wide as the longest row at least; `fill` behind."""
    found: npt.NDArray[Any] = np.full((len(rows), max(width, *(sum(map(len, row)) for row in rows))), fill, dtype)
    for row, runs in enumerate(rows):
        if runs:
            whole = np.concatenate(runs)
            found[row, : len(whole)] = whole
    return found


def places_of(rows: Sequence[Sequence[Ids]], *, width: int = 0) -> tuple[Tensor, Tensor]:
    """Positions and documents of rows of runs, as `Batch` has them: counted from 0 in each run, and which of its row's runs; −1 behind."""
    positions = [[np.arange(len(run)) for run in row] for row in rows]
    numbers = [[np.full(len(run), number) for number, run in enumerate(row)] for row in rows]
    return tensor(side_by_side(positions, -1, width=width)), tensor(side_by_side(numbers, -1, width=width, dtype=np.int32))


def _extra(examples: Sequence[Encoded], bins: list[list[int]]) -> dict[str, Tensor]:
    found = {}
    for name, first in examples[0].extra.items():
        values = np.zeros((len(bins), max(map(len, bins)), *first.shape), first.dtype)
        for row, members in enumerate(bins):
            for number, index in enumerate(members):
                values[row, number] = examples[index].extra[name]
        found[name] = tensor(values)
    return found


def cheapest(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of the items in rows of at most `capacity` (or as many as the longest item has) or a share of it: whichever costs least,
    padding and the pairs that attention looks at within a row counted."""
    tried = {max(round(share * capacity), *lengths, 1): None for share in FILLED}

    def cost(bins: list[list[int]]) -> float:
        width = _padded(max(sum(lengths[i] for i in row) for row in bins))
        return len(bins) * width * (1 + width / ACROSS)

    return min((balanced(lengths, most) for most in tried), key=cost)


def balanced(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of the items in as few bins as `capacity` allows, filled alike: the longest first, each into the emptiest bin."""
    bins: list[list[int]] = [[] for _ in range(max(1, -(-sum(lengths) // capacity)))]
    loads = [0] * len(bins)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = min(range(len(bins)), key=loads.__getitem__)
        if loads[least] and loads[least] + lengths[index] > capacity:
            bins.append([])
            loads.append(0)
            least = len(bins) - 1
        bins[least].append(index)
        loads[least] += lengths[index]
    return [row for row in bins if row]


def batches_of(examples: Sequence[Encoded], tokens: int, *, capacity: int = 0) -> Iterator[tuple[list[int], Batch]]:
    """All examples once, those of like length together, about `tokens` at a time: their numbers in the batch's order, and it."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    start = size = 0
    for end, index in enumerate(order, 1):
        size += examples[index].length
        following = examples[order[end]].length if end < len(order) else tokens
        if size + following > tokens or end == len(order):
            group = order[start:end]
            batch, places = pack([examples[i] for i in group], capacity)
            yield [group[i] for i in places], batch
            start, size = end, 0
