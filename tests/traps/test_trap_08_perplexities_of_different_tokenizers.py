"""A perplexity is a cost per token, so a model with longer tokens looks worse than it is, and published comparisons were up to 21.6 % off.
Here bits per byte is the headline, and comparing perplexities per token across tokenizers is refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wordmill.core.errors import UsageError
from wordmill.evaluate import compare, evaluate_text
from wordmill.generate import Loaded

TEXTS = ["The mill stands by the river.", "磨坊在河边。"]


@pytest.fixture
def found(make_model, tiny_tokenizer):
    from wordmill.tokenizer import TokenizerConfig, train_tokenizer

    plain = train_tokenizer(TEXTS, TokenizerConfig(kind="byte"))
    return {
        name: evaluate_text(Loaded(make_model(vocab_size=tokenizer.vocab_size), tokenizer), TEXTS)
        for name, tokenizer in (("bpe", tiny_tokenizer), ("byte", plain))
    }


def test_perplexities_per_token_are_not_compared_across_tokenizers(found):
    assert found["bpe"].tokens != found["byte"].tokens
    with pytest.raises(UsageError, match=r"different tokenizers.*bits_per_byte"):
        compare(found, by="perplexity_per_token")


def test_bits_per_byte_are_compared_and_come_first(found):
    assert [name for name, _ in compare(found)] == sorted(found, key=lambda name: found[name].bits_per_byte)
    for one in found.values():
        assert one.text().splitlines()[0].startswith("bits per byte")
        assert next(iter(one.plain())) == "bits_per_byte"


def test_with_one_tokenizer_perplexities_are_compared(found):
    better = replace(found["bpe"], nats=found["bpe"].nats / 2)
    ranked = compare({"a": found["bpe"], "b": better}, by="perplexity_per_token")
    assert [name for name, _ in ranked] == ["b", "a"]


def test_pseudo_likelihoods_are_compared_with_nothing_else(found):
    with pytest.raises(UsageError, match="can't be compared with likelihoods"):
        compare({"a": found["bpe"], "b": replace(found["bpe"], pseudo=True)})
    with pytest.raises(UsageError, match="what is hidden at a time"):
        compare({name: replace(one, pseudo=True) for name, one in found.items()})


def test_numbers_on_different_texts_are_not_compared(found):
    with pytest.raises(UsageError, match="same text"):
        compare({"a": found["bpe"], "b": replace(found["bpe"], bytes=7)})
