"""No text gives the id of a special token, also where the model's vocabulary holds it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from wordmill.tokenizer import Tokenizer
from wordmill.tokenizer.plain import without_special

CHARACTERS = [*"<>/smak [MASK]", "</", "s>", "ma", "</s>", "<mask>", "[MASK]"]
VOCAB = list(dict.fromkeys(["<unk>", "</s>", "<mask>", "[MASK]", *CHARACTERS[:-3]]))
SPECIAL = ("<unk>", "</s>", "<mask>", "[MASK]")
PAIRS = [("<", "/"), ("s", ">"), ("m", "a"), ("</", "s>")]


def backend(kind: str) -> Backend:
    vocab = {token: index for index, token in enumerate(VOCAB)}
    made = {
        "unigram": lambda: Backend(models.Unigram([(token, 0.0 if token in SPECIAL else -5.0) for token in VOCAB], unk_id=0)),
        "bpe": lambda: Backend(models.BPE(vocab, PAIRS, unk_token="<unk>")),
        "ignoring merges": lambda: Backend(models.BPE(vocab, PAIRS[:3], unk_token="<unk>", ignore_merges=True)),
        "wordpiece": lambda: Backend(models.WordPiece(vocab, unk_token="<unk>")),
        "wordlevel": lambda: Backend(models.WordLevel(vocab, unk_token="<unk>")),
    }[kind]()
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_tokens([AddedToken("<also>", special=False, normalized=False)])
    made.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return made


KINDS = ["unigram", "bpe", "ignoring merges", "wordpiece", "wordlevel"]


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.lists(st.sampled_from([*CHARACTERS, "＜ｍａｓｋ＞", "＜／ｓ＞", "<also>", "x"]), max_size=8).map("".join))
def test_typed_special_tokens_stay_text(kind, text):
    made = backend(kind)
    ours = Tokenizer(made.to_str())
    ids = ours.encode(text)
    assert not {1, 2, 3} & set(ids)
    assert ours.encode_batch([text, text]) == [ids, ids]
    for token in SPECIAL[1:]:
        assert ours.decode([ours.token_id(token)], skip_special=False).strip() == token
        assert ours.encode_with_special(token) == [ours.token_id(token)]
    normal = made.normalizer.normalize_str(text)
    if not any(token in normal for token in SPECIAL):
        assert ids == made.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_they_would_not(kind):
    made = backend(kind)
    made.encode_special_tokens = True
    assert made.encode("＜／ｓ＞", add_special_tokens=False).ids == [1]


def test_a_vocabulary_that_no_text_leads_into_is_left_alone(bpe):
    assert without_special(bpe._spec) is None
    assert bpe._plain is bpe._backend
    spec = json.loads(bpe._json)
    spec["model"]["ignore_merges"] = True
    assert without_special(spec) is not None
