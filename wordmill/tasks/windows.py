"""Long contexts in overlapping windows, and the best span over all of them.

    question, context ─ tokens with their places in the text ─ windows of them ─ logits of start and end ─ one span of the text

Shapes: T tokens of a window, P of them that may be chosen (P,), the first or the last of which stands for "no answer".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wordmill.core.errors import ModelError
from wordmill.tasks.spans import belongs
from wordmill.tokenizer import Tokenizer

NOWHERE = (-1, -1)
"""The place of the token that stands for "no answer"."""
QUESTION, CONTEXT = -1, -2
"""What stands for the two texts in a frame."""


class Frame(NamedTuple):
    """Special tokens around a question and a context."""

    ids: list[int]
    """(2 + special tokens,) with `QUESTION` and `CONTEXT` in the places of the texts."""
    types: list[int]
    """Token types, as `Tokenizer.wrap` gives them."""

    def fill(self, question: Sequence[int], context: Sequence[int]) -> tuple[list[int], list[int], int]:
        """Ids (T,), types (T,), and where the context begins."""
        ids: list[int] = []
        types: list[int] = []
        begin = 0
        for what, kind in zip(self.ids, self.types, strict=True):
            part = question if what == QUESTION else context if what == CONTEXT else [what]
            begin = len(ids) if what == CONTEXT else begin
            ids += part
            types += [kind] * len(part)
        return ids, types, begin


def frame(tokenizer: Tokenizer, *, causal: bool) -> Frame:
    """What stands around question and context: what the family puts around a pair of texts. Where it puts nothing between them, the
    token that ends a text does; a causal model, whose first token has seen nothing, gets one behind the context too.

    Raises `ModelError` for a tokenizer that has no such token.
    """
    wrapped = tokenizer.wrap([QUESTION], [CONTEXT])
    ids, types = list(wrapped.ids), list(wrapped.types)
    first, second = ids.index(QUESTION), ids.index(CONTEXT)
    between, behind = second - first == 1, causal and second == len(ids) - 1
    if not (between or behind):
        return Frame(ids, types)
    end = tokenizer.sep_id if tokenizer.sep_id is not None else tokenizer.eos_id
    if end is None:
        raise ModelError("this tokenizer has no token that could stand between question and context", where="--model",
                         fix="Name one as sep_token or eos_token in tokenizer_config.json")  # fmt: skip
    if between:
        ids, types = [*ids[:second], end, *ids[second:]], [*types[:second], types[first], *types[second:]]
    if behind:
        ids, types = [*ids, end], [*types, types[-1]]
    return Frame(ids, types)


def windows(n: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """First token, and one past the last, of windows of at most `room` of `n` tokens, each `stride` further on than the one before.

    They cover all tokens, and every run of at most `room - stride + 1` tokens lies whole in one of them. Needs 1 ≤ stride ≤ room.
    """
    assert 1 <= stride <= room
    first = 0
    while first + room < n:
        yield first, first + room
        first += stride
    yield first, n


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's place without the spaces around it, and with what belongs to its characters: marks above and below, parts of an emoji,
    halves of a flag. Empty where nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        while end < len(text) and belongs(text, end):
            end += 1
        while start and belongs(text, start):
            start -= 1
    return start, end


def covering(places: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Number of the first and of the last token with a part of the characters `start`…`end`; None where no token has."""
    found = [n for n, (a, b) in enumerate(places) if a < b and a < end and b > start]
    return (found[0], found[-1]) if found else None


@dataclass(frozen=True)
class Found:
    """The best span over all windows."""

    start: int
    """First character in the context; −1 where nothing can be chosen."""
    end: int
    """One past the last."""
    probability: float
    """Of this span, among all valid spans and, where `none` is counted, no answer."""
    none: float
    """Probability of no answer."""
    margin: float
    """log p(span) − log p(no answer), in nats, in the window that holds it."""
    windows: int
    """How many windows were read."""


def best_span(places: Sequence[npt.NDArray[Any]], logits: Sequence[npt.NDArray[Any]], longest: int, *, none: bool) -> Found:
    """From the places (P, 2) of each window's tokens, one of which is `NOWHERE`, and their logits (P, 2) of being start and end.

    A window alone says p(span) ∝ exp(start + end) over the spans in it and "no answer" (both logits of the token for it). What two windows
    have in common is that last term, so spans are compared by their odds against it: exp(start + end − start₀ − end₀). A span in several
    windows has the sum of its odds, and all odds, with 1 for no answer (without it, unless `none`), are scaled to sum to one.
    Valid spans end where or after they start, and have at most `longest` characters.
    """
    odds, shift, best = [], -np.inf, (-np.inf, -1, -1)
    for where, scores in zip(places, logits, strict=True):
        null = int(np.flatnonzero(where[:, 0] == NOWHERE[0])[0])
        real = np.arange(len(where)) != null
        spots, s = where[real], scores.astype(np.float64)
        table = s[real, 0][:, None] + s[real, 1][None, :] - s[null].sum()
        length = spots[:, 1][None, :] - spots[:, 0][:, None]
        table[np.tril(np.ones_like(table, bool), -1) | (length > longest)] = -np.inf
        odds.append((spots, table))
        if table.size:
            shift = max(shift, float(table.max()))
            i, j = np.unravel_index(int(table.argmax()), table.shape)
            if table[i, j] > best[0]:
                best = (float(table[i, j]), int(spots[i, 0]), int(spots[j, 1]))
    margin, start, end = best
    if margin == -np.inf:
        return Found(-1, -1, 0.0, 1.0, margin, len(places))
    shift = max(shift, 0.0) if none else shift
    total, mine = float(np.exp(-shift)) if none else 0.0, 0.0
    for spots, table in odds:
        p = np.exp(table - shift)
        total += float(p.sum())
        mine += float(p[np.ix_(spots[:, 0] == start, spots[:, 1] == end)].sum())
    return Found(start, end, mine / total, float(np.exp(-shift)) / total if none else 0.0, margin, len(places))
