from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import TEXT
from wordmill.batches.vocabulary import Vocabulary
from wordmill.core.errors import ModelError, UsageError
from wordmill.generate.pseudo import cut, hidden_copies, masked_context, pseudo_log_likelihood, score_stretches
from wordmill.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT] * 4, TokenizerConfig(kind="wordpiece", vocab=160))


@pytest.fixture
def documents(tokenizer):
    texts = ["the miller stands", "grain", "", "The mill stands by the river, and the river never asks where the grain came from."]
    return [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]


@torch.no_grad()
def _naive(model, tokenizer, ids, within_word):
    """One forward pass for each token, whose word is found from the `##` of its tokens."""
    total, names = 0.0, [tokenizer.token_text(i) for i in ids]
    for place in range(1, len(ids) - 1):
        shown = list(ids)
        shown[place] = tokenizer.mask_id
        after = place + 1
        while within_word and names[after].startswith("##"):
            shown[after] = tokenizer.mask_id
            after += 1
        hidden, _ = model(torch.tensor([shown]))
        total -= float(model.logits(hidden)[0, place].log_softmax(-1)[ids[place]])
    return total


@pytest.mark.parametrize("within_word", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 50, 9999])
def test_each_token_is_hidden_once_whatever_the_batch(make_model, tokenizer, documents, within_word, batch_tokens):
    model = make_model("gpt2", vocab_size=tokenizer.vocab_size, causal=False, max_positions=80).double().train()
    model.config = model.config.replace(dropout=0.0)
    vocabulary = Vocabulary.of(tokenizer)
    assert any(tokenizer.token_text(i).startswith("##") for ids in documents for i in ids)
    found = list(pseudo_log_likelihood(model, documents, vocabulary, within_word=within_word, batch_tokens=batch_tokens))
    assert [score.tokens for score in found] == [len(ids) - 2 for ids in documents]
    expected = [_naive(model, tokenizer, ids, within_word) for ids in documents]
    assert [score.nats for score in found] == pytest.approx(expected, rel=1e-9)
    assert model.training


def test_long_documents_are_scored_in_stretches_that_begin_with_words(make_model, tokenizer, documents):
    model = make_model("gpt2", vocab_size=tokenizer.vocab_size, causal=False, max_positions=80).double()
    vocabulary, size = Vocabulary.of(tokenizer), 12
    found = list(score_stretches(model, documents, vocabulary, context=size, batch_tokens=50))
    assert [score.tokens for score in found] == [len(ids) - 2 for ids in documents]
    for ids, score in zip(documents, found):
        parts = list(cut(ids[1:-1], size - 2, vocabulary))
        assert [id_ for part in parts for id_ in part] == ids[1:-1]
        assert all(len(part) <= size - 2 and not tokenizer.token_text(part[0]).startswith("##") for part in parts if part)
        each = list(pseudo_log_likelihood(model, [[ids[0], *part, ids[-1]] for part in parts], vocabulary))
        assert score.nats == pytest.approx(sum(one.nats for one in each), rel=1e-9)
    assert len(list(cut(documents[-1][1:-1], size - 2, vocabulary))) > 2
    assert masked_context(model, None) == 80 and masked_context(model, 16) == 16
    for wrong in (2, 81):
        with pytest.raises(UsageError, match="80 positions"):
            masked_context(model, wrong)


def test_special_tokens_are_shown_and_not_scored():
    copies = list(hidden_copies(0, [2, 10, 11, 1, 12, 3], {1, 2, 3}, np.array([1, 1, 0, 1, 0, 1], bool)))
    assert [(copy.place, copy.end) for copy in copies] == [(1, 3), (2, 3), (4, 5)]
    assert [(copy.place, copy.end) for copy in hidden_copies(0, [2, 10, 11, 3], {2, 3}, None)] == [(1, 2), (2, 3)]


def test_what_cannot_be_scored_is_refused(make_model, tokenizer, documents):
    vocabulary = Vocabulary.of(tokenizer)
    model = make_model("qwen3", vocab_size=tokenizer.vocab_size, causal=False, max_positions=20)
    with pytest.raises(UsageError, match="20 positions"):
        list(pseudo_log_likelihood(model, documents, vocabulary))
    with pytest.raises(UsageError, match="for masked models"):
        pseudo_log_likelihood(make_model("qwen3"), documents, vocabulary)
    with pytest.raises(ModelError, match="no mask token"):
        pseudo_log_likelihood(model, documents, Vocabulary.of(train_tokenizer([TEXT], TokenizerConfig(kind="byte"))))
