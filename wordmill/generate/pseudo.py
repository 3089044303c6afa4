"""Pseudo-log-likelihood: what a masked model makes of a text. −log p of each token, when it is hidden and all others are shown.

It is no probability of the text (the terms don't multiply to one over all texts), but it ranks sentences as a likelihood does: Salazar et
al. 2020, arXiv 1910.14659. A word of several tokens is guessed too easily when its other tokens are shown, so a long rare word would score
better than a short common one; by default the tokens of the word that come after the hidden one are hidden with it (`within_word`,
Kauf & Ivanova 2023, arXiv 2305.10588, PLL-word-l2r), which that paper found better than hiding the token alone or the whole word.

Shapes: B copies of documents, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from wordmill.batches.vocabulary import Flags, Ids, Vocabulary
from wordmill.core.errors import ModelError, UsageError
from wordmill.generate.score import BUFFER, DocumentScore, evaluating, target_losses
from wordmill.models.folder import LanguageModel


class Hidden(NamedTuple):
    """One copy of a document: its tokens from `place` to `end` are hidden, and the one at `place` is scored."""

    document: int
    ids: Sequence[int]
    place: int
    end: int


def pseudo_log_likelihood(
    model: LanguageModel,
    documents: Iterable[Sequence[int]],
    vocabulary: Vocabulary,
    *,
    within_word: bool = True,
    batch_tokens: int = 8192,
) -> Iterator[DocumentScore]:
    """−Σ log p of each document's tokens of text in nats, and how many these are, in order.

    `documents` are ids as the model reads them, bos and eos included; special tokens are shown and not scored. `batch_tokens` in one
    forward pass: it changes the speed and nothing else. `within_word`: see the head of this file. Sums are taken in float64.

    Raises `UsageError` for a model that sees only what is before a token, or a document longer than its positions; `ModelError` when the
    tokenizer has no mask token.
    """
    if getattr(model.config, "causal", True):
        raise UsageError("a pseudo-log-likelihood is for masked models", fix="Score this model by its likelihood (bits per byte)")
    if vocabulary.mask is None:
        raise ModelError("this tokenizer has no mask token", fix="Name one as mask_token in tokenizer_config.json")
    starts: Callable[[Ids], Flags] | None = vocabulary.word_starts if within_word else None
    special = frozenset(np.flatnonzero(vocabulary.special).tolist())
    return _score(model, documents, vocabulary.mask, special, starts, batch_tokens)


STRETCH = 128
"""Tokens of text that a masked model sees at a time without being asked: each token of a stretch costs a pass over all of it."""


def masked_context(model: LanguageModel, context: int | None) -> int:
    """Tokens of a stretch, special ones included: `STRETCH` by default, at most the model's positions. Raises `UsageError` for another."""
    limit = model.config.max_positions
    if context is not None and not 3 <= context <= limit:
        raise UsageError(f"a context of {context:,} tokens does not fit: the model has {limit:,} positions", fix=f"Take 3 to {limit:,}")
    return context or min(limit, STRETCH)


def score_stretches(
    model: LanguageModel, documents: Iterable[Sequence[int]], vocabulary: Vocabulary, *, context: int, batch_tokens: int = 8192
) -> Iterator[DocumentScore]:
    """`pseudo_log_likelihood` of documents of any length: each is cut into stretches of at most `context` tokens, at the start of a word
    where there is one, and each stretch is scored on its own between the document's first and last token. Every token is scored once."""
    counts: list[int] = []

    def stretches() -> Iterator[list[int]]:
        for ids in documents:
            parts = list(cut(list(ids[1:-1]), context - 2, vocabulary))
            counts.append(len(parts))
            yield from ([ids[0], *part, ids[-1]] for part in parts)

    scores = pseudo_log_likelihood(model, stretches(), vocabulary, batch_tokens=batch_tokens)
    nats, tokens, done = 0.0, 0, 0
    for score in scores:
        nats, tokens, done = nats + score.nats, tokens + score.tokens, done + 1
        if done == counts[0]:
            yield DocumentScore(nats, tokens)
            counts.pop(0)
            nats, tokens, done = 0.0, 0, 0


def cut(ids: list[int], size: int, vocabulary: Vocabulary) -> Iterator[list[int]]:
    """Ids in pieces of at most `size`, each but the first beginning with a word where one begins in the last half of the piece before."""
    starts = vocabulary.word_starts(np.asarray(ids, np.int64))
    first = 0
    while len(ids) - first > size:
        last = first + size
        words = np.flatnonzero(starts[first + size // 2 + 1 : last + 1])
        end = first + size // 2 + 1 + int(words[-1]) if len(words) else last
        yield ids[first:end]
        first = end
    yield ids[first:]


def _score(
    model: LanguageModel,
    documents: Iterable[Sequence[int]],
    mask: int,
    special: Collection[int],
    starts: Callable[[Ids], Flags] | None,
    batch_tokens: int,
) -> Iterator[DocumentScore]:
    group: list[list[Hidden]] = []
    held = 0
    for ids in documents:
        if len(ids) > model.config.max_positions:
            raise UsageError(
                f"a document of {len(ids):,} tokens does not fit: the model has {model.config.max_positions:,} positions",
                fix="Score it in parts: sentences, for example",
            )
        copies = list(hidden_copies(len(group), ids, special, None if starts is None else starts(np.asarray(ids, np.int64))))
        group.append(copies)
        held += len(copies) * len(ids)
        if held >= BUFFER * batch_tokens:
            yield from _score_group(model, group, mask, batch_tokens)
            group, held = [], 0
    yield from _score_group(model, group, mask, batch_tokens)


def hidden_copies(document: int, ids: Sequence[int], special: Collection[int], starts: Flags | None) -> Iterator[Hidden]:
    """A copy for each token of text; `starts` (T,) says where words begin (None: the token alone is hidden)."""
    end = len(ids)
    found = []
    for place in range(len(ids) - 1, -1, -1):
        if ids[place] not in special:
            found.append(Hidden(document, ids, place, place + 1 if starts is None else end))
        if starts is None or starts[place] or ids[place] in special:
            end = place
    return reversed(found)


def _score_group(model: LanguageModel, group: Sequence[Sequence[Hidden]], mask: int, batch_tokens: int) -> list[DocumentScore]:
    """Copies of like length side by side."""
    nats = [0.0] * len(group)
    copies = sorted((copy for document in group for copy in document), key=lambda copy: -len(copy.ids))
    while copies:
        rows = max(1, batch_tokens // len(copies[0].ids))
        batch, copies = copies[:rows], copies[rows:]
        with evaluating(model):
            losses = _losses(model, batch, mask)
        for copy, loss in zip(batch, losses, strict=True):
            nats[copy.document] += loss
    return [DocumentScore(cost, len(document)) for cost, document in zip(nats, group, strict=True)]


def _losses(model: LanguageModel, batch: Sequence[Hidden], mask: int) -> list[float]:
    width = len(batch[0].ids)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    positions = torch.full_like(ids, -1)
    for row, copy in enumerate(batch):
        length = len(copy.ids)
        ids[row, :length], positions[row, :length] = torch.as_tensor(copy.ids), torch.arange(length)
        ids[row, copy.place : copy.end] = mask
    places = torch.tensor([row * width + copy.place for row, copy in enumerate(batch)])
    targets = torch.tensor([int(copy.ids[copy.place]) for copy in batch])
    # Padding is a document of its own, since a token that looks both ways would see it.
    documents = None if bool((positions >= 0).all()) else torch.where(positions >= 0, 0, -1).to(torch.int32)
    device = next(model.parameters()).device
    hidden, _ = model(ids.to(device), positions.to(device), None if documents is None else documents.to(device), only=places.to(device))
    return target_losses(model, hidden, targets.to(device)).tolist()
