"""Embeddings of new weights that begin with how tokens are written.

`Lisbon` and `Texas` have nothing in common before a model has met both, and few examples hold few words twice. So half of the variance of
each token's first embedding is drawn once for its shape (a space before it or none, capitals, small letters, digits, other letters, marks)
and shared by all tokens of that shape: what is learned about one holds for the others from the first step on, and for tokens that no
example has. The idea of shapes as features is as old as taggers (Collins 2002, "Ranking algorithms for named-entity extraction"); here
nothing is added to the model, which has the embedding that it would have had. For taggers: what a whole text says hangs on which words it
has more than on how they are written (docs/log.md).
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

KINDS = {"Lu": "X", "Lt": "X", "Ll": "x", "Lm": "o", "Lo": "o", "Nd": "d", "Nl": "d", "No": "d"}
"""Which characters are one kind in a shape, by Unicode's categories; marks on letters count with their letter, others are what they are."""
RUN = 2
"""Neighbours of one kind that are told apart by number: `Xx`, and `Xxx` for all that are longer."""


def shape(text: str) -> str:
    """The kinds of a text's characters: ` Lisbon` → ` Xxx`, `2026` → `dd`, `U.S.` → `X.X.`."""
    kinds = (KINDS.get(unicodedata.category(character), character) for character in text if not unicodedata.combining(character))
    return "".join(kind * min(RUN, len(list(run))) for kind, run in itertools.groupby(kinds))


@torch.no_grad()
def start_from_shapes(embedding: Tensor, tokens: Sequence[str], seed: int) -> None:
    """Mix into newly drawn embeddings (V, E) a vector for each token's shape, in place: half of the variance, which stays what it was.
    `tokens`: what the first of the V tokens say; the others' rows stay as they are."""
    shapes = [shape(token) for token in tokens]
    number = {each: n for n, each in enumerate(sorted(set(shapes)))}
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(len(number), embedding.shape[1], generator=generator) * embedding.float().std().cpu()
    rows = embedding[: len(tokens)]
    rows.copy_((rows + shared[[number[each] for each in shapes]].to(rows)) / 2**0.5)
