"""What corruption has to know of a tokenizer: special tokens, sentinels, where words begin and sentences end.

Words are found from the tokens alone, by the marks of their kind: a WordPiece token with `##` goes on with a word; elsewhere a token goes
on with one when no space stands between (byte-level `Ġ`, SentencePiece `▁`) and a letter or digit meets a letter or digit. Scripts that
write no spaces (Chinese, Japanese, Thai, …) have no such marks: there each token is a word, unless a segmenter says where words begin.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wordmill.core.errors import MissingExtraError, UsageError
from wordmill.tokenizer import Tokenizer

Flags = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Segmenter = Callable[[str], Iterable[str]]
"""Cuts a run of Chinese characters into words; joined they are the run."""

SENTINEL = "<extra_id_{}>"
"""The name of the n-th sentinel, as T5's tokenizers have it."""
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters."""
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_SENTENCE_END = re.compile(r"""[.!?。！？…]["'”’」』)]*\s*$|\n\s*$""")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """Facts of a tokenizer, by token id. Flags have a place for each id (V,)."""

    size: int
    """Ids, from 0."""
    bos: int | None
    """The token before a document."""
    eos: int
    """The token after a document."""
    pad: int
    """The token that fills rows up."""
    mask: int | None
    """The token that hides others."""
    sentinels: Ids
    """The tokens that stand for a hidden span, in order; empty where the tokenizer has none."""
    special: Flags
    """Tokens that are no text."""
    ordinary: Ids
    """Ids of the tokens that are text."""
    glued: Flags
    """Tokens that always go on with the word before them (`##`, the later bytes of a character)."""
    left: Flags
    """Tokens that begin with a letter or digit."""
    right: Flags
    """Tokens that end with one, and the token of a single space."""
    fragment: Flags
    """Tokens that begin or end within a character."""
    ends_sentence: Flags
    """Tokens after which a sentence may begin."""
    surfaces: tuple[bytes, ...]
    """What each token writes, in UTF-8 bytes, a space before a word included."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Raises `ModelError` when the tokenizer has no eos token."""
        size, eos = tokenizer.vocab_size, tokenizer.required("eos")
        special = np.zeros(size, np.bool_)
        special[list(tokenizer.special_tokens.values())] = True
        there = np.array([tokenizer.has_id(i) for i in range(size)])
        surfaces = tuple(b"" if special[i] or not there[i] else surface(tokenizer, i) for i in range(size))
        wordpiece = tokenizer.kind == "wordpiece"
        texts = [part.decode("utf-8", "ignore") for part in surfaces]
        named = (tokenizer.token_id(SENTINEL.format(n)) for n in count())
        return cls(
            size=size,
            bos=tokenizer.bos_id,
            eos=eos,
            pad=tokenizer.pad_id if tokenizer.pad_id is not None else eos,
            mask=tokenizer.mask_id,
            sentinels=np.array(list(iter(lambda: next(named), None)), np.int64),
            special=special,
            ordinary=np.flatnonzero(there & ~special),
            glued=np.array([tokenizer.token_text(i).startswith("##") if wordpiece and there[i] else s[:1] in TAILS
                            for i, s in enumerate(surfaces)]),
            left=np.array([not wordpiece and joins(text[:1]) for text in texts]),
            right=np.array([not wordpiece and (text == " " or joins(text[-1:])) for text in texts]),
            fragment=np.array([text.encode() != part for text, part in zip(texts, surfaces)]),
            ends_sentence=np.array([bool(_SENTENCE_END.search(text)) for text in texts]),
            surfaces=surfaces,
        )  # fmt: skip

    def word_starts(self, ids: Ids, segment: Segmenter | None = None) -> Flags:
        """(n,) where a word begins; a special token is a word of its own. `segment` cuts what is Chinese."""
        if not len(ids):
            return np.zeros(0, np.bool_)
        starts = ~self.glued[ids]
        starts[0] = True
        begins = np.flatnonzero(starts)
        ends = np.append(begins[1:], len(ids))
        left, right = self.left[ids[begins]], self.right[ids[ends - 1]]
        for unit in np.flatnonzero(np.add.reduceat(self.fragment[ids], begins)):  # the tokens of a character that is cut, together
            text = self.text(ids[begins[unit] : ends[unit]])
            left[unit], right[unit] = joins(text[:1]), joins(text[-1:])
        starts[begins[1:]] = ~(right[:-1] & left[1:])
        if segment is not None:
            self._segment(ids, starts, segment)
        return starts

    def text(self, ids: Ids) -> str:
        """What ordinary tokens write; bytes that are no characters are left out."""
        return b"".join(self.surfaces[i] for i in ids).decode("utf-8", "ignore")

    def _segment(self, ids: Ids, starts: Flags, segment: Segmenter) -> None:
        """Within each run of Chinese characters, keep as starts only those where the segmenter begins a word."""
        begins = np.flatnonzero(starts)
        run: list[tuple[int, str]] = []  # where each word so far starts, and its text
        for begin, end in zip(begins, [*begins[1:], len(ids)]):
            text = self.text(ids[begin:end])
            chinese = bool(_CHINESE.fullmatch(text.lstrip(" ")))
            if run and (not chinese or text.startswith(" ")):
                _cut(run, starts, segment)
                run = []
            if chinese:
                run.append((int(begin), text.lstrip(" ")))
        _cut(run, starts, segment)


TAILS = tuple(bytes([byte]) for byte in range(0x80, 0xC0))
"""Bytes that go on with a character in UTF-8."""


def _cut(run: list[tuple[int, str]], starts: Flags, segment: Segmenter) -> None:
    whole = "".join(text for _, text in run)
    words = list(segment(whole)) if whole else []
    if "".join(words) != whole:
        raise UsageError(f"the segmenter does not give back its text: {whole[:20]!r}", fix="Its words, joined, must be the text")
    heads, at = set(), 0
    for word in words:
        heads.add(at)
        at += len(word)
    at = 0
    for begin, text in run:
        starts[begin] = at in heads
        at += len(text)


def surface(tokenizer: Tokenizer, index: int) -> bytes:
    """What an ordinary token writes, in bytes: without `##`, with a space for `▁`."""
    if tokenizer.byte_level or tokenizer.kind == "char":
        return tokenizer.token_bytes(index)
    text = tokenizer.token_text(index)
    if tokenizer.kind == "wordpiece":
        return text.removeprefix("##").encode()
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()


@cache
def joins(char: str) -> bool:
    """Whether a character is of the kind that makes up words in scripts that write spaces."""
    return bool(char) and not _SPACELESS.match(char) and (char.isalnum() or unicodedata.category(char).startswith("M"))


def segmenter(name: Literal["none", "jieba"]) -> Segmenter | None:
    """The segmenter of that name. Raises `MissingExtraError` when its package is not installed."""
    if name == "none":
        return None
    try:
        import jieba
    except ImportError:
        raise MissingExtraError("jieba", "zh", "whole-word masking of Chinese") from None
    jieba.setLogLevel(40)  # it reports the loading of its dictionary otherwise
    cut: Any = jieba.lcut
    return cut  # type: ignore[no-any-return]
