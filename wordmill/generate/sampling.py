"""From logits to the next token: penalties, filters, and a draw that depends on the row's own seed alone.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from wordmill.core.config import Config

NUCLEUS_TRY = 1024
"""Top-p first looks among this many of the likeliest tokens; sorting a whole vocabulary takes longer than a small model's step."""


class SamplingConfig(Config):
    """How text is drawn from a model. The filters apply in the order: repetition penalty, temperature, top-k, top-p, min-p."""

    max_tokens: int = 128
    """Most tokens to generate."""
    temperature: float = 0.8
    """Divides the logits: below 1 is safer, above 1 wilder; 0 always takes the likeliest token."""
    top_k: int = 0
    """Keep only this many of the likeliest tokens (0: all)."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together have this probability (Holtzman et al., arXiv 1904.09751; 1: all)."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability (arXiv 2407.01082; 0: none)."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of every token that prompt or answer already hold
    (Keskar et al., arXiv 1909.05858, section 4.1; 1: off). The start token put before the prompt does not count."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; the answer is what stands before the first of them."""
    seed: int = 0
    """Same seed, same text, whatever else is in the batch; row i of a list of prompts draws with seed + i."""

    beams: int = 1
    """Beams of a beam search, which takes the answer that is likeliest as a whole (1: none). It draws nothing: temperature must be 0,
    and the filters off."""
    length_penalty: float = 1.0
    """In a beam search, the power of its length by which an answer's log-probability is divided: above 0 for longer answers."""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        if self.temperature != 0 and not 1e-3 <= self.temperature < math.inf:
            raise ValueError("temperature must be 0 (greedy), or 0.001 or more")
        if self.top_k < 0:
            raise ValueError("top_k must be 0 (off) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must lie in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ValueError("min_p must lie in [0, 1]")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError("repetition_penalty must be above 0")
        if any(not text for text in self.stop):
            raise ValueError("a stop text must not be empty")
        if self.beams < 1:
            raise ValueError("beams must be at least 1")
        if self.beams == 1 and self.length_penalty != 1.0:
            raise ValueError("length_penalty is for a beam search: set beams above 1")
        if self.beams > 1:
            idle = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "stop": ()}
            for name, value in idle.items():
                if getattr(self, name) != value:
                    raise ValueError(f"a beam search draws nothing: {name} must be {value!r}")
        return self


class Sampler:
    """Draws one token for each live row. Rows are named by their place in the list of prompts."""

    def __init__(self, config: SamplingConfig, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generators = [torch.Generator().manual_seed((config.seed + row) % 2**63) for row in range(len(prompts))]
        self.seen: Tensor | None = None
        if config.repetition_penalty != 1.0:
            self.seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
            for row, prompt in enumerate(prompts):
                # The first token is the document's start, which nobody wrote.
                self.seen[row, torch.tensor(prompt[1:], dtype=torch.long, device=device)] = True

    def draw(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """One token for each of `rows` from its logits (B, V), B = len(rows)."""
        config, logits = self.config, logits.float()
        if self.seen is not None:
            logits = penalise(logits, self.seen[list(rows)], config.repetition_penalty)
        if config.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            # One uniform number a row, made on the CPU by the row's own generator, then the inverse of the cumulated
            # distribution: the draw is the same on every device and in every batch.
            uniform = torch.cat([torch.rand(1, generator=self.generators[row], dtype=torch.float64) for row in rows]).to(logits.device)
            chosen = inverse_cdf(filtered(logits, config), uniform)
        if self.seen is not None:
            self.seen[torch.tensor(rows, device=self.device), chosen] = True
        return chosen.tolist()


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) with those of the tokens `seen` (B, V) divided (positive) or multiplied (negative) by `penalty`."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def filtered(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Logits (B, V), float32, after temperature, top-k, top-p and min-p: what is filtered out is −inf.

    Tokens exactly as likely as the last one kept are kept too, so that the result does not depend on how ties are sorted.
    """
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        logits = _keep_from(logits, logits.topk(config.top_k).values[:, -1:])
    if config.top_p < 1:
        logits = _keep_from(logits, _nucleus_edge(logits, config.top_p))
    if config.min_p > 0:
        logits = _keep_from(logits, logits.amax(-1, keepdim=True) + torch.tensor(config.min_p).log().item())
    return logits


def _keep_from(logits: Tensor, edge: Tensor) -> Tensor:
    return logits.masked_fill(logits < edge, -torch.inf)


def _nucleus_edge(logits: Tensor, p: float) -> Tensor:
    """The logit (B, 1) of the last token that is needed to reach probability `p`."""
    total = logits.logsumexp(-1, keepdim=True)
    size = logits.shape[-1]
    for count in (min(NUCLEUS_TRY, size), size):
        top = logits.topk(count).values
        mass = (top - total).exp().cumsum(-1)
        if count == size or bool((mass[:, -1] >= p).all()):
            break
    needed = (mass < p).sum(-1, keepdim=True).clamp(max=count - 1)
    return top.gather(-1, needed)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token (B,) at which the cumulated probability of softmax(logits) (B, V) first exceeds `uniform` (B,) in [0, 1)."""
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    goal = uniform[:, None] * cumulated[:, -1:]
    # right=True: the first place where cumulated > goal, which always has weight above 0.
    return torch.searchsorted(cumulated, goal, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
