"""Token stores: layout, cache, torn files, interrupted writing."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from wordmill.batches import store as module
from wordmill.batches.store import TokenStore, encode_corpus
from wordmill.core.errors import DataError, DiskFullError, ModelError
from wordmill.core.progress import Reporter
from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer


@dataclass
class FakeCorpus:
    train: list[str]
    validation: list[str] = field(default_factory=lambda: ["held out"])
    hash: str = "abc"
    read: int = 0

    def bytes(self, split):
        return sum(len(text.encode()) for text in getattr(self, split))

    def text_batches(self, split):
        self.read += 1
        texts = getattr(self, split)
        yield from (texts[start : start + 3] for start in range(0, len(texts), 3))


TEXTS = ["The mill grinds.", "", "磨坊把词语磨成模型。", "x" * 30, "<|endoftext|>", "\n", "end"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(kind="bpe", allow_smaller=True))


def test_documents_stand_between_ends(tokenizer, tmp_path):
    stores = encode_corpus(FakeCorpus(TEXTS), tokenizer, tmp_path)
    assert set(stores) == {"train", "validation"}
    store = stores["train"]
    expected = [tokenizer.eos_id]
    for text in TEXTS:
        expected += [*tokenizer.encode(text), tokenizer.eos_id]
    assert store.tokens.tolist() == expected
    assert (store.n_tokens, store.n_docs, store.dtype) == (len(expected) - 1, len(TEXTS), np.uint16)
    assert store.doc_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    for index, text in enumerate(TEXTS):
        inputs = store.tokens[store.offsets[index] : store.offsets[index + 1]].tolist()
        targets = store.tokens[store.offsets[index] + 1 : store.offsets[index + 1] + 1].tolist()
        assert inputs == [tokenizer.eos_id, *tokenizer.encode(text)]
        assert targets == [*tokenizer.encode(text), tokenizer.eos_id]
        assert store.document(index).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_order_of_documents_does_not_depend_on_threads(tokenizer, tmp_path, monkeypatch, threads):
    monkeypatch.setattr(module, "GROUP_BYTES", 40)
    texts = [f"document {number} " + "y" * (number % 50) for number in range(300)]
    store = encode_corpus(FakeCorpus(texts), tokenizer, tmp_path, splits=["train"], threads=threads)["train"]
    assert [tokenizer.decode(store.document(index)) for index in range(300)] == texts


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "byte", "char"])
def test_every_kind_can_be_stored(tmp_path, kind):
    tokenizer = train_tokenizer(TEXTS * 3, TokenizerConfig(kind=kind, allow_smaller=True, vocab=400))
    store = encode_corpus(FakeCorpus(TEXTS), tokenizer, tmp_path, splits=["train"])["train"]
    assert [store.document(index).tolist() for index in range(len(TEXTS))] == tokenizer.encode_batch(TEXTS)


def test_a_large_vocabulary_takes_32_bits(tokenizer, tmp_path, monkeypatch):
    large = Tokenizer(tokenizer._json, tokenizer.settings)
    monkeypatch.setitem(vars(large), "vocab_size", 2**16 + 1)
    assert encode_corpus(FakeCorpus(TEXTS), large, tmp_path)["train"].dtype == np.uint32


def test_no_documents_make_an_empty_store(tokenizer, tmp_path):
    store = encode_corpus(FakeCorpus([], validation=[]), tokenizer, tmp_path)["validation"]
    assert (store.n_tokens, store.n_docs, store.tokens.tolist(), store.offsets.tolist()) == (0, 0, [tokenizer.eos_id], [0])


def test_a_second_call_reads_what_is_there(tokenizer, tmp_path):
    corpus = FakeCorpus(TEXTS)
    first = encode_corpus(corpus, tokenizer, tmp_path)["train"]
    second = encode_corpus(corpus, tokenizer, tmp_path)["train"]
    assert corpus.read == 2  # one reading a split
    assert np.array_equal(first.tokens, second.tokens)


@pytest.mark.parametrize("tear", ["tokens", "offsets", "bytes", "index", "index-keys", "offsets-values"])
def test_a_torn_store_is_made_again_with_a_note(tokenizer, tmp_path, tear):
    corpus = FakeCorpus(TEXTS)
    store = encode_corpus(corpus, tokenizer, tmp_path, splits=["train"])["train"]
    before = store.tokens.tolist()
    if tear == "index":
        (store.folder / "index.json").write_text('{"split', encoding="utf-8")
    elif tear == "index-keys":
        (store.folder / "index.json").write_text(json.dumps({"split": "train", "n_docs": "many"}), encoding="utf-8")
    elif tear == "offsets-values":
        np.arange(len(TEXTS) + 1, dtype=np.int64).tofile(store.folder / "offsets-train.bin")
    else:
        with open(store.folder / f"{tear}-train.bin", "rb+") as file:
            file.truncate(10)
    with pytest.raises(DataError):
        TokenStore.open(store.folder)
    stream = io.StringIO()
    again = encode_corpus(corpus, tokenizer, tmp_path, splits=["train"], reporter=Reporter(stream=stream))["train"]
    assert again.tokens.tolist() == before
    assert "encoding again" in stream.getvalue()


def test_what_a_dead_process_left_is_no_store_and_is_swept(tokenizer, tmp_path):
    left = tmp_path / ".train-0000.abc.999999999.part"
    left.mkdir()
    other = tmp_path / ".train-0000.abc.1.part"
    other.mkdir()
    encode_corpus(FakeCorpus(TEXTS), tokenizer, tmp_path)
    assert not left.exists()
    assert other.exists()  # its process lives


def test_an_error_leaves_nothing_behind(tokenizer, tmp_path, monkeypatch):
    corpus = FakeCorpus(TEXTS)
    monkeypatch.setattr(module, "_encode_group", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskFullError, match="encoding train"):
        encode_corpus(corpus, tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_at_a_time_end_with_one_store(tokenizer, tmp_path, monkeypatch):
    corpus, original = FakeCorpus(TEXTS), module._write

    def slower(*arguments):
        original(*arguments)
        monkeypatch.setattr(module, "_write", original)
        encode_corpus(corpus, tokenizer, tmp_path, splits=["train"])  # the other one is done first

    monkeypatch.setattr(module, "_write", slower)
    store = encode_corpus(corpus, tokenizer, tmp_path, splits=["train"])["train"]
    assert [path.name for path in tmp_path.iterdir()] == [store.folder.name]


def test_a_tokenizer_without_an_end_is_refused(tokenizer, tmp_path):
    bare = Tokenizer(tokenizer._json, {"pad_token": "<|pad|>"})
    with pytest.raises(ModelError, match="no eos token"):
        encode_corpus(FakeCorpus(TEXTS), bare, tmp_path)


def test_speed_and_counts_are_noted(tokenizer, tmp_path):
    stream = io.StringIO()
    encode_corpus(FakeCorpus(TEXTS), tokenizer, tmp_path, reporter=Reporter(stream=stream))
    assert "train: " in stream.getvalue()
    assert "MB/s" in stream.getvalue()
    assert "bytes per token" in stream.getvalue()


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module.default_cache() == tmp_path / "wordmill" / "tokens"


def test_a_real_corpus(tokenizer, tmp_path):
    corpus_package = pytest.importorskip("wordmill.corpus")
    source = tmp_path / "texts.jsonl"
    texts = [f"Document {number} grinds {number * 7} words; 磨坊 {number}." for number in range(200)]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    corpus = corpus_package.build_corpus([source], tmp_path / "corpus", corpus_package.CorpusConfig())
    stores = encode_corpus(corpus, tokenizer, tmp_path / "cache")
    for split, store in stores.items():
        assert [tokenizer.decode(store.document(index)) for index in range(store.n_docs)] == list(corpus.texts(split))
        assert int(store.doc_bytes.sum()) == corpus.bytes(split)
