"""What a tokenizer is asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from wordmill.core.config import Config

Kind = Literal["bpe", "wordpiece", "unigram", "byte", "char"]
KINDS: tuple[Kind, ...] = ("bpe", "wordpiece", "unigram", "byte", "char")
Purpose = Literal["causal", "masked", "denoising"]

END, PAD, TURN_START, TURN_END, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|unk|>"
MASK = "<|mask|>"
"""The name that makes one of `TokenizerConfig.extra_special` the mask token of a causal tokenizer."""

CAUSAL = {"bos": END, "eos": END, "pad": PAD, "unk": UNKNOWN}
"""Tokens by the part that they play. `END` stands before and after every document."""
BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
T5 = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
SENTINELS = 100
"""As many as T5 has."""


class TokenizerConfig(Config):
    """How to train a tokenizer."""

    kind: Kind = "bpe"
    """bpe: byte-level byte-pair encoding, loses nothing, the usual choice. unigram: byte-level Unigram. wordpiece: as in BERT.
    byte: the 256 bytes. char: the characters of the training text."""
    vocab: int | None = Field(default=8192, ge=8)
    """Tokens in the vocabulary, special ones included; none: chosen from the size of the text. For `char` the most there may be;
    for `byte` there are 256 and the special ones, whatever stands here."""
    min_count: int = Field(default=2, ge=1)
    """A pair seen less often than this is not merged (bpe, wordpiece)."""
    allow_smaller: bool = False
    """Take a smaller vocabulary, with a note, where the text can't give the one asked for; otherwise that is an error."""
    sample_bytes: int = Field(default=200_000_000, ge=1)
    """Train on a sample of about this many bytes when the text is larger: more text hardly changes a vocabulary."""
    lowercase: bool = False
    """Lower-case all text and drop accents (wordpiece only: BERT's uncased models)."""
    purpose: Purpose = "causal"
    """Which special tokens there are, and what stands around a text. causal: `<|endoftext|>` in front, and the marks of a chat's turns.
    masked: `[CLS] … [SEP]`, and `[MASK]`. denoising: `… </s>`, the sentinels `<extra_id_0>`, `<extra_id_1>`, …, and `<mask>`.
    WordPiece has BERT's tokens for each of them."""
    sentinels: int | None = Field(default=None, ge=1, le=10_000)
    """How many sentinels: the most spans that can be cut out of one text (denoising only); none: 100."""
    extra_special: tuple[str, ...] = ()
    """More special tokens, after the usual ones; `<|mask|>` becomes the mask token of a causal tokenizer."""

    @model_validator(mode="after")
    def _fits(self) -> TokenizerConfig:
        if self.lowercase and self.kind != "wordpiece":
            raise ValueError(f"lowercase is for wordpiece; a {self.kind} tokenizer keeps the text as it is")
        if self.sentinels is not None and self.purpose != "denoising":
            what = f"sentinels are for denoising; a {self.purpose} tokenizer has none"
            raise ValueError(f"{what}: choose --purpose denoising (in pretrain --objective denoise)")
        known = {*self._usual, UNKNOWN}
        clash = [name for name in self.extra_special if not name or name in known]
        if clash or len(set(self.extra_special)) < len(self.extra_special):
            raise ValueError(f"extra_special holds a token twice, an empty one, or one that is there anyway: {clash or self.extra_special}")
        return self

    @property
    def roles(self) -> dict[str, str]:
        """The tokens that play a part (bos, eos, pad, unk, cls, sep, mask)."""
        if self.kind == "wordpiece":
            return BERT | ({"eos": BERT["sep"]} if self.purpose == "denoising" else {})
        roles = {"causal": CAUSAL, "masked": BERT, "denoising": T5}[self.purpose]
        masks = {"mask": MASK} if self.purpose == "causal" and MASK in self.extra_special else {}
        return {role: token for role, token in roles.items() if role != "unk" or self.kind == "char"} | masks

    @property
    def sentinel_names(self) -> tuple[str, ...]:
        """The sentinels in the order of their use; () unless for denoising."""
        return tuple(f"<extra_id_{n}>" for n in range(self.sentinels or SENTINELS)) if self.purpose == "denoising" else ()

    @property
    def _usual(self) -> tuple[str, ...]:
        if self.kind != "wordpiece" and self.purpose == "causal":
            return (END, PAD, TURN_START, TURN_END, *((UNKNOWN,) if self.kind == "char" else ()))
        return (*dict.fromkeys(self.roles.values()), *self.sentinel_names)

    @property
    def special(self) -> tuple[str, ...]:
        """All special tokens in the order of their ids (from 0)."""
        return (*self._usual, *self.extra_special)


def sized_by_text(values: Any) -> Any:
    """Settings of a tokenizer that is trained on the way to a model: without `vocab` among them, its size follows from the text."""
    return {"vocab": None, "allow_smaller": True, **values} if isinstance(values, Mapping) and "vocab" not in values else values


def suggest_vocab(n_bytes: int) -> int:
    """A vocabulary size for a text of `n_bytes` (UTF-8), from 512 to 32,768.

    Every token has an embedding that is learned only where the token occurs. A token is about 4 bytes and the counts
    fall as 1/rank, so the rarest of V tokens occurs some n_bytes / (4 V ln V) times: 2,048 tokens for 1 MB, 8,192 for 10 MB and 16,384 for
    100 MB leave it about 16, 35 and 160 occurrences. Larger vocabularies shorten the text by less and less, while the output layer's
    cost grows in proportion, so growth slows with the size and ends at 32,768.
    """
    steps = ((300_000, 512), (700_000, 1024), (3_000_000, 2048), (8_000_000, 4096), (60_000_000, 8192), (500_000_000, 16_384))
    return next((vocab for limit, vocab in steps if n_bytes < limit), 32_768)
