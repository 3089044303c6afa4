"""Where words begin, for every kind of tokenizer and for scripts without spaces."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from tests.conftest import TEXT
from wordmill.batches.vocabulary import SENTINEL, Vocabulary, segmenter
from wordmill.core.errors import MissingExtraError, UsageError
from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer


def _words(tokenizer, text, segment=None):
    vocabulary = Vocabulary.of(tokenizer)
    ids = np.array(tokenizer.encode(text))
    parts = np.split(ids, np.flatnonzero(vocabulary.word_starts(ids, segment))[1:])
    return [word for word in (vocabulary.text(part).strip(" ") for part in parts) if word]


def _metaspace() -> Tokenizer:
    """As SentencePiece models are: `▁` for a space, bytes where a character is missing."""
    pieces = ["</s>", "▁", "▁mill", "▁the", "er", "gr", "ind", ",", "▁(", *(f"<0x{i:02X}>" for i in range(256)), "磨", "坊"]
    backend = Backend(models.Unigram([(piece, -1.0 - i / 100) for i, piece in enumerate(pieces)], 0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend.to_str(), {"eos_token": "</s>"})


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "char", "byte"])
def test_words_of_text_with_spaces(kind):
    tokenizer = train_tokenizer([TEXT] * 4, TokenizerConfig(kind=kind, vocab=305, allow_smaller=True))
    found = _words(tokenizer, "The millers never grind, déjà vu; мельница молчит 1234")
    expected = ["The", "millers", "never", "grind", ",", "déjà", "vu", ";", "мельница", "молчит", "1234"]
    if kind in ("wordpiece", "char"):  # what these have not seen is unknown
        found, expected = found[:6], expected[:6]
    assert found == expected


def test_words_of_a_sentencepiece_tokenizer():
    tokenizer = _metaspace()
    assert len(tokenizer.encode("the miller, grinder")) > 6
    assert _words(tokenizer, "the miller, grinder") == ["the", "miller", ",", "grinder"]
    assert _words(tokenizer, "磨坊the é!") == ["磨", "坊", "the", "é", "!"]


def _segment(text):
    """磨坊 and 河水 are words."""
    found = []
    while text:
        n = 2 if text[:2] in ("磨坊", "河水") else 1
        found.append(text[:n])
        text = text[n:]
    return found


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "byte"])
def test_chinese_words_need_a_segmenter(kind):
    tokenizer = train_tokenizer([TEXT] * 4, TokenizerConfig(kind=kind, vocab=260, allow_smaller=True))
    assert _words(tokenizer, "磨坊，河水从") == ["磨", "坊", "，", "河", "水", "从"]
    assert _words(tokenizer, "磨坊，河水从", _segment) == ["磨坊", "，", "河水", "从"]
    assert _words(tokenizer, "the mill 磨坊 the", _segment) == ["the", "mill", "磨坊", "the"]
    with pytest.raises(UsageError, match="does not give back"):
        _words(tokenizer, "磨坊", lambda text: ["磨"])


def test_a_segmenter_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert segmenter("none") is None
    with pytest.raises(MissingExtraError, match=r"Chinese needs the package 'jieba'.*pip install 'wordmill\[zh\]'"):
        segmenter("jieba")


def test_sentinels_are_in_their_own_order_and_text_has_none():
    names = [SENTINEL.format(n) for n in (2, 0, 1, 4)]
    tokenizer = train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400, extra_special=tuple(names)))
    vocabulary = Vocabulary.of(tokenizer)
    assert [tokenizer.decode([i], skip_special=False) for i in vocabulary.sentinels] == [SENTINEL.format(n) for n in range(3)]
    assert vocabulary.special[vocabulary.sentinels].all()
    ids = tokenizer.encode("<extra_id_0> a")
    assert not vocabulary.special[ids].any()


def test_sentence_ends():
    tokenizer = train_tokenizer([TEXT] * 4, TokenizerConfig(kind="char"))
    vocabulary = Vocabulary.of(tokenizer)
    ids = np.array(tokenizer.encode("One. 二。 three, (x)\n"))
    assert "".join("|" if vocabulary.ends_sentence[i] else "-" for i in ids) == "---|--|-----------|"
