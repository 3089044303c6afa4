"""Encoding, decoding, files: every kind, and the same ids whoever encodes."""

from __future__ import annotations

import json
import pickle
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from wordmill.core.errors import ModelError, UsageError
from wordmill.tokenizer import Tokenizer
from wordmill.tokenizer import tokenizer as module
from wordmill.tokenizer.config import KINDS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|no special|>", "[CLS]", "<|im_", "|>"]
WORDS = [
    *(" the", "mill", "words", "  ", "\n", "\n    ", "\r\n", "\t", "1984", "'s", "'S", "'ſ", "def ", "____", "...."),
    *("语言模型", "，", "カタ", "ーな", "한국", "пример", "Ω", "😀", "👩‍👩‍👧", "e\u0301", "ﬁ", "Ⅷ", "٣٤"),
    *("\u00a0", "\u3000", "\x00", "\x1c", "\u0085", "\u2028", "\ufffd"),
]
TEXT = st.lists(st.sampled_from(WORDS + SPECIAL) | st.text(max_size=8), max_size=20).map("".join)
LOSSLESS = ("bpe", "unigram", "byte")


@given(TEXT)
@settings(max_examples=300)
def test_tiktoken_gives_the_ids_of_tokenizers(bpe, text):
    assert bpe._quick is not None
    plain = module._valid(text)
    assert bpe.encode(text) == bpe._backend.encode(plain, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["byte", "char"])
@given(text=TEXT)
def test_the_table_gives_the_ids_of_tokenizers(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    assert tokenizer._quick is not None
    assert tokenizer.encode(text) == tokenizer._backend.encode(module._valid(text), add_special_tokens=False).ids


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=TEXT)
def test_text_comes_back_exactly(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_char_comes_back_where_all_characters_are_known(tokenizers):
    tokenizer = tokenizers["char"]
    assert tokenizer.decode(tokenizer.encode("语言 models, 1984\n")) == "语言 models, 1984\n"
    assert tokenizer.encode("a龘b")[1] == tokenizer.unk_id
    assert tokenizer.token_bytes(tokenizer.encode("语")[0]) == "语".encode()


def test_wordpiece_writes_words(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    assert tokenizer.decode(tokenizer.encode("The mill grinds words")) == "The mill grinds words"
    assert tokenizer.encode("龘") == [tokenizer.unk_id]
    with pytest.raises(UsageError, match="don't stand for bytes"):
        tokenizer.token_bytes(20)


def test_lone_surrogates_become_replacement_characters(tokenizers):
    for kind in LOSSLESS:
        assert tokenizers[kind].decode(tokenizers[kind].encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_the_same_ids(tokenizers, kind, tmp_path):
    auto = pytest.importorskip("transformers").AutoTokenizer
    tokenizer = tokenizers[kind]
    opened = auto.from_pretrained(tokenizer.save(tmp_path))
    for text in ("The mill grinds 1984 words.", "用Python写 code：\n    return x\n", " café 😀  ", "doesn't"):
        ids = tokenizer.encode(text)
        assert opened(text, add_special_tokens=False).input_ids == ids
        framed = tokenizer.encode(text, bos=True, eos=kind == "wordpiece")
        assert opened(text).input_ids == framed
        assert opened.decode(ids) == tokenizer.decode(ids, skip_special=False)
        assert opened.decode(framed, skip_special_tokens=True) == tokenizer.decode(framed)
    assert (opened.bos_token_id or opened.cls_token_id or 0) == tokenizer.bos_id
    assert (opened.eos_token_id if kind != "wordpiece" else opened.sep_token_id) == tokenizer.eos_id
    assert opened.pad_token_id == tokenizer.pad_id
    assert len(opened) == tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first(tokenizers, kind):
    tokenizer = tokenizers[kind]
    expected = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    if kind == "wordpiece":
        expected = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert list(tokenizer.special_tokens)[: len(expected)] == expected
    assert list(tokenizer.special_tokens.values()) == list(range(len(tokenizer.special_tokens)))
    if kind != "wordpiece":
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 0, 1)
    else:
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (2, 3, 0, 1, 4)
    assert tokenizer.kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(tokenizers, kind, tmp_path):
    tokenizer = tokenizers[kind]
    loaded = Tokenizer.load(tokenizer.save(tmp_path))
    for again in (loaded, Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.hash == tokenizer.hash
        assert again.vocab_size == len(again) == tokenizer.vocab_size
        assert again.encode("The mill, 磨坊") == tokenizer.encode("The mill, 磨坊")


def test_the_hash_covers_vocabulary_and_roles(bpe, tokenizers):
    assert bpe.hash != tokenizers["unigram"].hash
    assert Tokenizer(bpe._json, {**bpe.settings, "pad_token": "<|endoftext|>"}).hash != bpe.hash


def test_no_token_mixes_scripts_or_holds_two_digits(bpe):
    known = {"LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "DEVANAGARI", "ARABIC"}
    for index in range(4, bpe.vocab_size):
        text = bpe.token_bytes(index).decode("utf-8", "ignore")
        assert len({unicodedata.name(char, "?").split()[0] for char in text} & known) < 2, text
        assert not (len(text) > 1 and any(unicodedata.category(char)[0] == "N" for char in text)), text


def test_code_is_cut_at_indentation(bpe):
    code = "def grind(words, size=16):\n    for word in words:\n        if len(word) > size:"
    tokens = [bpe.token_text(index) for index in bpe.encode(code)]
    assert "   " in tokens
    assert "       " in tokens
    assert "):\n" in tokens


@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_single_texts_in_any_number_of_threads(tokenizers, kind):
    tokenizer = tokenizers[kind]
    texts = ["The mill", "", "磨坊\n", "x" * 50] * 20
    single = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == tokenizer.encode_batch(texts, threads=1) == tokenizer.encode_batch(texts, threads=3) == single
    assert tokenizer.encode_batch([]) == []
    assert all(ids.dtype == np.uint32 for ids in tokenizer.encode_arrays(texts))


@given(st.lists(st.sampled_from([*WORDS, "word", "语。", "a, b"]), max_size=40).map("".join))
def test_long_texts_are_cut_where_nothing_changes(bpe, text):
    whole = bpe.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONG_TEXT", 5)
        assert bpe.encode(text) == whole


def test_what_tiktoken_gives_up_on_is_encoded_all_the_same(bpe):
    text = "a" + " " * 1_000_000 + "b"
    assert bpe._quick(text) is None
    assert bpe.decode(bpe.encode(text)) == text


def test_what_is_asked_for_and_absent_is_an_error(bpe):
    bare = Tokenizer(bpe._json.replace('"special":true', '"special":false'), {"pad_token": "<|pad|>"})
    with pytest.raises(ModelError, match="no eos token"):
        bare.encode("x", eos=True)
    with pytest.raises(UsageError, match="no token 99999"):
        bpe.token_bytes(99999)


def test_missing_and_broken_files(tmp_path, bpe):
    with pytest.raises(ModelError, match="no tokenizer here: looked for tokenizer.json, vocab.txt, vocab.json with merges.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ModelError, match="(here|no such folder)"):
        Tokenizer.load(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="not a tokenizer.json"):
        Tokenizer.load(tmp_path)
    bpe.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_from_elsewhere(bpe, tmp_path):
    """Truncation is switched off, roles are read from either file, and text tokens of its own keep it off the fast path."""
    backend = Backend.from_str(bpe._json)
    backend.enable_truncation(4)
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": None, "pad_token": "<|pad|>"}), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 3, 1)
    assert tokenizer._quick is None
    assert len(tokenizer.encode("The mill grinds words and more")) > 4
    assert tokenizer.encode("<think>") == [bpe.vocab_size]
    assert tokenizer.chat_template == "{{ messages }}"


def test_a_folder_that_names_no_tokens_has_those_in_common_use(tokenizers, tmp_path):
    """bert-base-uncased says no more than this in its tokenizer_config.json."""
    tokenizers["wordpiece"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}', encoding="utf-8")
    bare = Tokenizer.load(tmp_path)
    assert (bare.pad_id, bare.unk_id, bare.cls_id, bare.sep_id, bare.mask_id, bare.bos_id, bare.eos_id) == (0, 1, 2, 3, 4, 2, 3)


def test_chat_templates_are_kept_as_they_are(bpe, tmp_path):
    auto = pytest.importorskip("transformers").AutoTokenizer
    default, tools = "{{ 'ü' }}\r\n{% for m in messages %}\t{{ m.content }}\n{% endfor %}", "{{ tools }}"
    listed = [{"name": "default", "template": default}, {"name": "tools", "template": tools}]
    for template in (default, listed):
        folder = Tokenizer(bpe._json, {**bpe.settings, "chat_template": template}).save(tmp_path / "config")
        again = Tokenizer.load(folder)
        assert again.settings["chat_template"] == template
        assert again.chat_template == default
        assert auto.from_pretrained(folder).get_chat_template() == default
    # Files go before what tokenizer_config.json says, as they do in `transformers`.
    (folder / "chat_template.jinja").write_bytes(default[::-1].encode())
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_bytes(tools.encode())
    again = Tokenizer.load(folder)
    assert again.chat_template == default[::-1]
    copy = pickle.loads(pickle.dumps(again)).save(tmp_path / "files")
    for name in ("chat_template.jinja", "additional_chat_templates/tools.jinja"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    # And a tokenizer without them leaves none of an earlier one.
    bpe.save(copy)
    assert Tokenizer.load(copy).chat_template is None
    assert list(copy.rglob("*.jinja")) == []


def test_gpt2_files_take_the_fast_path(bpe):
    spec = json.loads(bpe._json)
    spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = Tokenizer(json.dumps(spec))
    assert tokenizer._quick is not None
    assert tokenizer.bos_id == 0  # a bare file: by its name
    text = "It's 1984:  the\n\n   mill's  磨坊 "
    assert tokenizer.encode(text) == tokenizer._backend.encode(text, add_special_tokens=False).ids


def test_merges_that_tiktoken_would_read_differently_keep_it_off(bpe):
    spec = json.loads(bpe._json)
    spec["model"]["merges"].pop(0)  # a token that no merge makes any more
    assert Tokenizer(json.dumps(spec))._quick is None
