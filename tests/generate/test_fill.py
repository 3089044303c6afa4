from __future__ import annotations

import math

import pytest
import torch

from tests.conftest import TEXT
from tests.models.reference import transformers
from wordmill.core.errors import ModelError, UsageError
from wordmill.generate import Loaded
from wordmill.generate.fill import decoder_start
from wordmill.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT] * 4, TokenizerConfig(kind="wordpiece", vocab=160))


@pytest.fixture(scope="module")
def denoising():
    return train_tokenizer([TEXT] * 4, TokenizerConfig(kind="unigram", vocab=380, purpose="denoising", allow_smaller=True))


@pytest.fixture
def encoder(make_model, tokenizer):
    return Loaded(make_model("bert", vocab_size=tokenizer.vocab_size), tokenizer)


def test_words_and_probabilities_are_those_of_transformers(encoder, tmp_path):
    encoder.save(tmp_path)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the [MASK] stands by the [MASK]."
    read = theirs(text, return_tensors="pt")
    with torch.no_grad():
        shares = model(**read).logits[0].softmax(-1)
    places = (read["input_ids"][0] == theirs.mask_token_id).nonzero()[:, 0].tolist()
    special = set(theirs.all_special_ids)
    found = encoder.fill(text, top=7)
    assert len(found.masks) == len(places) == 2
    for gap, place in zip(found.masks, places):
        ranked = [i for i in shares[place].argsort(descending=True).tolist() if i not in special][:7]
        assert [candidate.ids for candidate in gap] == [(i,) for i in ranked]
        assert [candidate.word for candidate in gap] == theirs.convert_ids_to_tokens(ranked)
        assert [candidate.probability for candidate in gap] == pytest.approx(shares[place][ranked].tolist(), abs=1e-6)


def test_a_gap_has_several_names_and_other_special_tokens_stay_text(make_model):
    tokenizer = train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400, purpose="masked"))
    loaded = Loaded(make_model("modernbert", vocab_size=tokenizer.vocab_size), tokenizer)
    own = tokenizer.token_text(tokenizer.mask_id)
    other = train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400, extra_special=("<|mask|>",)))
    masked = Loaded(make_model("modernbert", vocab_size=other.vocab_size), other)
    assert masked.fill("The [MASK] stands").masks == masked.fill("The <|mask|> stands").masks
    assert len(loaded.fill(f"The {own} stands [MASK]").masks) == 2
    # The space before a gap belongs to the word that is missing.
    assert tokenizer.encode_masked(f"The {own} stands") == [*tokenizer.encode("The"), tokenizer.mask_id, *tokenizer.encode(" stands")]
    for typed in (tokenizer.token_text(tokenizer.eos_id), tokenizer.token_text(tokenizer.pad_id)):
        assert tokenizer.encode_masked(f"a{typed}b") == tokenizer.encode(f"a{typed}b")


def test_t5_writes_spans_with_their_probabilities(make_model, denoising):
    loaded = Loaded(make_model("t5", vocab_size=denoising.vocab_size, decoder_start_id=denoising.pad_id), denoising)
    found = loaded.fill("The [MASK] stands by the [MASK].", top=3)
    assert found.masks == loaded.fill("The <extra_id_0> stands by the <extra_id_1>.", top=3).masks
    first, second = found.masks
    assert 0 < len(first) <= 3 and 0 < len(second) <= 3
    assert [c.probability for c in first] == sorted((c.probability for c in first), reverse=True)
    # The probability of the best span: its tokens and what ends it, one after the other.
    model, start = loaded.model, decoder_start(loaded.model, "")
    sentinels = denoising.sentinel_ids
    source = denoising.wrap(denoising.encode_masked("The <extra_id_0> stands by the <extra_id_1>.")).ids
    assert [id_ for id_ in source if id_ in sentinels] == list(sentinels[:2])
    with torch.no_grad():
        written = [start, sentinels[0], *first[0].ids]
        hidden, _ = model(torch.tensor([written]), memory=model.encode(torch.tensor([source])))
        steps = model.logits(hidden)[0, 1:].log_softmax(-1)
    total = float(steps[torch.arange(len(first[0].ids)), torch.tensor(first[0].ids, dtype=torch.long)].sum())
    ends = steps[len(first[0].ids)][[*sentinels, denoising.eos_id]].tolist()
    reachable = [math.exp(total), *(math.exp(total + end) for end in ends)]  # at its longest, a span ends without an end
    assert min(abs(first[0].probability - value) for value in reachable) < 1e-6


def test_bart_scores_the_place_of_its_mask(make_model, tokenizer):
    loaded = Loaded(make_model("bart", vocab_size=tokenizer.vocab_size, decoder_start_id=tokenizer.eos_id), tokenizer)
    (gap,) = loaded.fill("the [MASK] stands", top=4).masks
    assert len(gap) == 4
    ids = tokenizer.wrap(tokenizer.encode_masked("the [MASK] stands")).ids
    with torch.no_grad():
        memory = loaded.model.encode(torch.tensor([ids]))
        hidden, _ = loaded.model(torch.tensor([[tokenizer.eos_id, *ids[:-1]]]), memory=memory)
        share = loaded.model.logits(hidden)[0, ids.index(tokenizer.mask_id)].softmax(-1)
    assert gap[0].probability == pytest.approx(float(share[gap[0].ids[0]]), abs=1e-6)


def test_what_can_not_be_filled_is_refused(make_model, make_loaded, encoder, tokenizer, denoising):
    bare = Loaded(make_model("bert", vocab_size=tokenizer.vocab_size, lm_head=False), tokenizer)
    without = Loaded(make_model("bert", vocab_size=400), train_tokenizer([TEXT], TokenizerConfig(kind="byte")))
    spans = Loaded(make_model("t5", vocab_size=denoising.vocab_size), denoising)
    many = "[MASK] " * (len(denoising.sentinel_ids) + 1)
    for call, kind, part in [
        (lambda: encoder.fill("no gap here"), UsageError, "no gap"), (lambda: encoder.fill("[MASK]", top=0), UsageError, "top"),
        (lambda: encoder.fill("[MASK] " * 600), UsageError, "512 positions"),
        (lambda: make_loaded().fill("[MASK]"), UsageError, "one way only"),
        (lambda: make_loaded("lstm").fill("[MASK]"), UsageError, "one way only"),
        (lambda: bare.fill("[MASK]"), UsageError, "no output layer"),
        (lambda: without.fill("[MASK]"), ModelError, "no mask token"), (lambda: spans.fill(many), UsageError, "sentinels for"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=part):
            call()
