"""A masked model learns less when a hidden token can still be seen or the rates are not those that were asked for, and its loss only looks
better. Over many draws the rates match their definition, special tokens are never chosen, whole words are chosen whole, and what was
hidden is not in the input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.conftest import TEXT
from wordmill.batches.batch import IGNORE
from wordmill.batches.corrupt import MaskConfig, mask
from wordmill.batches.corrupted import MaskedRows
from wordmill.batches.pieces import row_generator
from wordmill.batches.store import TokenStore
from wordmill.batches.vocabulary import Vocabulary
from wordmill.tokenizer import TokenizerConfig, train_tokenizer

KINDS = {
    "wordpiece": TokenizerConfig(kind="wordpiece", vocab=160),
    "bpe": TokenizerConfig(vocab=400, extra_special=("<|mask|>",)),
}
DRAWS = 2000


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return train_tokenizer([TEXT] * 4, KINDS[request.param])


@pytest.fixture
def vocabulary(tokenizer):
    return Vocabulary.of(tokenizer)


def _within(found: int, n: int, p: float) -> bool:
    """Whether so many of n draws are what a chance of p gives: five standard deviations, which at fixed seeds is no matter of luck."""
    return abs(found - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1


def _draws(ids, starts, config, vocabulary):
    for seed in range(DRAWS):
        yield mask(ids, starts, config, vocabulary, row_generator(7, seed))


@pytest.mark.parametrize(
    "config", [MaskConfig(), MaskConfig(rate=0.3), MaskConfig(rate=0.07, mask_share=0.5, random_share=0.3), MaskConfig(random_share=0.2)]
)
@pytest.mark.parametrize("length", [1, 3, 57])
def test_rates_are_those_of_the_definition(tokenizer, vocabulary, config, length):
    """Also of pieces so short that 15 % is less than a token: rounding favours neither side. Every place is as likely as any other."""
    ids = np.array(tokenizer.encode(TEXT))[:length]
    chosen = masked = other = kept = 0
    places = np.zeros(length, np.int64)
    for shown, targets in _draws(ids, None, config, vocabulary):
        here = targets != IGNORE
        places += here
        chosen += int(here.sum())
        masked += int((shown[here] == vocabulary.mask).sum())
        other += int(((shown[here] != vocabulary.mask) & (shown[here] != ids[here])).sum())
        kept += int((shown[here] == ids[here]).sum())
    assert _within(chosen, DRAWS * length, config.rate)
    assert all(_within(int(count), DRAWS, config.rate) for count in places)
    lucky = config.random_share / len(vocabulary.ordinary)  # a random token may be the one that was there
    assert _within(masked, chosen, config.mask_share)
    assert _within(other, chosen, config.random_share - lucky)
    assert _within(kept, chosen, 1 - config.mask_share - config.random_share + lucky)


def test_what_is_not_chosen_is_shown_as_it_is_and_what_is_chosen_is_hidden(tokenizer, vocabulary):
    ids = np.array(tokenizer.encode(TEXT))
    config = MaskConfig(mask_share=1.0, random_share=0.0)
    for shown, targets in _draws(ids[:40], None, config, vocabulary):
        here = targets != IGNORE
        assert (targets[here] == ids[:40][here]).all() and (shown[~here] == ids[:40][~here]).all()
        assert (shown[here] == vocabulary.mask).all(), "with nothing kept, no hidden token can be read from the input"


def test_special_tokens_are_neither_chosen_nor_drawn(tokenizer, vocabulary):
    """Some stand in the middle of the text here, as an unknown token may."""
    special = np.flatnonzero(vocabulary.special)
    ids = np.array(tokenizer.encode(TEXT))[:30]
    ids[[0, 7, 8, 29]] = np.resize(special, 4)
    where = vocabulary.special[ids]
    assert not vocabulary.special[vocabulary.ordinary].any()
    for whole_word in (False, True):
        config = MaskConfig(rate=0.5, mask_share=0.1, random_share=0.9, whole_word=whole_word)
        seen = set()
        for shown, targets in _draws(ids, vocabulary.word_starts(ids) if whole_word else None, config, vocabulary):
            assert (targets[where] == IGNORE).all() and (shown[where] == ids[where]).all()
            drawn = shown[(targets != IGNORE) & (shown != vocabulary.mask)]
            assert not vocabulary.special[drawn].any()
            seen |= set(drawn.tolist())
        assert seen == set(vocabulary.ordinary.tolist()), "every token of text is drawn"


def test_whole_words_are_chosen_whole_and_at_the_rate(tokenizer, vocabulary):
    ids = np.array(tokenizer.encode(TEXT))
    starts = vocabulary.word_starts(ids)
    word = np.cumsum(starts) - 1
    assert np.bincount(word).max() > 2, "some words have several tokens"
    counts = np.zeros(len(ids), np.int64)
    for _, targets in _draws(ids, starts, MaskConfig(whole_word=True), vocabulary):
        here = targets != IGNORE
        per_word = np.bincount(word, here)
        assert ((per_word == 0) | (per_word == np.bincount(word))).all()
        counts += here
    assert all(_within(int(count), DRAWS, 0.15) for count in counts), "long words as often as short ones"


def _store(tokenizer, folder) -> TokenStore:
    documents = [tokenizer.encode(line) for line in TEXT.splitlines()] + [[]]
    flat = [tokenizer.eos_id, *(i for d in documents for i in (*d, tokenizer.eos_id))]
    offsets = np.cumsum([0, *(len(d) + 1 for d in documents)])
    return TokenStore(folder, np.array(flat, np.uint16), offsets, np.ones(len(documents), np.int64))


@pytest.mark.parametrize("whole_word", [False, True])
def test_rows_show_the_text_but_for_what_is_hidden(tokenizer, vocabulary, tmp_path, whole_word):
    """With targets put back, the rows of an epoch hold each document's tokens once, every piece between bos and eos; epochs hide anew."""
    store = _store(tokenizer, tmp_path)
    rows = MaskedRows(store, 16, 4, 3, vocabulary, MaskConfig(rate=0.3, whole_word=whole_word))
    text, hidden = [], []
    for step in range(-(-rows.rows_per_epoch // rows.rows)):
        batch = rows.batch(step, 0, min(rows.rows, rows.rows_per_epoch - step * rows.rows))
        ids, targets, positions = (x.numpy() for x in (batch.input_ids, batch.targets, batch.positions))
        assert ids.shape[1] == 16
        whole = np.where(targets != IGNORE, targets, ids)
        real = positions >= 0
        ends = np.roll(np.where(real, positions, 0), -1, axis=1) == 0
        assert (whole[real & (positions == 0)] == vocabulary.bos).all() and (whole[real & ends] == vocabulary.eos).all()
        assert (targets[~real | (positions == 0) | ends] == IGNORE).all()
        text += whole[real & (positions > 0) & ~ends].tolist()
        hidden.append(targets[targets != IGNORE].tolist())
    expected = [i for n in range(store.n_docs) for i in store.document(n).tolist()]
    assert sorted(text) == sorted(expected)
    assert _within(sum(map(len, hidden)), len(expected), 0.3)
    again = [rows.batch(0).targets.tolist(), rows.batch(-(-rows.rows_per_epoch // rows.rows)).targets.tolist()]
    assert again[0] == rows.batch(0).targets.tolist() != again[1]
