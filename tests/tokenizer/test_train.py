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


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "byte", "char"])
def test_for_masked_models(kind, tmp_path):
    auto = pytest.importorskip("transformers").AutoTokenizer
    ours = train_tokenizer(TEXT, config(kind=kind, purpose="masked", allow_smaller=True))
    assert (ours.pad_id, ours.bos_id, ours.eos_id) == (0, ours.cls_id, ours.sep_id)
    names = ["[PAD]", *(["[UNK]"] if kind in ("wordpiece", "char") else []), "[CLS]", "[SEP]", "[MASK]"]
    assert list(ours.special_tokens) == names
    opened = auto.from_pretrained(ours.save(tmp_path))
    for role in ("pad", "cls", "sep", "mask"):
        assert getattr(opened, f"{role}_token_id") == getattr(ours, f"{role}_id") is not None
    first, second = ours.encode("mill grinds"), ours.encode("water wheel.")
    assert opened("mill grinds")["input_ids"] == ours.wrap(first).ids == [ours.cls_id, *first, ours.sep_id]
    pair = opened("mill grinds", "water wheel.", return_token_type_ids=True)
    assert ours.wrap(first, second) == (pair["input_ids"], pair["token_type_ids"])
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert ("token_type_ids" in opened("x")) == (kind == "wordpiece")
    masked = ours.encode_with_special("mill [MASK] wheel")
    assert masked == opened("mill [MASK] wheel", add_special_tokens=False)["input_ids"]
    if kind in ("bpe", "unigram"):  # the mask stands for a word with the space before it
        assert masked == [*ours.encode("mill"), ours.mask_id, *ours.encode(" wheel")]
    assert ours.mask_id not in ours.encode("mill [MASK] wheel")


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "byte", "char"])
def test_for_denoising_models(kind, tmp_path):
    auto = pytest.importorskip("transformers").AutoTokenizer
    ours = train_tokenizer(TEXT, config(kind=kind, purpose="denoising", sentinels=7, allow_smaller=True))
    assert len(ours.sentinel_ids) == 7
    assert ours.sentinel_ids == tuple(range(ours.sentinel_ids[0], ours.sentinel_ids[0] + 7))
    assert [ours.token_text(index) for index in ours.sentinel_ids[:2]] == ["<extra_id_0>", "<extra_id_1>"]
    opened = auto.from_pretrained(ours.save(tmp_path))
    for role in ("pad", "eos", "mask"):
        assert getattr(opened, f"{role}_token_id") == getattr(ours, f"{role}_id") is not None
    assert list(opened.extra_special_tokens) == [f"<extra_id_{n}>" for n in range(7)]
    assert len(opened) == len(ours)
    first, second = ours.encode("mill grinds"), ours.encode("water wheel.")
    assert opened("mill grinds")["input_ids"] == ours.wrap(first).ids == [*first, ours.eos_id]
    pair = opened("mill grinds", "water wheel.", return_token_type_ids=True)
    assert ours.wrap(first, second) == (pair["input_ids"], pair["token_type_ids"])
    assert pair["input_ids"] == [*first, ours.eos_id, *second, ours.eos_id]
    text = "mill <extra_id_0> grinds <extra_id_6>"
    assert ours.encode_with_special(text) == opened(text, add_special_tokens=False)["input_ids"]
    assert not set(ours.sentinel_ids) & set(ours.encode(text))


def test_sentinels_are_a_hundred_unless_said():
    assert len(train_tokenizer(TEXT, config(kind="byte", purpose="denoising")).sentinel_ids) == 100
    assert train_tokenizer(TEXT, config(kind="byte")).sentinel_ids == ()
    with pytest.raises(ConfigError, match="sentinels are for denoising; a masked tokenizer has none"):
        config(purpose="masked", sentinels=3)
    with pytest.raises(ConfigError, match="it needs 359"):
        train_tokenizer(TEXT, config(purpose="denoising", vocab=300))
    with pytest.raises(ConfigError, match="extra_special"):
        config(purpose="denoising", extra_special=("<extra_id_3>",))
    assert config(purpose="masked", extra_special=("<|pad|>",)).special == ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "<|pad|>")


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
