"""Rows for objectives beyond causal: packed like those of pack.py, corrupted as corrupt.py says.

    PieceRows ─ pieces of a row ─ corrupt each ─ lay them side by side ─► Batch (with a Source where there is an encoder)

A batch is a pure function of seed and step: the corruption of a row is drawn from its global row number, so every epoch corrupts anew and
resuming replays nothing. Shapes: B rows, T tokens, S source tokens, n tokens of a piece.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wordmill.batches.batch import IGNORE, Batch, Source, single, tensor
from wordmill.batches.corrupt import (
    DenoiseConfig,
    Generator,
    InfillConfig,
    MaskConfig,
    draw_spans,
    infill,
    mask,
    permute_sentences,
    split_spans,
)
from wordmill.batches.examples import places_of, side_by_side
from wordmill.batches.pack import PackedRows
from wordmill.batches.pieces import PieceRows, row_generator
from wordmill.batches.vocabulary import Ids, Vocabulary, segmenter
from wordmill.core.config import Config
from wordmill.core.errors import ConfigError, UsageError, nearest
from wordmill.tokenizer import Tokenizer

if TYPE_CHECKING:
    from wordmill.batches.store import TokenStore

_NOTHING = np.array([IGNORE])
STEP = 8
"""Rows that turn out longer than expected are widened by multiples of this."""


class Corrupted(NamedTuple):
    """What becomes of one piece. An empty `inputs` means that nothing is asked about it."""

    inputs: Ids
    """(t,) what the model is given."""
    targets: Ids
    """(t,) what it should say, `IGNORE` where nothing."""
    source: Ids | None = None
    """(s,) what its encoder reads."""


class CorruptedRows(PieceRows, ABC):
    """What the kinds of corruption share: rows of pieces, laid side by side and padded to `context` (and `source_context`) places."""

    def __init__(
        self,
        store: TokenStore,
        places: int,
        rows: int,
        seed: int,
        vocabulary: Vocabulary,
        *,
        lead: bool,
        shuffle: bool = True,
        limit: int | None = None,
    ) -> None:
        super().__init__(store, places, rows, seed, lead=lead, shuffle=shuffle, limit=limit)
        self.vocabulary = vocabulary
        self.source_context: int | None = None

    @abstractmethod
    def corrupt(self, piece: Ids, generator: Generator) -> Corrupted:
        """What becomes of a piece (n,)."""

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """Rows `first`…`last` (all, by default) of the batch of step `step`; at least one, of padding where there is none."""
        last = self.rows if last is None else last
        found = []
        for row in range(step * self.rows + first, step * self.rows + last):
            generator = row_generator(self.seed, row)
            found.append([self.corrupt(piece, generator) for piece in self.pieces(row)])
        found = found or [[]]
        pad = self.vocabulary.pad
        inputs = [[c.inputs for c in row] for row in found]
        width = _wide(inputs, self.context)
        positions, documents = places_of(inputs, width=width)
        targets = side_by_side([[c.targets for c in row] for row in found], IGNORE, width=width)
        source = None
        if self.source_context is not None:
            sources = [[c.source for c in row if c.source is not None] for row in found]
            wide = _wide(sources, self.source_context)
            source = Source(tensor(side_by_side(sources, pad, width=wide)), *places_of(sources, width=wide))
        # Both sides' numbers are kept or dropped together: a decoder has to know which source is its own.
        alone = single(documents) and (source is None or single(source.documents))
        if alone and source is not None:
            source = replace(source, documents=None)
        ids = tensor(side_by_side(inputs, pad, width=width))
        return Batch(ids, tensor(targets), positions, None if alone else documents, source)


def _wide(rows: Sequence[Sequence[Ids]], width: int) -> int:
    """The width of rows of pieces side by side: `width`, or in steps as much more as the longest needs."""
    over = max(sum(map(len, row)) for row in rows) - width
    return width + max(0, -(-over // STEP) * STEP)


def _expected_spans(config: DenoiseConfig | InfillConfig, places: int, pieces: float) -> tuple[float, float]:
    """Hidden tokens and spans to expect in a row of that many places and pieces."""
    hidden = config.noise * max(0.0, places - pieces)
    return hidden, hidden / config.mean_span


class MaskedRows(CorruptedRows):
    """Rows for encoders: each piece between bos and eos, some of its tokens hidden; exactly `context` places."""

    def __init__(
        self,
        store: TokenStore,
        context: int,
        rows: int,
        seed: int,
        vocabulary: Vocabulary,
        config: MaskConfig,
        *,
        shuffle: bool = True,
        limit: int | None = None,
    ) -> None:
        """Raises `UsageError` when the tokenizer has no mask token or `context` is too short, `MissingExtraError` without the segmenter."""
        if vocabulary.mask is None:
            raise _no_mask()
        _check_context(context, 3)
        # Two places are kept for the bos and eos of a document that the row's borders cut.
        super().__init__(store, context - 2, rows, seed, vocabulary, lead=True, shuffle=shuffle, limit=limit)
        self.context, self.config, self.segment = context, config, segmenter(config.segmenter)

    def corrupt(self, piece: Ids, generator: Generator) -> Corrupted:
        """Hide tokens of a piece and put bos and eos around it."""
        starts = self.vocabulary.word_starts(piece, self.segment) if self.config.whole_word else None
        shown, targets = mask(piece, starts, self.config, self.vocabulary, generator)
        return Corrupted(_around(shown, self.vocabulary), np.concatenate((_NOTHING, targets, _NOTHING)))


class DenoisedRows(CorruptedRows):
    """Rows for encoder–decoders in T5's way. `context` is the encoder's; the decoder's, `target_context`, follows.

    Source: the piece with sentinels, eos. Target: the hidden spans, each after its sentinel, eos; the decoder is given it one place later,
    after `start` (T5: the padding token). How much text fills a row is chosen by expectation; a row that holds unusually many documents may
    turn out longer, and then its batch is wider: nothing is cut.
    """

    def __init__(
        self,
        store: TokenStore,
        context: int,
        rows: int,
        seed: int,
        vocabulary: Vocabulary,
        config: DenoiseConfig,
        *,
        start: int | None = None,
        shuffle: bool = True,
        limit: int | None = None,
    ) -> None:
        """Raises `UsageError` for a context that is too short, or for which the tokenizer has too few sentinels."""
        _check_context(context, 8)
        places, target_context = denoised_sizes(config, context, len(store.doc_bytes) / store.n_tokens)
        super().__init__(store, places, rows, seed, vocabulary, lead=False, shuffle=shuffle, limit=limit)
        self.context, self.source_context, self.config = target_context, context, config
        self.start = vocabulary.pad if start is None else start
        spans = min(math.ceil(math.ceil(places * config.noise) / config.mean_span), places)
        if spans > len(vocabulary.sentinels):
            raise UsageError(
                f"a context of {context:,} tokens needs up to {spans:,} sentinels, the tokenizer has {len(vocabulary.sentinels):,}",
                fix=f"Train one that has: wordmill tokenizer train CORPUS -o FOLDER --purpose denoising --sentinels {spans}; "
                "or take longer spans: corruption.mean_span=N",
            )

    def corrupt(self, piece: Ids, generator: Generator) -> Corrupted:
        """Part a piece into source and target."""
        spans = draw_spans(len(piece), self.config, generator)
        source, target = split_spans(piece, spans, self.vocabulary.sentinels)
        target = np.append(target, self.vocabulary.eos) if len(target) else target
        return Corrupted(np.append(np.array([self.start]), target[:-1])[: len(target)], target, np.append(source, self.vocabulary.eos))


class InfilledRows(CorruptedRows):
    """Rows for encoder–decoders in BART's way: source is the corrupted piece, target the piece itself, both between bos and eos.

    `context` is the decoder's, which is never exceeded; the decoder is given the target one place later, after `start` (BART: eos).
    """

    def __init__(
        self,
        store: TokenStore,
        context: int,
        rows: int,
        seed: int,
        vocabulary: Vocabulary,
        config: InfillConfig,
        *,
        start: int | None = None,
        shuffle: bool = True,
        limit: int | None = None,
    ) -> None:
        """Raises `UsageError` when the tokenizer has no mask token or `context` is too short."""
        if vocabulary.mask is None:
            raise _no_mask()
        _check_context(context, 8)
        super().__init__(store, context - 2, rows, seed, vocabulary, lead=True, shuffle=shuffle, limit=limit)
        pieces = _pieces(self.places, len(store.doc_bytes) / store.n_tokens)
        hidden, spans = _expected_spans(config, self.places, pieces)
        self.context, self.config = context, config
        self.source_context = min(context, math.ceil(context - hidden + spans + _slack(pieces)))
        self.start = vocabulary.eos if start is None else start

    def corrupt(self, piece: Ids, generator: Generator) -> Corrupted:
        """Hide spans of a piece."""
        assert self.vocabulary.mask is not None
        shown = permute_sentences(piece, self.vocabulary, generator) if self.config.permute_sentences else piece
        source = _around(infill(shown, self.config, self.vocabulary.mask, generator), self.vocabulary)
        target = _around(piece, self.vocabulary)
        return Corrupted(np.append(np.array([self.start]), target[:-1]), target, source)


class PrefixRows(PackedRows):
    """Rows for a prefix LM: those of pack.py; in each piece of n tokens the first k, drawn evenly from 1…n, are seen from both directions,
    and the tokens after them are targets (arXiv 1910.10683, section 3.2.1)."""

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """As in `PackedRows`, with `prefix`."""
        plain = super().batch(step, first, last)
        positions, targets = plain.positions.numpy(), plain.targets.numpy()
        prefix = np.zeros(positions.shape, np.bool_)
        for i in range(len(positions)):
            generator = row_generator(self.seed, step * self.rows + first + i)
            begins = np.flatnonzero(positions[i] == 0)
            for begin, end in zip(begins, [*begins[1:], int((positions[i] >= 0).sum())]):
                known = int(generator.integers(1, end - begin, endpoint=True))
                prefix[i, begin : begin + known] = True
                targets[i, begin : begin + known - 1] = IGNORE  # the last token of the prefix predicts the first one after it
        return Batch(plain.input_ids, tensor(targets), plain.positions, plain.documents, prefix=tensor(prefix))


def denoised_sizes(config: DenoiseConfig, context: int, documents_per_token: float) -> tuple[int, int]:
    """(places of text, decoder places) for rows whose source fills `context` in expectation, with some room to spare."""

    def source(places: int) -> float:
        pieces = _pieces(places, documents_per_token)
        hidden, spans = _expected_spans(config, places, pieces)
        return places + 1 - hidden + spans + _slack(pieces)

    places = max((candidate for candidate in range(1, 4 * context) if source(candidate) <= context), default=1)
    pieces = _pieces(places, documents_per_token)
    hidden, spans = _expected_spans(config, places, pieces)
    target = hidden + spans + pieces + 2 * _slack(pieces)
    return places, -(-math.ceil(target) // STEP) * STEP


def _pieces(places: int, documents_per_token: float) -> float:
    """Pieces to expect in a row."""
    return 1 + places * documents_per_token


def _slack(pieces: float) -> float:
    """Room for rounding at random in each piece, and for rows with more pieces than most."""
    return 2 + 2 * math.sqrt(pieces)


def _around(piece: Ids, vocabulary: Vocabulary) -> Ids:
    """bos, piece, eos; a tokenizer without bos puts eos before a document, as token stores do."""
    before = vocabulary.eos if vocabulary.bos is None else vocabulary.bos
    return np.concatenate((np.array([before]), piece, np.array([vocabulary.eos])))


def _check_context(context: int, least: int) -> None:
    if context < least:
        raise UsageError(f"a context of {context} tokens is too short for this objective", fix=f"Take at least {least}")


def _no_mask() -> UsageError:
    return UsageError(
        "this tokenizer has no mask token", fix="Train one that has: wordmill tokenizer train CORPUS -o FOLDER --purpose masked"
    )


_PLAIN: dict[str, type[PackedRows]] = {"clm": PackedRows, "prefix": PrefixRows}
_CORRUPTIONS: dict[str, type[Config]] = {"mlm": MaskConfig, "denoise": DenoiseConfig, "infill": InfillConfig}


def corruption_config(objective: str, values: Mapping[str, Any] | None) -> Config | None:
    """The settings of an objective that corrupts; None for one that doesn't. Raises `UsageError` or `ConfigError` for what is unknown."""
    if objective in _CORRUPTIONS:
        return _CORRUPTIONS[objective].of(values, where="corruption")
    if objective not in _PLAIN:
        raise UsageError(f"there is no objective {objective!r}", fix=nearest(objective, (*_PLAIN, *_CORRUPTIONS)))
    if values:
        raise ConfigError(f"{objective} corrupts nothing and has no such settings: {', '.join(values)}", where="corruption")
    return None


def learned_share(objective: str, values: Mapping[str, Any] | None) -> float:
    """The share of a text's tokens that are learned in each reading: those that are hidden; with infilling the whole text is written."""
    config = corruption_config(objective, values)
    if isinstance(config, MaskConfig):
        return config.rate
    return config.noise if isinstance(config, DenoiseConfig) else 1.0


def objective_rows(
    objective: str,
    store: TokenStore,
    context: int,
    rows: int,
    seed: int,
    tokenizer: Tokenizer,
    corruption: Mapping[str, Any] | None = None,
    *,
    start: int | None = None,
    shuffle: bool = True,
    limit: int | None = None,
) -> PackedRows:
    """The rows of an objective by its name: clm, prefix, mlm, denoise, infill.

    `context` in tokens (the encoder's for denoise), `corruption` the settings of `MaskConfig`, `DenoiseConfig` or `InfillConfig`; `start`
    the token that a decoder begins with. Raises `UsageError` or `ConfigError` for what is unknown or can't be honoured.
    """
    config = corruption_config(objective, corruption)
    if start is not None and objective not in ("denoise", "infill"):
        raise UsageError(f"{objective} has no decoder that would begin with a token of its own", fix="Leave the start token out")
    if config is None:
        return _PLAIN[objective](store, context, rows, seed, shuffle=shuffle, limit=limit)
    vocabulary = Vocabulary.of(tokenizer)
    if isinstance(config, MaskConfig):
        return MaskedRows(store, context, rows, seed, vocabulary, config, shuffle=shuffle, limit=limit)
    if isinstance(config, DenoiseConfig):
        return DenoisedRows(store, context, rows, seed, vocabulary, config, start=start, shuffle=shuffle, limit=limit)
    assert isinstance(config, InfillConfig)
    return InfilledRows(store, context, rows, seed, vocabulary, config, start=start, shuffle=shuffle, limit=limit)
