"""Beam search: the answers that are likeliest as a whole, not token by token.

At each step every live beam is continued by every token, and the best `beams` continuations that don't end live on. One that ends among
the best `beams` is kept aside, scored by its log-probability divided by length ** `length_penalty`. The search stops when the best live
beam, scored at its present length, is no better than the worst of `beams` answers set aside (early stopping "by the present length", as
`transformers` has it by default).

Shapes: P prompts, K beams, B = P·K rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor

from wordmill.core.config import Config
from wordmill.generate.engine import Batch, Reason, check_prompts
from wordmill.generate.score import evaluating
from wordmill.models.folder import LanguageModel


class BeamConfig(Config):
    """How a beam search is done."""

    beams: int = 4
    """Beams that are kept for each prompt."""
    length_penalty: float = 1.0
    """Power of the length by which an answer's log-probability is divided: above 0 for longer answers, 0 for the likeliest, below 0 for
    shorter ones (Wu et al. 2016, arXiv 1609.08144, section 7, in a simpler form)."""
    max_tokens: int = 128
    """Most tokens of an answer."""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.beams < 1:
            raise ValueError("beams must be at least 1")
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        return self


class Beam(NamedTuple):
    """One answer of a beam search."""

    ids: list[int]
    """Its tokens, the end token included."""
    score: float
    """Σ log p of them in nats, divided by their number ** length_penalty."""
    reason: Reason
    """Why it ended."""


def beam_search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: BeamConfig,
    *,
    eos: Sequence[int] = (),
    sources: Sequence[Sequence[int]] | None = None,
) -> list[list[Beam]]:
    """For each prompt the best answers, best first, at most `config.beams`; `sources` are what an encoder–decoder reads.

    Raises `UsageError` for what `run` refuses too.
    """
    check_prompts(model, prompts, sources)
    if not prompts:
        return []
    with evaluating(model), torch.inference_mode():
        return _search(model, prompts, config, frozenset(eos), sources)


class _Search:
    """One prompt's beams: the live ones with their log-probabilities, and the answers set aside."""

    def __init__(self, config: BeamConfig) -> None:
        self.config = config
        self.live: list[tuple[float, list[int]]] = [(0.0, [])]
        self.answers: list[Beam] = []
        self.done = False

    def advance(self, candidates: Sequence[tuple[float, int, int]], eos: frozenset[int], last: Reason | None) -> list[int]:
        """Take in (log-probability, beam, token), best first; `last` is why all of them end here, if they do. Returns which beam each of
        the new live ones goes on from."""
        live: list[tuple[float, list[int]]] = []
        parents = []
        for place, (total, beam, token) in enumerate(candidates):
            ids = [*self.live[beam][1], token]
            if token in eos or last is not None:
                if place < self.config.beams:
                    reason: Reason = "eos" if token in eos or last is None else last
                    self.answers.append(Beam(ids, total / len(ids) ** self.config.length_penalty, reason))
            elif len(live) < self.config.beams:
                live.append((total, ids))
                parents.append(beam)
        self.answers = sorted(self.answers, key=lambda answer: -answer.score)[: self.config.beams]
        self.live = live
        full = len(self.answers) == self.config.beams
        hopeless = full and bool(live) and live[0][0] / len(live[0][1]) ** self.config.length_penalty <= self.answers[-1].score
        self.done = hopeless or not live
        return parents


def _search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: BeamConfig,
    eos: frozenset[int],
    sources: Sequence[Sequence[int]] | None,
) -> list[list[Beam]]:
    batch = Batch(model, prompts, config.max_tokens, sources)
    searches = [_Search(config) for _ in prompts]
    open_ = list(range(len(prompts)))
    logits = batch.logits
    keep = (1 + max(1, len(eos))) * config.beams  # so that enough go on when every beam could end in every way
    for made in range(1, config.max_tokens + 1):
        scores = torch.log_softmax(logits.float(), -1)
        rows: list[int] = []
        tokens: list[int] = []
        still: list[int] = []
        first = 0
        for number in open_:
            search = searches[number]
            count = len(search.live)
            full = len(prompts[number]) + made > model.config.max_positions
            last: Reason | None = "length" if made == config.max_tokens else "context" if full else None
            parents = search.advance(_best(scores[first : first + count], search, keep), eos, last)
            if not search.done:
                still.append(number)
                rows += [first + parent for parent in parents]
                tokens += [ids[-1] for _, ids in search.live]
            first += count
        open_ = still
        if not open_:
            break
        logits = batch.branch(rows, tokens)
    return [search.answers for search in searches]


def _best(scores: Tensor, search: _Search, keep: int) -> list[tuple[float, int, int]]:
    """The best continuations of a prompt's live beams, scores (K, V)."""
    totals = scores + torch.tensor([total for total, _ in search.live], device=scores.device)[:, None]
    best = totals.flatten().topk(min(keep, totals.numel()))
    size = scores.shape[1]
    return [(value, place // size, place % size) for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
