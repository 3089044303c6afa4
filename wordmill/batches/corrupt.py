"""How one piece of text is corrupted: what a model is shown, and what it has to say. Pure functions of the piece and a generator.

    masked     The [MASK] grinds the ▒▒▒          → mill, grain                (Devlin et al. 2019, arXiv 1810.04805)
    spans      The <0> the grain <1>              → <0> mill grinds <1> .      (Raffel et al. 2020, arXiv 1910.10683)
    infilling  The [MASK] the grain .             → The mill grinds the grain .  (Lewis et al. 2020, arXiv 1910.13461)

Numbers of tokens are rounded up or down at random, so that every piece, however short, is corrupted at its rate in expectation.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from wordmill.batches.batch import IGNORE
from wordmill.batches.pieces import unbiased
from wordmill.batches.vocabulary import Flags, Ids, Vocabulary
from wordmill.core.config import Config

Spans = tuple[Ids, Ids]
"""Where each span starts and how long it is; in order, without overlap."""
Generator = np.random.Generator
Lengths = npt.NDArray[np.int64]


class MaskConfig(Config):
    """Masked language modelling."""

    rate: float = 0.15
    """Share of the tokens of text that are to be predicted."""
    mask_share: float = 0.8
    """Share of those that are shown as the mask token."""
    random_share: float = 0.1
    """Share of those that are shown as a random token of text; what is left is shown as it is."""
    whole_word: bool = False
    """Choose whole words rather than tokens."""
    segmenter: Literal["none", "jieba"] = "none"
    """What cuts Chinese, which writes no spaces, into words (with whole_word); none: each token is a word there."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < self.rate < 1:
            raise ValueError("rate must lie between 0 and 1")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError("mask_share and random_share are shares of a whole")
        if self.segmenter != "none" and not self.whole_word:
            raise ValueError("a segmenter is of use with whole_word alone")
        return self


class DenoiseConfig(Config):
    """Denoising by spans with sentinels. What UL2 mixes (arXiv 2205.05131) are such pairs of numbers too: 0.15 with spans of 3, 8 or 64
    tokens, and 0.5 with the same."""

    noise: float = 0.15
    """Share of the tokens of text that are hidden."""
    mean_span: float = 3.0
    """Mean length of a hidden span in tokens."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < self.noise < 1:
            raise ValueError("noise must lie between 0 and 1")
        if self.mean_span < 1:
            raise ValueError("mean_span must be at least 1")
        return self


class InfillConfig(Config):
    """BART's denoising: text infilling, and sentences in another order."""

    noise: float = 0.3
    """Share of the tokens of text that are hidden."""
    mean_span: float = 3.0
    """Mean of the Poisson distribution of a span's length; each span, also one of no token, is shown as one mask token."""
    permute_sentences: bool = False
    """Whether a piece's sentences are shown in random order."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < self.noise < 1:
            raise ValueError("noise must lie between 0 and 1")
        if self.mean_span <= 0:
            raise ValueError("mean_span must be greater than 0")
        return self


def mask(ids: Ids, starts: Flags | None, config: MaskConfig, vocabulary: Vocabulary, generator: Generator) -> tuple[Ids, Ids]:
    """A piece (n,) with some tokens hidden, and the targets (n,), `IGNORE` where a token was not chosen.

    `starts` says where words begin (None: each token is chosen on its own). Words are chosen with equal probability, whatever their length,
    so that each token is chosen at the rate; a word that holds a special token is never chosen. What is done to a chosen token (shown as
    the mask, as a random one, as it is) is drawn for each token.
    """
    assert vocabulary.mask is not None
    plain = ~vocabulary.special[ids]
    if starts is None:
        units = np.flatnonzero(plain)
        chosen = generator.choice(units, unbiased(len(units) * config.rate, generator), replace=False)
    else:
        word = np.cumsum(starts) - 1
        units = np.setdiff1d(word, word[~plain])
        words = generator.choice(units, unbiased(len(units) * config.rate, generator), replace=False)
        chosen = np.flatnonzero(np.isin(word, words))
    shown, targets = ids.copy(), np.full(len(ids), IGNORE, np.int64)
    targets[chosen] = ids[chosen]
    draw = generator.random(len(chosen))
    shown[chosen[draw < config.mask_share]] = vocabulary.mask
    other = chosen[(draw >= config.mask_share) & (draw < config.mask_share + config.random_share)]
    shown[other] = generator.choice(vocabulary.ordinary, len(other))
    return shown, targets


def draw_spans(n: int, config: DenoiseConfig, generator: Generator) -> Spans:
    """Which spans of a piece of n tokens are hidden: all ways to place that many spans of those lengths are equally likely.

    At least one token stays between two spans, and at least one in all; a piece of one token is left as it is. Unlike T5's own code, which
    ends every piece with a hidden span, this one may begin and end a piece with either.
    """
    hidden = min(unbiased(n * config.noise, generator), n - 1)
    if hidden < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    count = min(max(1, unbiased(hidden / config.mean_span, generator)), hidden, n - hidden + 1)
    cuts = np.sort(generator.choice(hidden - 1, count - 1, replace=False)) + 1 if count > 1 else np.zeros(0, np.int64)
    lengths = np.diff(cuts, prepend=0, append=hidden)
    before = np.sort(generator.choice(n - hidden + 1, count, replace=False))  # tokens that stay before each span
    return before + np.cumsum(lengths) - lengths, lengths


def split_spans(ids: Ids, spans: Spans, sentinels: Ids) -> tuple[Ids, Ids]:
    """(source, target): the piece with each span replaced by a sentinel, and each span after its sentinel. No end tokens."""
    assert len(spans[0]) <= len(sentinels)
    source: list[Ids] = []
    target: list[Ids] = []
    at = 0
    for sentinel, start, length in zip(sentinels, *spans):
        source += [ids[at:start], np.array([sentinel])]
        target += [np.array([sentinel]), ids[start : start + length]]
        at = start + length
    return np.concatenate([*source, ids[at:]]), np.concatenate([*target, ids[:0]])


def infill(ids: Ids, config: InfillConfig, mask_id: int, generator: Generator) -> Ids:
    """The piece with spans replaced by one mask token each. Their lengths are Poisson numbers, the last one cut to end at the rate;
    places are equally likely, and a span may touch another. There are at most as many spans as hidden tokens."""
    hidden = min(unbiased(len(ids) * config.noise, generator), len(ids))
    if hidden < 1:
        return ids
    drawn = np.minimum(np.cumsum(generator.poisson(config.mean_span, hidden)), hidden)
    ends = drawn[: int(np.searchsorted(drawn, hidden)) + 1]
    ends[-1] = hidden
    lengths = np.diff(ends, prepend=0)
    before = np.sort(generator.integers(0, len(ids) - hidden, len(lengths), endpoint=True))
    starts = before + np.cumsum(lengths) - lengths
    parts, at = [], 0
    for start, length in zip(starts, lengths):
        parts += [ids[at:start], np.array([mask_id])]
        at = start + length
    return np.concatenate([*parts, ids[at:]])


def permute_sentences(ids: Ids, vocabulary: Vocabulary, generator: Generator) -> Ids:
    """The piece with its sentences in random order; what follows the last sentence's end counts as a sentence."""
    ends = np.flatnonzero(vocabulary.ends_sentence[ids[:-1]] & ~vocabulary.ends_sentence[ids[1:]]) + 1
    sentences = np.split(ids, ends)
    return np.concatenate([sentences[i] for i in generator.permutation(len(sentences))])
