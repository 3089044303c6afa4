"""SentencePiece models: the ids of `sentencepiece` itself, and of `transformers` wherever that gives them too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wordmill.core.errors import ModelError
from wordmill.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
ROLES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
TYPED = [
    "</s>", "x <mask> y", "<extra_id_3>", "<s>", "a</s>b", "<pad>", "<start_of_turn>user", "<bos>", "en_XX", "to zh_CN", "<unk>",
    "＜ｍａｓｋ＞", "＜／ｓ＞", "<0x0A>",
]  # fmt: skip


def theirs(folder: Path, name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name).from_pretrained(folder)


def spm_ids(folder: Path, texts: list[str], offset: int = 0) -> list[list[int]]:
    """What SentencePiece itself gives; in fairseq's vocabularies ids are one higher, and the unknown piece is 3."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))
    return [[3 if offset and index == 0 else index + offset for index in model.encode(text)] for text in texts]


def readable(texts: list[str]) -> list[str]:
    # SentencePiece ends a text at U+0000, and `tokenizers` doesn't; both skip or keep control characters by rules of their own.
    return [text for text in texts if "\x00" not in text]


def check_equal(ours: Tokenizer, other: Any, texts: list[str]) -> None:
    ids = ours.encode_batch(texts)
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
    again = Tokenizer.load(ours.save(folder))
    assert again.hash == ours.hash
    assert again.encode_batch(texts) == ours.encode_batch(texts)
    check_equal(again, theirs(folder, "AutoTokenizer"), texts)


def check_typed(ours: Tokenizer) -> None:
    special = set(ours.special_tokens.values()) - {ours.unk_id}
    assert special
    for text in TYPED:
        assert not special & set(ours.encode(text)), text


@pytest.mark.parametrize(
    ("files", "name"),
    [("t5", "T5Tokenizer"), ("fairseq", "XLMRobertaTokenizer"), ("fairseq-plain", "MBartTokenizer"), ("llama", "LlamaTokenizer"),
     ("gemma", "GemmaTokenizer")],
)  # fmt: skip
def test_the_ids_of_transformers(languages, files, name, tmp_path):
    folder = languages.folder(files, name)
    ours = Tokenizer.load(folder)
    texts = readable(languages.texts)
    check_equal(ours, theirs(folder, name), texts)
    check_saved(ours, tmp_path, texts)
    check_typed(ours)


@pytest.mark.parametrize(
    ("files", "name", "offset"),
    [("t5", "T5Tokenizer", 0), ("fairseq", "XLMRobertaTokenizer", 1), ("fairseq", "MBartTokenizer", 1), ("fairseq", "MBart50Tokenizer", 1),
     ("llama", "LlamaTokenizer", 0), ("gemma", "GemmaTokenizer", 0), ("any", None, 0), ("any-bpe", None, 0)],
)  # fmt: skip
def test_the_ids_of_sentencepiece(languages, files, name, offset, tmp_path):
    # Llama's `legacy` files put a space before a text that begins with one, as SentencePiece does; see below for the others.
    folder = languages.folder(files, name, **({"legacy": True} if name == "LlamaTokenizer" else {}))
    ours = Tokenizer.load(folder)
    texts = readable(languages.texts)
    ids = ours.encode_batch(texts)
    assert ids == spm_ids(folder, texts, offset)
    check_typed(ours)
    check_saved(ours, tmp_path, texts)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))
    for text, each in zip(texts, ids):
        if ours.unk_id not in each and text.strip():
            assert ours.decode(each) == processor.decode([index - offset for index in each])


def test_where_transformers_leaves_the_model(languages):
    """As families.py says: with the text as SentencePiece normalises it, or without spaces at its ends, the ids agree."""
    texts = readable(languages.texts)
    folder = languages.folder("fairseq", "MBartTokenizer")
    ours, other = Tokenizer.load(folder), theirs(folder, "MBartTokenizer")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    assert ours.encode_batch(texts) == other([processor.normalize(text) for text in texts], add_special_tokens=False)["input_ids"]
    assert ours.wrap([7], [8]) == ([7, 8, ours.eos_id, ours.token_id("en_XX")], [0, 0, 0, 0])
    assert other("x")["input_ids"][-2:] == [ours.eos_id, ours.token_id("en_XX")]

    folder = languages.folder("fairseq", "MBart50Tokenizer", src_lang="ro_RO")
    ours, other = Tokenizer.load(folder), theirs(folder, "MBart50Tokenizer")
    stripped = [text.strip().strip("\u200b") for text in texts]
    check_equal(ours, other, [text for text in stripped if text])

    folder = languages.folder("llama", "LlamaTokenizer", legacy=True)
    legacy, other = Tokenizer.load(folder), theirs(folder, "LlamaTokenizer")
    check_equal(legacy, other, [text for text in texts if text.strip() and not text.startswith(" ")])
    newer = Tokenizer.load(languages.folder("llama", "LlamaTokenizer", legacy=False))
    assert newer.encode(" mill") == legacy.encode("mill") == legacy.encode(" mill")[-len(newer.encode("mill")) :]


def test_llama_with_its_flags(languages, tmp_path):
    folder = languages.folder("llama", "LlamaTokenizer", add_bos_token=True, add_eos_token=False, pad_token=None, legacy=False)
    ours, other = Tokenizer.load(folder), theirs(folder, "LlamaTokenizer")
    texts = readable(languages.texts)
    check_equal(ours, other, texts)
    check_saved(ours, tmp_path, texts)
    assert ours.wrap(ours.encode("a")).ids[0] == ours.bos_id == 1
    # A character that no piece has is written as its bytes, and comes back.
    assert ours.decode(ours.encode("𓀀 mill")) == "𓀀 mill"
    assert ours.unk_id not in ours.encode("𓀀")
    (folder / "config.json").write_text('{"model_type": "mistral"}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": true}', encoding="utf-8")
    assert Tokenizer.load(folder).hash == ours.hash


def test_sentinels(own):
    ours = Tokenizer.load(own.folder("t5", "T5Tokenizer"))
    assert len(ours.sentinel_ids) == 100
    assert ours.sentinel_ids[:2] == (ours.token_id("<extra_id_0>"), ours.token_id("<extra_id_1>")) == (len(ours) - 1, len(ours) - 2)
    other = theirs(own.folder("t5", "T5Tokenizer"), "T5Tokenizer")
    text = "The <extra_id_0> stands by <extra_id_1>."
    assert ours.encode_with_special(text) == other(text, add_special_tokens=False)["input_ids"]
    fewer = Tokenizer.load(own.folder("t5", "T5Tokenizer", extra_ids=5))
    assert len(fewer.sentinel_ids) == 5
    assert Tokenizer.load(own.folder("fairseq", "XLMRobertaTokenizer")).sentinel_ids == ()


def test_a_model_file_by_its_name(own):
    folder = own.folder("any")
    ours = Tokenizer.load(folder / "any.model")
    assert ours.hash == Tokenizer.load(folder).hash
    assert ours.encode("a<sep>b").count(ours.token_id("<sep>")) == 1  # the user's own symbol is no special token
    (folder / "other.model").write_bytes((folder / "any.model").read_bytes())
    with pytest.raises(ModelError, match=r"several SentencePiece models: any.model, other.model"):
        Tokenizer.load(folder)
    assert Tokenizer.load(folder / "other.model").hash == ours.hash


def test_settings_of_the_folder_are_kept(own, tmp_path):
    """Whatever else tokenizer_config.json says stays there."""
    settings = {"model_max_length": 512, "padding_side": "left", "pad_token": "<pad>"}
    folder = own.folder("t5", "T5Tokenizer", **settings)
    end = {"content": "</s>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": end}), encoding="utf-8")
    Tokenizer.load(folder).save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    # Other tools take a token that is written as an object only where the object says what it is.
    assert end.items() <= saved["eos_token"].items()
    assert saved["eos_token"]["__type"] == "AddedToken"
    assert settings.items() <= saved.items()
    assert saved["extra_special_tokens"][0] == "<extra_id_0>"
    assert theirs(tmp_path, "AutoTokenizer").model_max_length == 512
