"""What a model makes of given tokens: −log p of each, in nats, every token scored exactly once.

A Transformer reads a long document through a window that slides on by `stride` tokens: the first window scores all of
its tokens, each later one only those that are new, so that every token but the first few has at least
`context − stride` tokens before it. Recurrent models carry their state on and need no window.

Documents are lists of ids that begin with the start token, which is read and not scored.
Shapes: B rows, T tokens, D width, N scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wordmill.batches.batch import IGNORE, counted_places
from wordmill.core.errors import UsageError
from wordmill.models.config import RecurrentConfig
from wordmill.models.folder import LanguageModel
from wordmill.models.ops import token_losses

DEFAULT_CONTEXT = 2048
"""Longest window taken without being asked: some models have positions for far more than fits into memory at once."""
CARRY = 256
"""Tokens that a recurrent model reads at a time."""
BUFFER = 16
"""Batches whose windows are gathered and sorted by length, so that little padding is computed."""


@dataclass(frozen=True)
class Score:
    """The cost of some text under a model."""

    nats: float
    """−log p of all scored tokens together."""
    bytes: int
    """UTF-8 bytes of the text."""
    tokens: int
    """Scored tokens: those of the text, and the end token of each document."""
    pseudo: bool = False
    """Whether this is a pseudo-log-likelihood (a masked model's, see pseudo.py): each token given all others, and no end token. It ranks
    texts, and is no probability: compare it with other masked models of the same tokenizer only."""

    @property
    def bits_per_byte(self) -> float:
        """Bits needed for one byte of text: comparable between all models and tokenizers."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """exp of the mean cost of a token: comparable only between models with the same tokenizer."""
        return _exp(self.nats / self.tokens) if self.tokens else math.nan


class DocumentScore(NamedTuple):
    """One document's cost in nats, and how many of its tokens were scored."""

    nats: float
    tokens: int


class Window(NamedTuple):
    """A stretch of a document: `ids` are read, and of the `len(ids) − 1` predictions those from `first` on are counted."""

    document: int
    ids: Sequence[int]
    first: int


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """As `without_dropout`, and no gradients either. Not for generators: what is off would stay off while their caller runs."""
    with without_dropout(model), torch.no_grad():
        yield


def window_sizes(model: LanguageModel, context: int | None, stride: int | None) -> tuple[int, int]:
    """The context and stride to use: by default the model's positions (at most `DEFAULT_CONTEXT`) and half of it.

    Raises `UsageError` for a context longer than the model's positions, or a stride that would leave tokens out.
    """
    limit = model.config.max_positions
    if context is not None and not 1 <= context <= limit:
        raise UsageError(f"a context of {context:,} tokens does not fit: the model has {limit:,} positions", fix=f"Take 1 to {limit:,}")
    context = context or min(limit, DEFAULT_CONTEXT)
    if stride is not None and not 1 <= stride <= context:
        raise UsageError(f"a stride of {stride:,} would leave tokens out of every window of {context:,}", fix=f"Take 1 to {context:,}")
    return context, stride or max(1, context // 2)


def score_documents(
    model: LanguageModel,
    documents: Iterable[Sequence[int]],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 8192,
) -> Iterator[DocumentScore]:
    """The score of each document, in order. Sums are taken in float64, so batching changes nothing but float32 rounding.

    `context` and `stride` in tokens, see `window_sizes`; `batch_tokens` is the number of tokens in one forward pass.
    Raises `UsageError` for sizes that the model can't honour.
    """
    if isinstance(model.config, RecurrentConfig):
        if context is not None or stride is not None:
            raise UsageError("a recurrent model carries its state on and has no window", fix="Leave out context and stride")
        return _score_recurrent(model, documents, batch_tokens)
    return _score_windows(model, documents, *window_sizes(model, context, stride), batch_tokens)


def windows(document: int, ids: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Cut one document so that each of its tokens but the first is counted exactly once."""
    predictions, start, counted = len(ids) - 1, 0, 0
    while counted < predictions:
        end = min(start + context, predictions)
        yield Window(document, ids[start : end + 1], counted - start)
        counted, start = end, start + stride


def _score_windows(
    model: LanguageModel, documents: Iterable[Sequence[int]], context: int, stride: int, batch_tokens: int
) -> Iterator[DocumentScore]:
    pending: list[Window] = []
    nats: list[float] = []
    counts: list[int] = []
    held, done = 0, 0
    for number, ids in enumerate(documents):
        nats.append(0.0)
        counts.append(max(0, len(ids) - 1))
        for window in windows(number, ids, context, stride):
            pending.append(window)
            held += len(window.ids)
            if held >= BUFFER * batch_tokens:
                _score_pending(model, pending, batch_tokens, nats)
                pending, held = [], 0
        if not pending:
            # This document and all before it are complete; the windows still pending belong to later ones.
            yield from _take(nats, counts, done, number + 1)
            done = number + 1
    _score_pending(model, pending, batch_tokens, nats)
    yield from _take(nats, counts, done, len(nats))


def _take(nats: list[float], counts: list[int], start: int, end: int) -> Iterator[DocumentScore]:
    for i in range(start, end):
        yield DocumentScore(nats[i], counts[i])


def _score_pending(model: LanguageModel, pending: list[Window], batch_tokens: int, nats: list[float]) -> None:
    """Add the cost of each window to its document's sum."""
    ordered = sorted(pending, key=lambda window: -len(window.ids))
    while ordered:
        rows = max(1, batch_tokens // len(ordered[0].ids))
        batch, ordered = ordered[:rows], ordered[rows:]
        with evaluating(model):
            losses = _window_losses(model, batch)
        for window, loss in zip(batch, losses, strict=True):
            nats[window.document] += loss


def _window_losses(model: LanguageModel, batch: Sequence[Window]) -> list[float]:
    width = len(batch[0].ids) - 1
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    targets = torch.full((len(batch), width), IGNORE, dtype=torch.long)
    positions = torch.full((len(batch), width), -1, dtype=torch.long)
    for row, window in enumerate(batch):
        tokens = torch.as_tensor(window.ids, dtype=torch.long)
        length = len(tokens) - 1
        ids[row, :length], positions[row, :length] = tokens[:-1], torch.arange(length)
        targets[row, window.first : length] = tokens[window.first + 1 :]
    device = next(model.parameters()).device
    targets = targets.to(device)
    places = counted_places(targets)
    hidden, _ = model(ids.to(device), positions.to(device), only=places)
    return counted_losses(model, hidden, targets, places).sum(-1, dtype=torch.float64).tolist()


def counted_losses(model: LanguageModel, hidden: Tensor, targets: Tensor, places: Tensor) -> Tensor:
    """−log p in nats (B, T) float64 of `targets` (B, T), 0 where they are `IGNORE`, after the states `hidden` (N, D) of their
    `counted_places`, which are `places` (N,)."""
    said = targets.flatten()
    losses = torch.zeros(targets.numel(), dtype=torch.float64, device=targets.device)
    losses[places] = target_losses(model, hidden, said[places])
    return losses.view(targets.shape)


def target_losses(model: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """−log p in nats (N,) float64 of each of `targets` (N,) after the states `hidden` (N, D)."""
    weight, bias = model.output_layer()
    softcap = getattr(model.config, "logit_softcap", 0.0)
    return token_losses(model.head_input(hidden), weight, bias, targets, softcap=softcap).double()


def _score_recurrent(model: LanguageModel, documents: Iterable[Sequence[int]], batch_tokens: int) -> Iterator[DocumentScore]:
    rows, group = max(1, batch_tokens // CARRY), []
    for ids in documents:
        group.append(ids)
        if len(group) == rows * BUFFER:
            yield from _score_group(model, group, rows)
            group = []
    yield from _score_group(model, group, rows)


def _score_group(model: LanguageModel, group: Sequence[Sequence[int]], rows: int) -> list[DocumentScore]:
    """Documents of like length side by side; each leaves when it ends."""
    nats = [0.0] * len(group)
    order = sorted(range(len(group)), key=lambda i: -len(group[i]))
    for first in range(0, len(order), rows):
        live = order[first : first + rows]
        device, start = next(model.parameters()).device, 0
        with evaluating(model):
            state = model.new_state(len(live), 0)
            while live:
                # Sorted by length, so those that are done stand at the end.
                going = [i for i in live if len(group[i]) - 1 > start]
                if len(going) < len(live):
                    state.select(torch.arange(len(going), device=device))
                    live = going
                    continue
                ids, positions, targets = _carry_batch([group[i] for i in live], start)
                targets = targets.to(device)
                places = counted_places(targets)
                hidden, state = model(ids.to(device), positions.to(device), None, state, only=places)
                losses = counted_losses(model, hidden, targets, places).sum(-1).tolist()
                for i, loss in zip(live, losses, strict=True):
                    nats[i] += loss
                start += CARRY
    return [DocumentScore(cost, max(0, len(ids) - 1)) for cost, ids in zip(nats, group, strict=True)]


def _carry_batch(documents: Sequence[Sequence[int]], start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions and targets (B, T) of the next stretch of each document."""
    width = min(CARRY, max(len(ids) - 1 - start for ids in documents))
    shape = (len(documents), width)
    ids, positions, targets = (
        torch.zeros(shape, dtype=torch.long),
        torch.full(shape, -1, dtype=torch.long),
        torch.full(shape, IGNORE, dtype=torch.long),
    )
    for row, document in enumerate(documents):
        part = torch.as_tensor(document[start : start + width + 1], dtype=torch.long)
        length = len(part) - 1
        ids[row, :length], targets[row, :length] = part[:-1], part[1:]
        positions[row, :length] = torch.arange(start, start + length)
    return ids, positions, targets


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
