"""What training makes of a text, and what it refuses."""

from __future__ import annotations

import io

import pytest

from wordmill.core.errors import ConfigError, DataError
from wordmill.core.progress import Reporter
from wordmill.tokenizer import TokenizerConfig, suggest_vocab, train_on_corpus, train_tokenizer
from wordmill.tokenizer import train as module

WORDS = "mill miller milling grind grinds grinder word words wording stone stones water wheel".split()
TEXT = [" ".join(WORDS[start:] + WORDS[:start]) + ".\n" for start in range(len(WORDS))] * 4


def config(**values) -> TokenizerConfig:
    return TokenizerConfig.of({"vocab": 300, **values})


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "byte", "char"])
def test_the_vocabulary_has_the_size_asked_for(kind):
    size = {"wordpiece": 60, "unigram": 264}.get(kind, 300)
    tokenizer = train_tokenizer(TEXT, config(kind=kind, vocab=size, min_count=1))
    assert tokenizer.vocab_size == {"byte": 260, "char": 5 + len(set("".join(TEXT)))}.get(kind, size)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "byte", "char"])
def test_the_same_text_gives_the_same_tokenizer(kind):
    one, two = (train_tokenizer(TEXT, config(kind=kind, allow_smaller=True)) for _ in range(2))
    assert one.hash == two.hash


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_more_tokens_than_the_text_can_give_is_an_error_that_says_how_many(kind):
    with pytest.raises(DataError, match="not the 5,000 asked for") as caught:
        train_tokenizer(TEXT, config(kind=kind, vocab=5000))
    stream = io.StringIO()
    smaller = train_tokenizer(TEXT, config(kind=kind, vocab=5000, allow_smaller=True), reporter=Reporter(stream=stream))
    assert "going on with" in stream.getvalue()
    if kind != "unigram":  # where sums vary
        assert f"--vocab {smaller.vocab_size}" in str(caught.value)
        assert train_tokenizer(TEXT, config(kind=kind, vocab=smaller.vocab_size)).hash == smaller.hash


def test_no_room_no_text_and_contradictions():
    with pytest.raises(ConfigError, match="it needs 260"):
        train_tokenizer(TEXT, config(vocab=100))
    with pytest.raises(DataError, match="no text"):
        train_tokenizer([], config())
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(["", ""], config(kind="char"))
    with pytest.raises(ConfigError, match="lowercase is for wordpiece"):
        config(lowercase=True)
    with pytest.raises(ConfigError, match="extra_special"):
        config(extra_special=("<|pad|>",))
    with pytest.raises(ConfigError, match="Did you mean 'vocab'"):
        TokenizerConfig.of({"vocabs": 3})


def test_extra_special_tokens_and_the_mask():
    tokenizer = train_tokenizer(TEXT, config(extra_special=("<|mask|>", "<|x|>")))
    assert tokenizer.special_tokens["<|mask|>"] == tokenizer.mask_id == 4
    assert tokenizer.encode_with_special("<|x|>") == [5]


def test_lowercase_wordpiece():
    tokenizer = train_tokenizer(TEXT, config(kind="wordpiece", vocab=60, lowercase=True))
    assert tokenizer.encode("MILL") == tokenizer.encode("mill")


def test_a_char_vocabulary_keeps_the_most_frequent():
    tokenizer = train_tokenizer(["aaabbc"], config(kind="char", vocab=8))
    assert [tokenizer.token_id(char) for char in "abc"] == [5, 6, 7]
    assert train_tokenizer(["aaabbcd"], config(kind="char", vocab=8)).encode("d") == [4]


def test_the_vocabulary_follows_the_size_of_the_text():
    assert [suggest_vocab(n) for n in (10_000, 1_000_000, 11_000_000, 100_000_000, 2_000_000_000)] == [512, 2048, 8192, 16_384, 32_768]
    sizes = [suggest_vocab(10**power) for power in range(12)]
    assert sizes == sorted(sizes)
    assert train_tokenizer(TEXT * 5, config(vocab=None, allow_smaller=True, min_count=1)).vocab_size <= 512


def test_a_large_text_is_sampled_evenly_where_its_size_is_known():
    stream = io.StringIO()
    chunks = list(module._sample((f"{n:04}" for n in range(5000)), 4000, 20_000, Reporter(stream=stream)))
    assert 800 < len(chunks) < 1200
    assert int(chunks[0]) < 50
    assert int(chunks[-1]) > 4950
    assert "training on a sample: 4 kB of 20 kB" in stream.getvalue()
    assert chunks == list(module._sample((f"{n:04}" for n in range(5000)), 4000, 20_000, Reporter(quiet=True)))


def test_a_large_text_of_unknown_size_is_read_to_the_budget():
    stream = io.StringIO()
    read = iter([f"{n:04}" for n in range(5000)])
    assert len(list(module._sample(read, 4000, None, Reporter(stream=stream)))) == 1001
    assert "the first 4 kB" in stream.getvalue()


def test_long_texts_are_given_in_chunks_that_lose_nothing():
    text = "word and " * 20_000 + "x" * 120_000 + "\nend"
    chunks = list(module._chunks(text))
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= module.CHUNK


def test_a_corpus_is_read_once_and_only_its_training_part():
    class Corpus:
        asked: list[str] = []  # noqa: RUF012

        def bytes(self, split):
            return sum(map(len, TEXT))

        def texts(self, split):
            self.asked.append(split)
            return iter(TEXT)

    corpus = Corpus()
    train_on_corpus(corpus, config())
    assert corpus.asked == ["train"]
