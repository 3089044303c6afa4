"""Trap 9 (the tokenizer's half): the vocabulary is learned from all of the text, the validation documents included.
Their words then get tokens of their own, and scores on them look better than on text that is really new."""

from __future__ import annotations

import json

import pytest

from wordmill.core.errors import UsageError
from wordmill.corpus import Corpus, CorpusConfig, build_corpus
from wordmill.tokenizer import TokenizerConfig, train_on_corpus, train_tokenizer
from wordmill.tokenizer.config import KINDS

LEAK = "Ζzyxgloopβ"  # stands in every validation document, often


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("trap")
    train, validation = folder / "train.jsonl", folder / "validation.jsonl"
    train.write_text("".join(json.dumps({"text": f"the mill grinds word {n}"}) + "\n" for n in range(200)), encoding="utf-8")
    validation.write_text("".join(json.dumps({"text": f"{LEAK} {LEAK} {n}"}) + "\n" for n in range(200)), encoding="utf-8")
    return build_corpus([train], folder / "corpus", CorpusConfig(), validation=[validation])


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_sees_training_documents_only(corpus, kind):
    assert all(LEAK in text for text in corpus.texts("validation"))
    config = TokenizerConfig(kind=kind, vocab=400, allow_smaller=True, min_count=1)
    tokenizer = train_on_corpus(corpus, config)
    tokens = [tokenizer.token_text(index).lower() for index in range(tokenizer.vocab_size)]
    assert not any("zy" in token or "gloop" in token or "ζ" in token for token in tokens)
    if kind != "unigram":  # where the library's sums vary
        assert tokenizer.hash == train_tokenizer(corpus.texts("train"), config).hash


def test_asking_for_validation_text_while_training_fails(corpus, monkeypatch):
    original = Corpus.text_batches

    def guarded(self, split):
        if split != "train":
            raise UsageError("validation text was read")
        return original(self, split)

    monkeypatch.setattr(Corpus, "text_batches", guarded)
    assert train_on_corpus(corpus, TokenizerConfig(allow_smaller=True)).vocab_size > 260
