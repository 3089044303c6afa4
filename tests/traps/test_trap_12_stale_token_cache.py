"""Trap 12: tokens encoded once are used again although the text, the tokenizer, the settings or the code have changed since.
The model then trains on something else than what its lineage says, and nothing looks wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from wordmill.batches import store as module
from wordmill.batches.store import encode_corpus
from wordmill.corpus import CorpusConfig, build_corpus
from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

TEXT = "the mill grinds the words of the mill"


@dataclass
class FakeCorpus:
    text: str = TEXT
    hash: str = "1"
    read: int = 0

    def bytes(self, split):
        return len(self.text)

    def text_batches(self, split):
        self.read += 1
        yield [self.text]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], TokenizerConfig(allow_smaller=True))


def test_nothing_changed_nothing_is_encoded(tokenizer, tmp_path):
    corpus = FakeCorpus()
    for _ in range(3):
        encode_corpus(corpus, tokenizer, tmp_path, splits=["train"])
    assert corpus.read == 1


@pytest.mark.parametrize("change", ["text", "tokenizer", "end token", "settings", "code"])
def test_any_change_encodes_again(tokenizer, tmp_path, monkeypatch, change):
    corpus = FakeCorpus()
    first = encode_corpus(corpus, tokenizer, tmp_path, splits=["train"])["train"]
    assert corpus.read == 1
    if change == "text":
        corpus.text, corpus.hash = "other words", "2"
    elif change == "tokenizer":
        tokenizer = train_tokenizer(["other words altogether"], TokenizerConfig(allow_smaller=True, min_count=1))
    elif change == "end token":
        tokenizer = Tokenizer(tokenizer._json, {**tokenizer.settings, "eos_token": "<|im_end|>"})
    elif change == "settings":
        monkeypatch.setattr(module, "_dtype", lambda _: np.dtype(np.uint32))
    else:
        monkeypatch.setattr(module, "code_version", lambda: "other code")
    second = encode_corpus(corpus, tokenizer, tmp_path, splits=["train"])["train"]
    assert corpus.read == 2
    assert second.folder != first.folder
    assert tokenizer.decode(second.document(0)) == corpus.text


def test_a_corpus_rebuilt_from_changed_text_is_encoded_again(tokenizer, tmp_path):
    """The same with a real corpus: one changed character changes its hash."""
    found = []
    for number, word in enumerate(("mill", "mills")):
        source = tmp_path / f"{number}.jsonl"
        source.write_text("".join(json.dumps({"text": f"the {word} {line} grinds"}) + "\n" for line in range(100)), encoding="utf-8")
        corpus = build_corpus([source], tmp_path / f"corpus{number}", CorpusConfig())
        store = encode_corpus(corpus, tokenizer, tmp_path / "cache", splits=["train"])["train"]
        assert [tokenizer.decode(store.document(index)) for index in range(store.n_docs)] == list(corpus.texts("train"))
        found.append(store.folder)
    assert found[0] != found[1]


def test_the_code_version_covers_the_code(monkeypatch):
    """Every file that ids come from, and the libraries behind them."""
    read = []
    original = module.Path.read_text
    monkeypatch.setattr(module.Path, "read_text", lambda path, **options: read.append(path.name) or original(path, **options))
    monkeypatch.setattr(module.metadata, "version", lambda name: read.append(name) or "0")
    assert module.code_version.__wrapped__() != module.code_version()
    assert {"store.py", "tokenizer.py", "fast.py", "patterns.py", "tokenizers", "tiktoken"} <= set(read)
