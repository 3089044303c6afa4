"""Gaps in a text, filled by a model that was trained to fill them.

An encoder scores every word of its vocabulary for each mask, all from one look at the text; a BART-like encoder–decoder does the same from
its decoder's side; a T5-like one writes what its sentinels stand for, some tokens long, one gap after the other.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wordmill.core.errors import ModelError, UsageError
from wordmill.core.progress import plural
from wordmill.generate.beam import BeamConfig, beam_search
from wordmill.generate.score import evaluating
from wordmill.models.folder import LanguageModel
from wordmill.models.transformer import Transformer
from wordmill.tokenizer import Tokenizer

MASK = "[MASK]"
"""What stands for a gap in a text, whatever the model's own mask token is called."""
SPAN_TOKENS = 32
"""Most tokens that a T5-like model may write for one gap."""


@dataclass(frozen=True)
class Candidate:
    """One way to fill a gap."""

    word: str
    """What stands in the gap then, without the space before it; a part of a word as the tokenizer writes it (`##s`)."""
    probability: float
    """Of this token among all of the vocabulary; for spans, of all tokens of the span and of its end."""
    ids: tuple[int, ...]
    """Its tokens: one, but for spans."""


@dataclass(frozen=True)
class Filled:
    """What a model puts into the gaps of a text."""

    text: str
    """As it was given."""
    masks: tuple[tuple[Candidate, ...], ...]
    """For each gap, in order, the candidates, best first. Encoders judge each gap with the others still open."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        masks = [[{"word": c.word, "probability": c.probability, "ids": list(c.ids)} for c in gap] for gap in self.masks]
        return {"text": self.text, "masks": masks}


def fill(model: LanguageModel, tokenizer: Tokenizer, text: str, *, top: int = 5) -> Filled:
    """The `top` likeliest words for each gap of a text, written `[MASK]` or as the model's own mask token or sentinels.

    Special tokens are no words and are left out; their share of the probability stays theirs. Raises `UsageError` for a model that can't
    see what follows a gap, a text without a gap or longer than the positions, `ModelError` for a tokenizer without mask and sentinels.
    """
    if top < 1:
        raise UsageError("top must be at least 1", where="--top")
    if model.config.kind in ("decoder", "recurrent"):
        raise UsageError("this model reads one way only and can't see what follows a gap", fix="Take an encoder (BERT) or a T5-like model")
    spans = isinstance(model, Transformer) and model.encoder is not None and bool(tokenizer.sentinel_ids)
    if not spans and tokenizer.mask_id is None:
        raise ModelError("this tokenizer has no mask token", fix="Name one as mask_token in tokenizer_config.json")
    gaps = tokenizer.sentinel_ids if spans else (tokenizer.mask_id,)
    ids = tokenizer.wrap(tokenizer.encode_masked(_own_names(text, tokenizer, spans))).ids
    places = [place for place, id_ in enumerate(ids) if id_ in gaps]
    if not places:
        raise UsageError(f"this text has no gap: {text!r}", fix=f"Write {MASK} where a word is missing")
    if len(ids) > model.config.max_positions:
        raise UsageError(f"the text has {plural(len(ids), 'token')}, and the model {model.config.max_positions:,} "
                         f"positions", fix="Shorten it")
    with evaluating(model):
        if spans:
            return Filled(text, _spans(model, tokenizer, ids, [ids[place] for place in places], top))
        logits = _logits(model, ids)[places]
        return Filled(text, tuple(_words(tokenizer, row, top) for row in logits))


def _own_names(text: str, tokenizer: Tokenizer, spans: bool) -> str:
    """The text with `[MASK]` under the name that the tokenizer has for a gap: its mask token, or one sentinel after the other."""
    if not spans:
        assert tokenizer.mask_id is not None
        return text.replace(MASK, tokenizer.token_text(tokenizer.mask_id))
    names = [tokenizer.token_text(index) for index in tokenizer.sentinel_ids]
    parts = text.split(MASK)
    free = [name for name in names if name not in text]
    if len(parts) - 1 > len(free):
        raise UsageError(f"the text has {len(parts) - 1} gaps, and the model sentinels for {len(free)}", fix="Fill it in parts")
    return parts[0] + "".join(name + part for name, part in zip(free, parts[1:], strict=False))


def _logits(model: LanguageModel, ids: list[int]) -> Tensor:
    """(T, V) float32: for each place of the text what stands there."""
    device = model.embedding.weight.device
    row = torch.tensor([ids], device=device)
    if not isinstance(model, Transformer) or model.encoder is None:
        return model.logits(model(row)[0])[0].float()
    start = decoder_start(model, "fill")
    hidden, _ = model(torch.tensor([[start, *ids[:-1]]], device=device), memory=model.encode(row))
    return model.logits(hidden)[0].float()


def decoder_start(model: LanguageModel, where: str) -> int:
    """The token that an encoder–decoder's decoder starts from. Raises `ModelError` when config.json names none."""
    found = getattr(model.config, "decoder_start_id", None)
    if found is None:
        raise ModelError("config.json names no decoder_start_token_id, which the decoder starts from", where=where)
    return int(found)


def _words(tokenizer: Tokenizer, logits: Tensor, top: int) -> tuple[Candidate, ...]:
    probabilities = torch.softmax(logits, -1).cpu()
    known = [index for index in tokenizer.special_tokens.values() if index < len(probabilities)]
    ranked = probabilities.clone()
    ranked[known] = -1.0
    ranked[tokenizer.vocab_size :] = -1.0
    best = ranked.topk(min(top, len(ranked)))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(Candidate(_word(tokenizer, index), share, (index,)) for index, share in found if share >= 0 and tokenizer.has_id(index))


def _word(tokenizer: Tokenizer, index: int) -> str:
    return tokenizer.token_text(index).replace("▁", " ").strip(" ") or tokenizer.token_text(index)


def _spans(model: Transformer, tokenizer: Tokenizer, ids: list[int], used: Sequence[int], top: int) -> tuple[tuple[Candidate, ...], ...]:
    """Write the target as in training: a sentinel, its span, the next sentinel, …; each span goes on from the best one before it."""
    written = [decoder_start(model, "fill")]
    ends = {*tokenizer.sentinel_ids, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,))}
    found = []
    config = BeamConfig(beams=max(top, 4), length_penalty=0.0, max_tokens=SPAN_TOKENS)
    for sentinel in used:
        written.append(sentinel)
        (beams,) = beam_search(model, [written], config, eos=sorted(ends), sources=[ids])
        spans = [beam.ids[:-1] if beam.ids[-1] in ends else beam.ids for beam in beams[:top]]
        found.append(
            tuple(
                Candidate(tokenizer.decode(span).strip(), math.exp(beam.score), tuple(span))
                for span, beam in zip(spans, beams, strict=False)
            )
        )
        written += spans[0]
    return tuple(found)
